"""The file of the SQLite journal: its layout, its two connections, what its errors mean.

Every process takes one file lock around each of its commits and around opening and closing
the file. Two things need it. Processes that switch a new file to WAL at the same moment do
not wait for each other, whatever their busy timeout. And an SQLite before 3.51.3 can
corrupt a file when one connection commits at the moment another starts the WAL over; since
no process knows the version of the others, all of them take the lock.
"""

import errno
import sqlite3
import threading
from collections.abc import Container, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from concertmaster.engine.events import EVENT, SCHEMA_VERSION, Event
from concertmaster.errors import (
    ConcertmasterError,
    LostRunError,
    StoreError,
    UnknownRunError,
    UnreadableRunError,
)
from concertmaster.runs import private
from concertmaster.runs.journal import RunRow
from concertmaster.runs.owners import POLL_SECONDS, Owners

LAYOUT = 1
"""Version of the tables below."""

_TABLES = (
    "CREATE TABLE meta (schema_version INTEGER NOT NULL)",
    """CREATE TABLE runs (
        run_id TEXT PRIMARY KEY,
        created_at REAL NOT NULL,
        epoch INTEGER NOT NULL,
        owner TEXT NOT NULL
    )""",
    "CREATE INDEX runs_by_time ON runs (created_at)",
    """CREATE TABLE events (
        run_id TEXT NOT NULL,
        seq INTEGER NOT NULL,
        epoch INTEGER NOT NULL,
        name TEXT NOT NULL,
        kind TEXT NOT NULL,
        version INTEGER NOT NULL,
        at REAL NOT NULL,
        data TEXT NOT NULL,
        PRIMARY KEY (run_id, seq),
        UNIQUE (run_id, epoch, name)
    )""",
    "CREATE TABLE texts (digest TEXT PRIMARY KEY, text TEXT NOT NULL)",
)

_INSERT_EVENT = """
    INSERT INTO events (run_id, seq, epoch, name, kind, version, at, data)
    SELECT
        run_id,
        (SELECT coalesce(max(seq), 0) + 1 FROM events WHERE events.run_id = runs.run_id),
        epoch, :name, :kind, :version, :at, :data
    FROM runs
    WHERE run_id = :run_id AND epoch = coalesce(:epoch, epoch)
"""

_SELECT_EVENTS = """
    SELECT version, CASE
        WHEN :light AND kind = 'call-finished'
        THEN json_set(data, '$.reply.text', '', '$.reply.tool_calls', json('[]'))
        ELSE data
    END
    FROM events
    WHERE run_id = :run_id AND NOT (:light AND kind IN ('call-started', 'tool-called'))
    ORDER BY seq
"""

_PRINCIPAL = """(
    SELECT CASE
        WHEN json_valid(data) THEN coalesce(json_extract(data, '$.origin.principal'), '')
    END
    FROM events WHERE events.run_id = runs.run_id AND seq = 1
)"""
"""Whom a run belongs to, as its first event says; NULL where that cannot be read."""

_SELECT_RUNS = f"SELECT run_id, created_at, epoch, owner, {_PRINCIPAL} AS principal FROM runs"  # noqa: S608

