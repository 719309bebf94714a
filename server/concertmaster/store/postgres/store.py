"""The journal on Postgres, shared by processes on any number of machines.

Its connections belong to threads, as those to SQLite do, so that it works under either back
end of anyio and a cancelled caller never leaves a connection in the middle of something.
"""

import logging
import secrets
import time
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence, Set
from contextlib import asynccontextmanager, closing
from functools import partial
from itertools import groupby
from typing import Any, LiteralString, cast

import anyio
import psycopg
from anyio import to_thread
from psycopg import errors

from concertmaster.engine.events import SCHEMA_VERSION, CallFinished, Event, SubtaskFinished
from concertmaster.errors import (
    BusyRunError,
    ConcertmasterError,
    LostRunError,
    ReservationError,
    StoreError,
    UnknownRunError,
    UsedKeyError,
)
from concertmaster.store.codec import Write, as_kept, events_of, needed, outlined, standings
from concertmaster.store.journal import (
    ANY_RUN,
    MOST_OFFERING,
    ROUNDING_USD,
    Outline,
    PrincipalUsage,
    Reservation,
    RunRow,
    Standing,
    StoredRun,
)
from concertmaster.store.postgres import queries as sql
from concertmaster.store.postgres.connection import (
    WRITE_SECONDS,
    Address,
    Connection,
    Link,
    LockedError,
)
from concertmaster.store.writer import GroupCommit

log = logging.getLogger(__name__)

CHANNEL: LiteralString = "concertmaster"
"""On which processes tell each other of runs that have changed, by id."""

LEASE_SECONDS = 5
"""How long a process that is not heard of counts as alive."""


