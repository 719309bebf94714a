"""The journal on SQLite: one file in the data folder, shared by any number of processes."""

import json
import logging
import sqlite3
import threading
from collections.abc import AsyncGenerator, Callable, Collection, Generator, Mapping, Sequence
from contextlib import (
    AbstractContextManager,
    ExitStack,
    asynccontextmanager,
    closing,
    contextmanager,
    suppress,
)
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import TypeVar

import anyio

from concertmaster.engine.events import SCHEMA_VERSION, Event
from concertmaster.errors import (
    BusyRunError,
    ConcertmasterError,
    LostRunError,
    ReservationError,
    StoreError,
    UnknownRunError,
    UsedKeyError,
)
from concertmaster.store import locks
from concertmaster.store import private_files as private
from concertmaster.store.codec import Write, events_of, needed, outlined, standings
from concertmaster.store.journal import (
    MOST_OFFERING,
    Outline,
    PrincipalUsage,
    Reservation,
    RunRow,
    Standing,
    StoredRun,
)
from concertmaster.store.locks import network_share
from concertmaster.store.sqlite.errors import ON_NETWORK, explain
from concertmaster.store.sqlite.liveness import Owners
from concertmaster.store.sqlite.schema import (
    DELETE_RUN,
    ENDED,
    INSERT_EVENT,
    LET_GO,
    SELECT_COST,
    SELECT_OFFERING,
    SELECT_OUTLINES,
    SELECT_RESERVED,
    SELECT_ROWS,
    SELECT_SIZES,
    SELECT_SPENT,
    SELECT_STANDING,
    lay_out,
)
from concertmaster.store.sqlite_space import Reserve, empty_wal, frugal, is_no_space, shrink
from concertmaster.store.writer import GroupCommit

_KEEP = "INSERT OR IGNORE INTO texts VALUES (?, ?)"

_REFER = "INSERT OR IGNORE INTO run_texts VALUES (?, ?)"

_SELECT = """
    SELECT digest, text FROM texts WHERE digest IN (SELECT value FROM json_each(?))
"""

_DROP = "DELETE FROM texts WHERE digest NOT IN (SELECT digest FROM run_texts)"


def keep_texts(writer: sqlite3.Connection, run_id: str, texts: Mapping[str, str]) -> None:
    """Keep the texts that a run refers to, by digest."""
    writer.executemany(_KEEP, texts.items())
    writer.executemany(_REFER, [(run_id, digest) for digest in texts])


def kept_texts(reader: sqlite3.Connection, digests: Collection[str]) -> dict[str, str]:
    """Return by digest those of the texts that there are."""
    return dict(reader.execute(_SELECT, (json.dumps(list(digests)),)))


def drop_texts(writer: sqlite3.Connection) -> None:
    """Delete the texts that no run refers to any more."""
    writer.execute(_DROP)


log = logging.getLogger(__name__)

NOBODY = ""
"""The owner of runs that wait for a process with room."""

_INSERT_RUN = """
    INSERT INTO runs (run_id, created_at, epoch, owner, idempotency_key, principal, budget_usd)
    VALUES (?, ?, 1, ?, ?, ?, ?)
"""

_CLAIM = """
    UPDATE runs SET epoch = ?, owner = ?, budget_usd = coalesce(?, budget_usd) WHERE run_id = ?
"""

_SELECT_KEY = "SELECT run_id FROM runs WHERE idempotency_key = ?"

_SELECT_OWNER = f"SELECT epoch, owner, {ENDED} FROM runs WHERE run_id = ?"  # noqa: S608

_SELECT_EVENTS = "SELECT version, data FROM events WHERE run_id = ? ORDER BY seq"