_SELECT_SPENT = f"""
    SELECT coalesce(sum(json_extract(
        data, CASE kind WHEN 'call-finished' THEN '$.reply.usage.usd' ELSE '$.usage.usd' END
    )), 0.0)
    FROM runs JOIN events USING (run_id)
    WHERE kind IN ('call-finished', 'call-failed') AND at >= :since AND {_PRINCIPAL} = :principal
"""  # noqa: S608


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One event to be committed."""

    run_id: str
    event: Event
    data: str
    """The event as JSON."""
    epoch: int | None = None
    """The epoch that the run must have; None for whichever it has."""
    begins_with: Mapping[str, str] | None = None
    """For the event that a run begins with: the texts to be kept, by digest."""


class SqliteFile:
    """The file of a journal, opened when it is first needed.

    One thread at a time may write, and one may read; each has a connection of its own, so
    that reading never waits for a commit. Every method may raise StoreError.
    """

    def __init__(self, folder: Path, *, patience: float) -> None:
        self._folder = folder
        self._path = folder / "runs.db"
        self._patience = patience
        self._owners = Owners(folder / "owners")
        self._lock = private.lock(folder / "runs.lock")
        self._opening = threading.Lock()
        self._connections: tuple[sqlite3.Connection, sqlite3.Connection] | None = None

    def commit(self, writes: Sequence[Write]) -> list[ConcertmasterError | None]:
        """Commit the writes together and return, for each, why it was left out, if it was."""
        with self._explained():
            writer, _ = self._opened()
            if any(write.begins_with is not None for write in writes):
                self._owners.hold()
            with self._alone(), writer:
                writer.execute("BEGIN IMMEDIATE")
                return [self._write(writer, write) for write in writes]

    def _write(self, writer: sqlite3.Connection, write: Write) -> ConcertmasterError | None:
        event = write.event
        try:
            if write.begins_with is not None:
                self._begin(writer, write, write.begins_with)
            inserted = writer.execute(
                _INSERT_EVENT,
                {
                    "run_id": write.run_id,
                    "epoch": write.epoch,
                    "name": event.name,
                    "kind": event.kind,
                    "version": SCHEMA_VERSION,
                    "at": event.at,
                    "data": write.data,
                },
            ).rowcount
        except sqlite3.IntegrityError:
            return StoreError(f"The journal of run {write.run_id} has {event.name!r} already.")
        if inserted:
            return None
        known = writer.execute("SELECT 1 FROM runs WHERE run_id = ?", (write.run_id,)).fetchone()
        return LostRunError(write.run_id) if known else UnknownRunError(write.run_id)

    def _begin(self, writer: sqlite3.Connection, write: Write, texts: Mapping[str, str]) -> None:
        writer.execute(
            "INSERT INTO runs (run_id, created_at, epoch, owner) VALUES (?, ?, 1, ?)",
            (write.run_id, write.event.at, self._owners.me),
        )
        writer.executemany("INSERT OR IGNORE INTO texts VALUES (?, ?)", texts.items())

    def commits_of_others(self) -> int:
        """Return a number that changes when another process commits; for the writing thread."""
        with self._explained():
            writer, _ = self._opened()
            (version,) = writer.execute("PRAGMA data_version").fetchone()
            return version

    def row(self, run_id: str) -> RunRow:
        """Return what is known of a run, or raise UnknownRunError."""
        rows = self._rows(f"{_SELECT_RUNS} WHERE run_id = ?", run_id)
        if not rows:
            raise UnknownRunError(run_id)
        return rows[0]

    def recent(self, limit: int, *, principal: str | None) -> list[RunRow]:
        """Return the latest runs, newest first: all, or those of one principal."""
        latest = "ORDER BY created_at DESC, rowid DESC LIMIT ?"
        if principal is None:
            return self._rows(f"{_SELECT_RUNS} {latest}", limit)
        return self._rows(f"{_SELECT_RUNS} WHERE principal = ? {latest}", principal, limit)

    def spent(self, principal: str, *, since: float) -> float:
        """Return what the model calls of a principal's runs cost since a time, in USD."""
        with self._explained():
            _, reader = self._opened()
            (usd,) = reader.execute(
                _SELECT_SPENT, {"principal": principal, "since": since}
            ).fetchone()
            return usd

    def _rows(self, query: str, *parameters: str | int) -> list[RunRow]:
        with self._explained():
            _, reader = self._opened()
            found = reader.execute(query, parameters).fetchall()
            alive = {owner: self._owners.alive(owner) for owner in {row[3] for row in found}}
        return [
            RunRow(
                run_id=run_id,
                created_at=created_at,
                epoch=epoch,
                alive=alive[owner],
                mine=owner == self._owners.me,
                principal=principal or "",
            )
            for run_id, created_at, epoch, owner, principal in found
        ]

    def events(self, run_id: str, *, light: bool) -> list[Event]:
        """Return the events of a run in order, or raise UnknownRunError."""
        with self._explained():
            _, reader = self._opened()
            parameters = {"run_id": run_id, "light": light}
            found = reader.execute(_SELECT_EVENTS, parameters).fetchall()
        if not found:
            # Whoever asks for the events of no run is told so; a run without events is damaged.
            self.row(run_id)
        return list(_parsed(run_id, found))

    def text(self, digest: str) -> str:
        """Return the text with this digest."""
        with self._explained():
            _, reader = self._opened()
            found = reader.execute("SELECT text FROM texts WHERE digest = ?", (digest,)).fetchone()
        if found is None:
            raise StoreError(
                f"A text that a run refers to is not in the store ({digest}). "
                "Give the inputs again, in a new run."
            )
        return found[0]

    def close(self) -> None:
        """Close the file, and let others see that the runs begun here are not alive any more."""
        if self._connections is not None:
            with ExitStack() as stack:
                # Whoever closes last writes the WAL back, so nobody else should be at it; but
                # a process that keeps the lock for ever must not keep this one from ending.
                with suppress(OSError):
                    stack.enter_context(self._alone())
                for connection in self._connections:
                    connection.close()
        self._owners.release()

    def _opened(self) -> tuple[sqlite3.Connection, sqlite3.Connection]:
        """Return the writing and the reading connection."""
        with self._opening:
            if self._connections is None:
                private.make_folder(self._folder)
                with self._alone():
                    self._connections = self._open()
            return self._connections

    def _open(self) -> tuple[sqlite3.Connection, sqlite3.Connection]:
        private.make_file(self._path)
        for suffix in ("-wal", "-shm"):
            with suppress(FileNotFoundError):
                private.close_to_others(self._path.with_name(self._path.name + suffix))
        with ExitStack() as undo:
            writer = undo.enter_context(closing(self._connect()))
            self._lay_out(writer)
            reader = undo.enter_context(closing(self._connect()))
            undo.pop_all()
            return writer, reader

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(
            self._path, timeout=self._patience, isolation_level=None, check_same_thread=False
        )

    def _lay_out(self, writer: sqlite3.Connection) -> None:
        """Create the tables in a new file; leave one alone that this program does not know."""
        tables = {name for (name,) in writer.execute("SELECT name FROM sqlite_master")}
        if tables:
            self._check_layout(writer, tables)
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("PRAGMA synchronous = FULL")
        if not tables:
            with writer:
                writer.execute("BEGIN IMMEDIATE")
                for table in _TABLES:
                    writer.execute(table)
                writer.execute("INSERT INTO meta VALUES (?)", (LAYOUT,))

    def _check_layout(self, writer: sqlite3.Connection, tables: Container[str]) -> None:
        versions = "SELECT schema_version FROM meta"
        found = writer.execute(versions).fetchone() if "meta" in tables else None
        if found is None:
            raise StoreError(_NO_JOURNAL.format(file=self._path))
        if found[0] != LAYOUT:
            raise StoreError(
                f"{self._path} was written by a newer Concertmaster (layout {found[0]}; this one "
                f"knows {LAYOUT}). Install the newer one, or set CONCERTMASTER_DATA_FOLDER to "
                "another folder."
            )

    @contextmanager
    def _alone(self) -> Generator[None]:
        """Keep other processes from opening, changing and closing the file."""
        with self._lock.acquire(timeout=self._patience, poll_interval=POLL_SECONDS):
            yield

    @contextmanager
    def _explained(self) -> Generator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as exc:
            raise StoreError(explain(exc, self._path)) from exc