class PostgresTables:
    """The tables, over one connection for the thread that writes and one for that which reads."""

    def __init__(self, writing: Link, reading: Link, *, works: bool) -> None:
        self.me = secrets.token_hex(8)
        """The id of this process."""
        self.writer: int | None = None
        """The number that the server has for the connection that writes."""
        self.known = False
        """Whether other processes have to hear that this one is alive."""
        self._works = works
        self._writing = writing
        self._reading = reading

    def come(self, connection: Connection) -> None:
        """Let others see that this process is alive."""
        connection.execute(sql.COME, (self.me, self._works, LEASE_SECONDS))
        self.known = True

    def beat(self, connection: Connection) -> None:
        """Let others see that this process is still alive; one that has left stays away."""
        connection.execute(sql.BEAT, (LEASE_SECONDS, self.me))

    def commit(self, writes: Sequence[Write]) -> Sequence[ConcertmasterError | None]:
        """Commit the writes together and return, for each, why it was left out, if it was."""
        try:
            return self._writing.run(partial(self._commit, writes))
        except LockedError:
            if len({write.run_id for write in writes}) == 1:
                raise
        return self._commit_apart(writes)

    def _commit_apart(self, writes: Sequence[Write]) -> list[ConcertmasterError | None]:
        """Commit the writes to each run by themselves, so that no run waits for a locked one."""
        reasons: dict[int, ConcertmasterError | None] = {}
        failure: StoreError | None = None
        for run_id in dict.fromkeys(write.run_id for write in writes):
            places = [place for place, write in enumerate(writes) if write.run_id == run_id]
            own = [writes[place] for place in places]
            try:
                if failure is not None:
                    raise failure
                # Some may have been committed by the attempt to commit all of them.
                done = self._writing.run(lambda link, _, own=own: self._commit(own, link, True))
            except StoreError as exc:
                if not isinstance(exc, LockedError):
                    failure = exc
                done = [StoreError(str(exc)) for _ in own]
            reasons |= dict(zip(places, done, strict=True))
        return [reasons[place] for place in range(len(writes))]

    def _commit(
        self, writes: Sequence[Write], connection: Connection, again: bool
    ) -> list[ConcertmasterError | None]:
        self.writer = connection.info.backend_pid
        reasons: list[ConcertmasterError | None] = []
        for owns, group in groupby(writes, key=lambda write: write.owns):
            some = list(group)
            done = self._own(connection, some) if owns else self._append(connection, some)
            reasons += [
                None if added else self._refusal(connection, write, again=again)
                for write, added in zip(some, done, strict=True)
            ]
        return reasons

    def _append(self, connection: Connection, writes: Sequence[Write]) -> list[bool]:
        columns: dict[str, list[Any]] = {
            "run_id": [write.run_id for write in writes],
            "epoch": [write.epoch for write in writes],
            "name": [write.event.name for write in writes],
            "kind": [write.event.kind for write in writes],
            "at": [write.event.at for write in writes],
            "data": [write.data for write in writes],
            "light": [_light(write.event) for write in writes],
            "usd": [write.usd for write in writes],
            "fingerprint": [_fingerprint(write.event) for write in writes],
        }
        parameters = (
            columns | _text_columns(writes) | {"version": SCHEMA_VERSION, "channel": CHANNEL}
        )
        statement = sql.APPEND_WITH_TEXTS if parameters["digests"] else sql.APPEND
        added = {row[:2]: row[2] for row in connection.execute(statement, parameters)}
        return [_taken(added, write) for write in writes]

    def _own(self, connection: Connection, writes: Sequence[Write]) -> list[bool]:
        self.come(connection)
        return [self._begin(connection, write) for write in writes]

    def _begin(self, connection: Connection, write: Write) -> bool:
        parameters: dict[str, object] = {
            "run_id": write.run_id,
            "epoch": write.epoch,
            "name": write.event.name,
            "kind": write.event.kind,
            "at": write.event.at,
            "data": write.data,
            "version": SCHEMA_VERSION,
            "me": self.me,
            "owner": None if write.queued else self.me,
            "most": write.most,
            "key": write.key,
            "principal": write.principal,
            "budget_usd": write.budget_usd,
            "channel": CHANNEL,
        }
        if write.reservation is not None:
            parameters |= self._reserving(write, write.reservation)
        statement = _claim(write)
        statement += sql.FIRST_EVENT_WITH_TEXTS if write.texts else sql.FIRST_EVENT
        if write.most is not None:
            statement = sql.LOCK + ";" + statement
        if write.reservation is not None:
            statement = sql.HOLD_PRINCIPAL + ";" + statement
        if write.takes_over:
            statement = sql.WAIT_BRIEFLY + ";" + statement
        try:
            added = _together(connection, statement, parameters | _text_columns([write]))
        except errors.LockNotAvailable:
            if write.begins:
                raise
            return False
        return len(added) == 1

    def _reserving(self, write: Write, reservation: Reservation) -> dict[str, object]:
        return {
            "reserving": reservation.principal,
            "reserve_usd": reservation.budget_usd,
            "since": reservation.since,
            "most_runs": reservation.most_runs,
            "most_usd": reservation.most_usd,
            "rounding": ROUNDING_USD,
            "without": "" if write.begins else write.run_id,
            "me": self.me,
        }

    def _refusal(
        self, connection: Connection, write: Write, *, again: bool
    ) -> ConcertmasterError | None:
        """Return why a write was left out; nothing, if the attempt before had committed it."""
        reason = _refusal(connection, write, again=again)
        if write.reservation is None or not isinstance(reason, LostRunError | UnknownRunError):
            return reason
        parameters = self._reserving(write, write.reservation)
        used = _usage(connection.execute(sql.USAGE, parameters).fetchall())
        fits = write.reservation.fits(used)
        return reason if fits else ReservationError(write.reservation.principal)

    def let_go(self, run_id: str, epoch: int) -> None:
        """Own a run no more that is still in this epoch; for the writing thread."""
        parameters = {"run_id": run_id, "epoch": epoch, "me": self.me, "channel": CHANNEL}
        statements = sql.WAIT_BRIEFLY + ";" + sql.LET_GO
        self._writing.run(lambda connection, _: _together(connection, statements, parameters))

    def delete(self, run_ids: Sequence[str]) -> None:
        """Delete runs and the texts that no other refers to; for the writing thread."""
        self._writing.run(lambda connection, again: self._delete(connection, run_ids, again))

    def _delete(self, connection: Connection, run_ids: Sequence[str], again: bool) -> None:
        ids = list(dict.fromkeys(run_ids))
        statements = ";".join((sql.HOLD_TEXTS, sql.HOLD_RUNS, sql.DELETE))
        found = _together(connection, statements, {"run_ids": ids, "again": again})
        busy = dict(cast("list[tuple[str, bool]]", found))
        for run_id in ids:
            if run_id not in busy and not again:
                raise UnknownRunError(run_id)
            if busy.get(run_id):
                raise BusyRunError(run_id)

    def row(self, run_id: str) -> RunRow:
        """Return what is known of a run, or raise UnknownRunError."""
        rows = self._rows(sql.ROW, {"run_id": run_id})
        if not rows:
            raise UnknownRunError(run_id)
        return rows[0]

    def recent(self, limit: int, *, principal: str | None) -> Sequence[RunRow]:
        """Return the latest runs, newest first: all, or those of one principal."""
        return self._rows(sql.RECENT, {"limit": limit, "principal": principal})

    def usage_of(self, principal: str, *, since: float, without: str) -> PrincipalUsage:
        """Return what the runs of a principal use, `without` one of them."""
        parameters = {"reserving": principal, "since": since, "without": without, "me": self.me}
        return _usage(self._read(sql.USAGE, parameters))

    def unfinished(self) -> Sequence[RunRow]:
        """Return the runs that have not ended, oldest first."""
        return self._rows(sql.UNFINISHED, {})

    def _rows(self, query: LiteralString, parameters: Mapping[str, object]) -> list[RunRow]:
        return [
            RunRow(
                run_id=run_id,
                created_at=created_at,
                epoch=epoch,
                alive=alive,
                mine=mine,
                queued=queued,
                attended=attended,
                principal=principal,
                last=last,
            )
            for (
                run_id,
                created_at,
                epoch,
                alive,
                mine,
                queued,
                attended,
                principal,
                last,
            ) in self._read(query, {**parameters, "me": self.me})
        ]

    def least_load(self) -> int | None:
        """Return how many runs the least busy of the other processes has that take runs up."""
        ((load,),) = self._read(sql.LEAST_LOAD, (self.me,))
        return load

    def offering(self, fingerprint: str, *, principal: str, since: float) -> Sequence[str]:
        """Return the runs of a principal that have had such a result since a time."""
        wanted = (fingerprint, since, principal, MOST_OFFERING)
        return [run_id for (run_id,) in self._read(sql.OFFERING, wanted)]

    def standing(self, run_ids: Collection[str]) -> Mapping[str, Standing]:
        """Return how those of the runs stand that there are."""
        rows = self._read(sql.STANDING, (list(run_ids),))
        return standings(cast("list[tuple[str, int, int | None, str]]", rows), self._texts)

    def run_with(self, key: str) -> str | None:
        """Return the id of the run that has an idempotency key, if there is one."""
        found = self._read(sql.WITH_KEY, (key,))
        return found[0][0] if found else None

    def events(self, run_id: str) -> Sequence[Event]:
        """Return the events of a run in order, or raise UnknownRunError."""
        found = cast("list[tuple[int, str]]", self._read(sql.EVENTS, (run_id,)))
        return events_of(run_id, found, self._texts, check=self.row)

    def outlines(self, run_ids: Collection[str]) -> Mapping[str, Outline]:
        """Return the events of each of the runs in order, without what was said in them."""
        found = self._read(sql.OUTLINES, (list(run_ids),))
        return outlined(run_ids, cast("list[tuple[str, int, str]]", found), self._texts)

    def text(self, digest: str) -> str:
        """Return the text with this digest."""
        return needed(digest, self._texts)

    def _texts(self, digests: Collection[str]) -> Mapping[str, str]:
        """Return by digest those of the texts that there are."""
        found = self._read(sql.TEXTS, (list(digests),))
        return {digest: bytes(text).decode() for digest, text in found}

    def stock(self) -> Sequence[StoredRun]:
        """Return what is kept of each run, newest first."""
        return [
            StoredRun(run_id=run_id, created_at=created_at, size=int(size), busy=busy)
            for run_id, created_at, size, busy in self._read(sql.STOCK, ())
        ]

    def _read(
        self, query: LiteralString, parameters: Mapping[str, object] | Sequence[object]
    ) -> list[tuple[Any, ...]]:
        return self._reading.run(
            lambda connection, _: connection.execute(query, parameters).fetchall()
        )

    def close(self) -> None:
        """Let others see that the runs begun here are not alive any more."""
        if self.known:
            try:
                self._writing.run(lambda connection, _: self._leave(connection))
            except StoreError as exc:
                log.warning("left without a word: %s", exc)
        self._writing.close()
        self._reading.close()

    def _leave(self, connection: Connection) -> None:
        connection.execute(sql.LEAVE, {"me": self.me, "channel": CHANNEL})