class SqliteFile:
    """The file of a journal, opened when it is first needed.

    One thread at a time may write, and one may read; each has a connection of its own, so
    that reading never waits for a commit. Every method may raise StoreError.
    """

    def __init__(self, folder: Path, *, patience: float, network: bool = False) -> None:
        """Wait so many seconds for others, and refuse network shares unless `network` is true."""
        self._network = network
        self._folder = folder
        self._path = folder / "runs.db"
        self._patience = patience
        self._owners = Owners(folder / "owners")
        self._lock = locks.OpenLock(folder / "runs.lock")
        self._reserve = Reserve(folder / "runs.reserve")
        self._opening = threading.Lock()
        self._connections: tuple[sqlite3.Connection, sqlite3.Connection] | None = None
        self._identity: tuple[int, int] | None = None
        """What the file that is open is known by, whatever is at its path now."""
        self._gone: list[sqlite3.Connection] = []
        """Connections to files that are not there any more; who reads may still have one."""

    def commit(self, writes: Sequence[Write]) -> list[ConcertmasterError | None]:
        """Commit the writes together and return, for each, why it was left out, if it was."""
        with self._explained():
            writer = self._writer()
            if any(write.owns for write in writes):
                self._owners.hold()
            with self._alone(), writer:
                writer.execute("BEGIN IMMEDIATE")
                return [self._write(writer, write) for write in writes]

    def _write(self, writer: sqlite3.Connection, write: Write) -> ConcertmasterError | None:
        event = write.event
        try:
            if write.begins and (used := _run_with(writer, write.key)):
                return UsedKeyError(used)
            if (reservation := write.reservation) and not self._fits(writer, write, reservation):
                return ReservationError(reservation.principal)
            if write.begins:
                self._insert_run(writer, write)
            if write.takes_over and not self._take_over(writer, write):
                return _refusal(writer, write.run_id)
            inserted = writer.execute(
                INSERT_EVENT,
                {
                    "run_id": write.run_id,
                    "epoch": write.epoch,
                    "name": event.name,
                    "kind": event.kind,
                    "version": SCHEMA_VERSION,
                    "at": event.at,
                    "data": write.data,
                    "usd": write.usd,
                },
            ).rowcount
        except sqlite3.IntegrityError:
            return StoreError(f"The journal of run {write.run_id} has {event.name!r} already.")
        if not inserted:
            return _refusal(writer, write.run_id)
        if write.texts:
            keep_texts(writer, write.run_id, write.texts)
        return None

    def _insert_run(self, writer: sqlite3.Connection, write: Write) -> None:
        owner = NOBODY if write.queued else self._owners.me
        at, principal = write.event.at, write.principal
        row = (write.run_id, at, owner, write.key, principal, write.budget_usd)
        writer.execute(_INSERT_RUN, row)

    def _fits(self, writer: sqlite3.Connection, write: Write, reservation: Reservation) -> bool:
        without = "" if write.begins else write.run_id
        principal, since = reservation.principal, reservation.since
        return reservation.fits(self._usage(writer, principal, since=since, without=without))

    def _usage(
        self, connection: sqlite3.Connection, principal: str, *, since: float, without: str
    ) -> PrincipalUsage:
        found = connection.execute(SELECT_RESERVED, (principal, without)).fetchall()
        alive = {owner: self._owners.alive(owner) for owner in {row[0] for row in found}}
        # One that was to stop, and whose process has died, does not go on by itself.
        unfinished = [row for row in found if alive[row[0]] or not row[2]]
        (spent,) = connection.execute(SELECT_SPENT, (principal, since)).fetchone()
        (spent_before,) = connection.execute(SELECT_COST, (without,)).fetchone()
        return PrincipalUsage(
            runs=sum(owner == NOBODY or alive[owner] for owner, *_ in unfinished),
            reserved_usd=sum(reserved for _, reserved, _ in unfinished),
            spent_usd=spent,
            spent_before_usd=spent_before,
        )

    def _take_over(self, writer: sqlite3.Connection, write: Write) -> bool:
        """Let the next epoch of a run begin here, unless its owner is at work on it."""
        found = writer.execute(_SELECT_OWNER, (write.run_id,)).fetchone()
        if found is None:
            return False
        epoch, owner, ended = found
        free = ended or owner == self._owners.me or not self._owners.alive(owner)
        if not free or write.epoch != epoch + 1 or self._crowded(writer, write.most):
            return False
        owner = NOBODY if write.queued else self._owners.me
        writer.execute(_CLAIM, (write.epoch, owner, write.budget_usd, write.run_id))
        return True

    def let_go(self, run_id: str, epoch: int) -> None:
        """Own a run no more that is still in this epoch; for the writing thread."""
        with self._explained():
            writer = self._writer()
            with self._alone():
                writer.execute(LET_GO, (run_id, epoch, self._owners.me))

    def _crowded(self, writer: sqlite3.Connection, most: int | None) -> bool:
        """Tell whether so many runs are under way in living processes."""
        return most is not None and len(self._at_work(writer)) >= most

    def _at_work(self, writer: sqlite3.Connection) -> list[str]:
        """Return the living process of each run that is under way."""
        owners = [row[3] for row in writer.execute(f"{SELECT_ROWS} WHERE NOT {ENDED}")]
        return list(filter(self._owners.alive, owners))

    def delete(self, run_ids: Sequence[str]) -> None:
        """Delete runs and the texts that no other refers to; for the writing thread."""
        with self._explained():
            try:
                self._delete_together(run_ids)
            except (sqlite3.OperationalError, OSError) as exc:
                if not is_no_space(exc):
                    raise
                self._delete_one_by_one(run_ids)

    def _delete_together(self, run_ids: Sequence[str]) -> None:
        writer = self._writer()
        with self._alone():
            with writer:
                writer.execute("BEGIN IMMEDIATE")
                for run_id in run_ids:
                    self._delete(writer, run_id)
                drop_texts(writer)
            # What was deleted is to be gone from the disk. A process that reads just now
            # keeps it from that, as do the runs of others, whose commits could wait in vain
            # while a large file is written anew; then the next deletion sees to it.
            if not set(self._at_work(writer)) - {self._owners.me}:
                shrink(writer)

    def _delete_one_by_one(self, run_ids: Sequence[str]) -> None:
        """Delete runs with as little space as possible: each in a transaction of its own."""
        writer = self._writer()
        self._reserve.release()
        with self._alone():
            empty_wal(writer)
            for run_id in run_ids:
                self._check_deletable(writer, run_id)
            with frugal(writer):
                for run_id in run_ids:
                    with writer:
                        writer.execute("BEGIN IMMEDIATE")
                        self._delete(writer, run_id)
                        drop_texts(writer)
                    empty_wal(writer)
            shrink(writer)
            self._reserve.keep(beside=self._path)

    def _check_deletable(self, writer: sqlite3.Connection, run_id: str) -> None:
        found = writer.execute(_SELECT_OWNER, (run_id,)).fetchone()
        if found is None:
            raise UnknownRunError(run_id)
        _, owner, ended = found
        if not ended and (owner == NOBODY or self._owners.alive(owner)):
            raise BusyRunError(run_id)

    def _delete(self, writer: sqlite3.Connection, run_id: str) -> None:
        self._check_deletable(writer, run_id)
        for statement in DELETE_RUN:
            writer.execute(statement, (run_id,))

    def commits_of_others(self) -> int:
        """Return a number that changes when another process commits; for the writing thread."""
        with self._explained():
            writer = self._writer()
            (version,) = writer.execute("PRAGMA data_version").fetchone()
            return version

    def row(self, run_id: str) -> RunRow:
        """Return what is known of a run, or raise UnknownRunError."""
        rows = self._rows(f"{SELECT_ROWS} WHERE run_id = ?", run_id)
        if not rows:
            raise UnknownRunError(run_id)
        return rows[0]

    def recent(self, limit: int, *, principal: str | None) -> list[RunRow]:
        """Return the latest runs, newest first: all, or those of one principal."""
        latest = "ORDER BY created_at DESC, rowid DESC LIMIT ?"
        if principal is None:
            return self._rows(f"{SELECT_ROWS} {latest}", limit)
        return self._rows(f"{SELECT_ROWS} WHERE principal = ? {latest}", principal, limit)

    def usage_of(self, principal: str, *, since: float, without: str) -> PrincipalUsage:
        """Return what the runs of a principal use, `without` one of them."""
        with self._explained():
            _, reader = self._opened()
            return self._usage(reader, principal, since=since, without=without)

    def unfinished(self) -> list[RunRow]:
        """Return the runs that have not ended, oldest first."""
        return self._rows(f"{SELECT_ROWS} WHERE NOT {ENDED} ORDER BY created_at, rowid")

    def offering(self, fingerprint: str, *, principal: str, since: float) -> list[str]:
        """Return the runs of a principal that have had such a result since a time."""
        wanted = (fingerprint, since, principal, MOST_OFFERING)
        with self._explained():
            _, reader = self._opened()
            return [run_id for (run_id,) in reader.execute(SELECT_OFFERING, wanted)]

    def standing(self, run_ids: Collection[str]) -> dict[str, Standing]:
        """Return how those of the runs stand that there are."""
        with self._explained():
            _, reader = self._opened()
            found = reader.execute(SELECT_STANDING, (json.dumps(list(run_ids)),)).fetchall()
        return standings(found, self._texts)

    def run_with(self, key: str) -> str | None:
        """Return the id of the run that has an idempotency key, if there is one."""
        with self._explained():
            _, reader = self._opened()
            return _run_with(reader, key)

    def stock(self) -> list[StoredRun]:
        """Return what is kept of each run, newest first."""
        rows = self._rows(f"{SELECT_ROWS} ORDER BY created_at DESC, rowid DESC")
        busy = self._rows(f"{SELECT_ROWS} WHERE NOT {ENDED}")
        with self._explained():
            _, reader = self._opened()
            sizes = dict(reader.execute(SELECT_SIZES).fetchall())
        alive = {row.run_id for row in busy if row.alive or row.queued}
        return [
            StoredRun(
                run_id=row.run_id,
                created_at=row.created_at,
                size=sizes.get(row.run_id) or 0,
                busy=row.run_id in alive,
            )
            for row in rows
        ]

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
                queued=owner == NOBODY,
                principal=principal or "",
                last=last,
            )
            for run_id, created_at, epoch, owner, principal, last in found
        ]

    def events(self, run_id: str) -> list[Event]:
        """Return the events of a run in order, or raise UnknownRunError."""
        with self._explained():
            _, reader = self._opened()
            found = reader.execute(_SELECT_EVENTS, (run_id,)).fetchall()
        return events_of(run_id, found, self._texts, check=self.row)

    def outlines(self, run_ids: Collection[str]) -> dict[str, Outline]:
        """Return the events of each of the runs in order, without what was said in them."""
        with self._explained():
            _, reader = self._opened()
            found = reader.execute(SELECT_OUTLINES, (json.dumps(list(run_ids)),)).fetchall()
        return outlined(run_ids, found, self._texts)

    def text(self, digest: str) -> str:
        """Return the text with this digest."""
        return needed(digest, self._texts)

    def _texts(self, digests: Collection[str]) -> Mapping[str, str]:
        """Return by digest those of the texts that there are."""
        with self._explained():
            _, reader = self._opened()
            return kept_texts(reader, digests)

    def close(self) -> None:
        """Close the file, and let others see that the runs begun here are not alive any more."""
        if self._connections is not None:
            with ExitStack() as stack:
                # Whoever closes last writes the WAL back, so nobody else should be at it; but
                # a process that keeps the lock for ever must not keep this one from ending.
                with suppress(OSError):
                    stack.enter_context(self._alone())
                for connection in (*self._connections, *self._gone):
                    connection.close()
        self._lock.close()
        self._owners.release()

    @property
    def gone(self) -> bool:
        """Tell whether the file that is open is not there any more, or is another one."""
        return self._connections is not None and self._identity != _identity(self._path)

    def renew(self) -> None:
        """Have whoever uses the file next open the one that is there; for the writing thread."""
        with self._opening:
            if self._connections is not None and self.gone:
                log.warning("%s was moved away or deleted, with the runs in it", self._path)
                self._gone += self._connections
                self._connections = None
                self._lock.close()

    def _writer(self) -> sqlite3.Connection:
        self.renew()
        return self._opened()[0]

    def _opened(self) -> tuple[sqlite3.Connection, sqlite3.Connection]:
        """Return the writing and the reading connection."""
        with self._opening:
            if self._connections is None:
                if not self._network and (kind := network_share(self._folder)):
                    raise StoreError(ON_NETWORK.format(folder=self._folder, kind=kind))
                private.make_folder(self._folder)
                with self._alone():
                    self._connections = self._open_with_reserve()
                    self._identity = _identity(self._path)
            return self._connections

    def _open_with_reserve(self) -> tuple[sqlite3.Connection, sqlite3.Connection]:
        """Open the file; where the disk is too full for that, with the space of the reserve."""
        try:
            opened = self._open()
        except (sqlite3.OperationalError, OSError) as exc:
            if not is_no_space(exc) or not self._reserve.release():
                raise
            return self._open()
        self._reserve.keep(beside=self._path)
        return opened

    def _open(self) -> tuple[sqlite3.Connection, sqlite3.Connection]:
        private.make_file(self._path)
        for suffix in ("-wal", "-shm"):
            with suppress(FileNotFoundError):
                private.close_to_others(self._path.with_name(self._path.name + suffix))
        with ExitStack() as undo:
            writer = undo.enter_context(closing(self._connect()))
            lay_out(writer, self._path)
            writer.execute("PRAGMA journal_mode = WAL")
            writer.execute("PRAGMA synchronous = FULL")
            reader = undo.enter_context(closing(self._connect()))
            undo.pop_all()
            return writer, reader

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=self._patience, isolation_level=None, check_same_thread=False
        )
        # Else a damaged byte of one run keeps all from being listed.
        connection.text_factory = methodcaller("decode", "utf-8", "replace")
        return connection

    def _alone(self) -> AbstractContextManager[None]:
        """Keep other processes from opening, changing and closing the file."""
        return self._lock.held(patience=self._patience)

    @contextmanager
    def _explained(self) -> Generator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as exc:
            raise StoreError(explain(exc, self._path)) from exc


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _run_with(connection: sqlite3.Connection, key: str | None) -> str | None:
    """Return the id of the run that has an idempotency key, if there is one."""
    found = connection.execute(_SELECT_KEY, (key,)).fetchone()
    return found[0] if found else None