def _parsed(run_id: str, rows: Iterable[tuple[int, str]]) -> Generator[Event]:
    for version, data in rows:
        if version > SCHEMA_VERSION:
            problem = "it was written by a newer Concertmaster. Install that to read it."
            raise UnreadableRunError(run_id, problem)
        try:
            yield EVENT.validate_json(data)
        except ValidationError as exc:
            first = exc.errors(include_url=False, include_input=False, include_context=False)[0]
            where = "".join(f"{part}: " for part in first["loc"])
            problem = f"an event in its journal is damaged ({where}{first['msg']})."
            raise UnreadableRunError(run_id, problem) from None


_DENIED = (
    "The data folder {folder} cannot be written ({reason}). Let this user write to it and to "
    "what is in it, or set CONCERTMASTER_DATA_FOLDER to another folder."
)
_NO_FOLDER = (
    "The data folder {folder} cannot be made: there is a file of that name, or on the way to "
    "it. Move the file away, or set CONCERTMASTER_DATA_FOLDER to another folder."
)
_FULL = (
    "The disk of the data folder {folder} is full. Make room on it, or set "
    "CONCERTMASTER_DATA_FOLDER to a folder on another disk."
)
_DAMAGED = (
    "{file} is damaged ({reason}). Move it and the files beside it that begin with its name "
    "away, to begin with an empty one, or set CONCERTMASTER_DATA_FOLDER to another folder."
)
_NO_JOURNAL = (
    "{file} is no journal of Concertmaster, or a damaged one. Move it and the files beside it "
    "that begin with its name away, to begin with an empty one, or set "
    "CONCERTMASTER_DATA_FOLDER to another folder."
)
_LOCKED = (
    "Another process keeps {file} locked. Wait for it or end it, or set "
    "CONCERTMASTER_DATA_FOLDER to another folder."
)
_UNUSABLE = (
    "The data folder {folder} cannot be used ({reason}). It should be a folder on a local disk "
    "that this user can write; CONCERTMASTER_DATA_FOLDER sets another one."
)

_BY_ERRNO = {
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.EROFS: _DENIED,
    errno.EEXIST: _NO_FOLDER,
    errno.ENOTDIR: _NO_FOLDER,
    errno.ENOSPC: _FULL,
}
_BY_SQLITE_CODE = {
    sqlite3.SQLITE_PERM: _DENIED,
    sqlite3.SQLITE_READONLY: _DENIED,
    sqlite3.SQLITE_CANTOPEN: _DENIED,
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
    sqlite3.SQLITE_BUSY: _LOCKED,
}


def explain(error: sqlite3.Error | OSError, file: Path) -> str:
    """Return what is wrong with a journal's file and what to do about it, in sentences."""
    if isinstance(error, sqlite3.Error):
        # The low byte; the others say more closely what happened.
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        sentence, reason = _BY_SQLITE_CODE.get(code, _UNUSABLE), str(error)
    elif isinstance(error, TimeoutError):
        sentence, reason = _LOCKED, ""
    else:
        sentence = _BY_ERRNO.get(error.errno or 0, _UNUSABLE)
        reason = error.strerror or str(error)
    return sentence.format(folder=file.parent, file=file, reason=reason)