def _together(
    connection: Connection, statements: LiteralString, parameters: Mapping[str, object]
) -> list[tuple[Any, ...]]:
    """Run statements as one transaction, sent in one message; return the rows of the last."""
    with psycopg.ClientCursor[tuple[Any, ...]](connection) as cursor:
        cursor.execute(statements, parameters)
        while cursor.nextset():
            pass
        return cursor.fetchall()


def _text_columns(writes: Sequence[Write]) -> dict[str, list[Any]]:
    """Return the texts that writes refer to, and which refers to which, by its place."""
    texts: dict[str, str] = {}
    refers: list[tuple[int, str]] = []
    for place, write in enumerate(writes, start=1):
        texts.update(write.texts)
        refers += [(place, digest) for digest in write.texts]
    return {
        "digests": list(texts),
        "texts": [text.encode() for text in texts.values()],
        "places": [place for place, _ in refers],
        "refers": [digest for _, digest in refers],
    }


def _light(event: Event) -> str | None:
    """Return an event without what was said in it, if that makes a difference."""
    if not isinstance(event, CallFinished):
        return None
    silent = event.reply.model_copy(update={"text": "", "tool_calls": ()})
    return as_kept(event.model_copy(update={"reply": silent}))[0]


def _fingerprint(event: Event) -> str | None:
    """Return that of the work whose result the event has for others, if it has."""
    return (event.result.fingerprint or None) if isinstance(event, SubtaskFinished) else None