def _refusal(writer: sqlite3.Connection, run_id: str) -> ConcertmasterError:
    """Return why an event of a run was not taken."""
    known = writer.execute("SELECT 1 FROM runs WHERE run_id = ?", (run_id,)).fetchone()
    return LostRunError(run_id) if known else UnknownRunError(run_id)


T = TypeVar("T")

POLL_SECONDS = 0.25
"""How often to look whether another process has committed something."""

PATIENCE_SECONDS = 20
"""How long to wait for another process that has the file locked."""


class SqliteJournal(GroupCommit):
    """A journal in one SQLite file. See `Journal` for what its methods promise."""

    def __init__(
        self, data_folder: Path, *, patience: float = PATIENCE_SECONDS, network: bool = False
    ) -> None:
        self._file = SqliteFile(data_folder, patience=patience, network=network)
        super().__init__(self._file)
        self._seen_of_others: int | None = None

    async def _read(self, read: Callable[[], T]) -> T:
        if self._file.gone:
            await self._writing.run(self._file.renew)
        return await super()._read(read)

    async def least_load(self) -> int | None:
        """Return nothing: who might take runs up, a file does not tell."""
        return None

    async def changed_elsewhere(self, run_id: str = "") -> None:
        """Return when another process has committed something since the last call began.

        The first call returns at once, since something may have come before it.
        """
        del run_id  # SQLite tells that the file has changed, and no more.
        since = self._seen_of_others
        # Asked of the connection that writes, to which commits of this process are no news.
        look = partial(self._writing.run, self._file.commits_of_others)
        self._seen_of_others = now = await look()
        while now == since:
            await anyio.sleep(POLL_SECONDS)
            now = await look()


@asynccontextmanager
async def open_sqlite(
    data_folder: Path, *, patience: float = PATIENCE_SECONDS, network: bool = False
) -> AsyncGenerator[SqliteJournal]:
    """Open the journal in `data_folder`; the disk is not touched before it is first used.

    When the journal is closed, everything that was submitted to it has been committed or
    has failed. `patience` is how long to wait for a process that has the file locked. A
    folder on a network share is refused unless `network` is true.
    """
    journal = SqliteJournal(data_folder, patience=patience, network=network)
    async with journal.committing():
        yield journal