def _claim(write: Write) -> LiteralString:
    if write.begins:
        return sql.BEGIN if write.reservation is None else sql.BEGIN_RESERVED
    return sql.TAKE_OVER if write.reservation is None else sql.TAKE_OVER_RESERVED


def _usage(rows: Sequence[tuple[Any, ...]]) -> PrincipalUsage:
    ((runs, reserved, spent, spent_before),) = rows
    return PrincipalUsage(
        runs=runs, reserved_usd=reserved, spent_usd=spent, spent_before_usd=spent_before
    )


def _taken(added: dict[Any, Any], write: Write) -> bool:
    """Tell whether a write is what was added under its name; of two that could be, the first was.

    `added` has the epochs by run and name.
    """
    step = (write.run_id, write.event.name)
    taken = step in added and write.epoch in (None, added[step])
    if taken:
        del added[step]
    return taken


def _refusal(connection: Connection, write: Write, *, again: bool) -> ConcertmasterError | None:
    """Return why a write was left out; nothing, if the attempt before had committed it."""
    run_id, name = write.run_id, write.event.name
    parameters = {"run_id": run_id, "name": name, "epoch": write.epoch}
    found = connection.execute(sql.WHY_NOT, parameters).fetchone()
    if found is None:
        return _unknown(connection, write)
    epoch, data = found
    if again and data == write.data:
        return None
    if data is None or write.takes_over or write.epoch not in (None, epoch):
        return LostRunError(run_id)
    return StoreError(f"The journal of run {run_id} has {name!r} already.")


def _unknown(connection: Connection, write: Write) -> ConcertmasterError:
    used = connection.execute(sql.WITH_KEY, (write.key,)).fetchone()
    return UnknownRunError(write.run_id) if used is None else UsedKeyError(str(used[0]))


BEAT_SECONDS = 1
"""How often a process tells that it is alive."""

RETRY_SECONDS = 1
"""How long to wait before listening again where that has failed."""


class PostgresJournal(GroupCommit):
    """A journal in a Postgres database. See `Journal` for what its methods promise."""

    def __init__(self, address: Address, *, works: bool) -> None:
        self._address = address
        self._works = works
        writing = Link(address, patience=WRITE_SECONDS)
        self._database = PostgresTables(writing, Link(address), works=works)
        super().__init__(self._database)
        self._wanted = anyio.Event()
        """Set once somebody has to hear of others, or others of this process."""
        if works:
            self._wanted.set()
        self._news: dict[str, anyio.Event] = {}
        self._next_beat = 0.0

    async def _submit(self, write: Write, *, wait: bool = True) -> None:
        self._wanted.set()
        await super()._submit(write, wait=wait)

    async def least_load(self) -> int | None:
        """Return how many runs the least busy of the other processes has that take runs up."""
        return await self._read(self._database.least_load)

    async def changed_elsewhere(self, run_id: str = "") -> None:
        """Return when another process has changed a run since the last such call began.

        The first call returns at once, since something may have come before it.
        """
        self._wanted.set()
        news = self._news.get(run_id)
        if news is not None:
            await news.wait()
        if self._news.get(run_id) is news:
            self._news[run_id] = anyio.Event()

    async def keep_in_touch(self) -> None:
        """Hear of what others commit, and let them hear that this process is alive."""
        await self._wanted.wait()
        while True:
            try:
                await self._listen()
            except psycopg.Error as exc:
                log.warning("not in touch: %s", self._address.store_error(exc))
                log.debug("not in touch", exc_info=True)
            await anyio.sleep(RETRY_SECONDS)

    async def _listen(self) -> None:
        with closing(await to_thread.run_sync(self._connect)) as connection:
            # Nobody knows what went by before.
            self._tell(self._news.keys())
            while True:
                self._tell(await to_thread.run_sync(self._hear, connection))
                with anyio.move_on_after(BEAT_SECONDS):
                    await anyio.wait_readable(connection.fileno())

    def _connect(self) -> Connection:
        connection = self._address.connect()
        connection.execute("LISTEN " + CHANNEL)
        if self._works:
            self._database.come(connection)
        return connection

    def _hear(self, connection: Connection) -> set[str]:
        """Return what has been heard from other processes, and be heard if that is due."""
        if self._database.known and time.monotonic() >= self._next_beat:
            self._database.beat(connection)
            self._next_beat = time.monotonic() + BEAT_SECONDS
        return {
            notice.payload
            for notice in connection.notifies(timeout=0)
            # That a run is to be taken up or stopped concerns this process too.
            if notice.pid != self._database.writer or not notice.payload
        }

    def _tell(self, heard: Set[str]) -> None:
        wanted = heard | {ANY_RUN} if heard else heard
        for run_id in wanted & self._news.keys():
            self._news[run_id].set()


@asynccontextmanager
async def open_postgres(url: str, *, works: bool = False) -> AsyncGenerator[PostgresJournal]:
    """Open the journal in the database at `url`, which is not called before it is first used.

    A process that `works` goes on with runs that nobody has, and hands back its own at the
    end. When the journal is closed, everything that was submitted to it has been committed
    or has failed.

    Raises:
        SettingsError: `url` is no address of a Postgres.
    """
    journal = PostgresJournal(Address(url), works=works)
    async with journal.committing() as tasks:
        tasks.start_soon(journal.keep_in_touch)
        yield journal
