"""The tables of the Postgres journal: what is written to them, and what is read.

Every write holds the row of its run until it is committed, and so does a take-over: what an
owner has written is there when the next one begins, and nothing of it comes after. Clocks
are compared on the server alone.
"""

import logging
import secrets
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, LiteralString, cast

from concertmaster.engine.events import SCHEMA_VERSION, CallFinished, Event
from concertmaster.errors import ConcertmasterError, LostRunError, StoreError, UnknownRunError
from concertmaster.runs.journal import RunRow
from concertmaster.runs.postgres_link import Address, Connection, Link
from concertmaster.runs.stored import Write, parsed, to_json

log = logging.getLogger(__name__)

CHANNEL: LiteralString = "concertmaster"
"""On which processes tell each other of runs that have changed, by id."""

LEASE_SECONDS = 5
"""How long a process that is not heard of counts as alive."""

_APPEND: LiteralString = """
WITH given AS (
    SELECT * FROM unnest(
        %(run_id)s::text[], %(epoch)s::int[], %(name)s::text[], %(kind)s::text[],
        %(at)s::float8[], %(data)s::text[], %(light)s::text[]
    ) WITH ORDINALITY AS given (run_id, epoch, name, kind, at, data, light, place)
), held AS (
    SELECT run_id, epoch FROM runs WHERE run_id = ANY (%(run_id)s)
    ORDER BY run_id FOR NO KEY UPDATE
), added AS (
    INSERT INTO events (run_id, epoch, name, kind, version, at, data, light)
    SELECT given.run_id, held.epoch, name, kind, %(version)s, at, data, light
    FROM given JOIN held USING (run_id)
    WHERE given.epoch IS NULL OR given.epoch = held.epoch
    ORDER BY place
    ON CONFLICT DO NOTHING
    RETURNING run_id, name, kind
), ended AS (
    UPDATE runs SET ended = TRUE
    WHERE run_id IN (SELECT run_id FROM added WHERE kind = 'run-ended')
)
SELECT run_id, name, pg_notify(%(channel)s, run_id)::text FROM added
"""

_BEGIN: LiteralString = """
WITH begun AS (
    INSERT INTO runs (run_id, created_at, epoch, owner)
    VALUES (%(run_id)s, %(at)s, %(epoch)s, %(owner)s)
    ON CONFLICT DO NOTHING RETURNING run_id
), kept AS (
    INSERT INTO texts
    SELECT * FROM unnest(%(digests)s::text[], %(texts)s::bytea[])
    ON CONFLICT DO NOTHING
)
"""

_TAKE_OVER: LiteralString = """
WITH begun AS (
    UPDATE runs SET epoch = %(epoch)s, owner = %(owner)s, ended = FALSE
    WHERE run_id = %(run_id)s AND epoch = %(epoch)s - 1 AND (
        ended
        OR owner IS NULL
        OR owner = %(owner)s
        OR NOT EXISTS (SELECT FROM living WHERE process = owner)
    )
    RETURNING run_id
)
"""

_FIRST_EVENT: LiteralString = """
, added AS (
    INSERT INTO events (run_id, epoch, name, kind, version, at, data)
    SELECT run_id, %(epoch)s, %(name)s, %(kind)s, %(version)s, %(at)s, %(data)s FROM begun
    ON CONFLICT DO NOTHING
    RETURNING run_id
)
SELECT pg_notify(%(channel)s, run_id)::text FROM added
"""

_COME: LiteralString = """
INSERT INTO processes VALUES (%s, %s, clock_timestamp() + make_interval(secs => %s))
ON CONFLICT (process) DO UPDATE SET until = EXCLUDED.until
"""

_BEAT: LiteralString = """
UPDATE processes SET until = clock_timestamp() + make_interval(secs => %s) WHERE process = %s
"""

_WHY_NOT: LiteralString = """
SELECT runs.epoch, (
    SELECT data FROM events
    WHERE events.run_id = runs.run_id AND name = %(name)s
    AND events.epoch = coalesce(%(epoch)s, runs.epoch)
)
FROM runs WHERE run_id = %(run_id)s
"""

_ROWS: LiteralString = """
SELECT run_id, created_at, epoch, alive OR coalesce(owner = %(me)s, FALSE),
    coalesce(owner = %(me)s, FALSE)
FROM run_rows
"""

_EVENTS: LiteralString = "SELECT version, data FROM events WHERE run_id = %s ORDER BY seq"

_LIGHT_EVENTS: LiteralString = """
SELECT version, coalesce(light, data) FROM events
WHERE run_id = %s AND kind NOT IN ('call-started', 'tool-called') ORDER BY seq
"""


class PostgresTables:
    """The tables, over one connection for the thread that writes and one for that which reads."""

    def __init__(self, address: Address) -> None:
        self.me = secrets.token_hex(8)
        """The id of this process."""
        self.writer: int | None = None
        """The number that the server has for the connection that writes."""
        self.owns = False
        """Whether other processes have to know that this one is alive."""
        self._writing = Link(address)
        self._reading = Link(address)

    def beat(self, connection: Connection) -> None:
        """Let others see that this process is still alive."""
        # One that has left does not come back by this.
        connection.execute(_BEAT, (LEASE_SECONDS, self.me))

    def commit(self, writes: Sequence[Write]) -> Sequence[ConcertmasterError | None]:
        """Commit the writes together and return, for each, why it was left out, if it was."""
        return self._writing.run(lambda connection, again: self._commit(connection, writes, again))

    def _commit(
        self, connection: Connection, writes: Sequence[Write], again: bool
    ) -> list[ConcertmasterError | None]:
        self.writer = connection.info.backend_pid
        reasons: list[ConcertmasterError | None] = []
        for owns, group in groupby(writes, key=lambda write: write.owns):
            some = list(group)
            done = self._own(connection, some) if owns else self._append(connection, some)
            reasons += [
                None if added else _refusal(connection, write, again=again)
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
        }
        constants = {"version": SCHEMA_VERSION, "channel": CHANNEL}
        added = {row[:2] for row in connection.execute(_APPEND, columns | constants)}
        return [_taken(added, (write.run_id, write.event.name)) for write in writes]

    def _own(self, connection: Connection, writes: Sequence[Write]) -> list[bool]:
        connection.execute(_COME, (self.me, False, LEASE_SECONDS))
        self.owns = True
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
            "owner": self.me,
            "channel": CHANNEL,
        }
        if write.begins_with is None:
            return bool(connection.execute(_TAKE_OVER + _FIRST_EVENT, parameters).rowcount)
        # In one order everywhere, so that two who keep the same texts do not block each other.
        texts = sorted(write.begins_with.items())
        parameters["digests"] = [digest for digest, _ in texts]
        parameters["texts"] = [text.encode() for _, text in texts]
        return bool(connection.execute(_BEGIN + _FIRST_EVENT, parameters).rowcount)

    def row(self, run_id: str) -> RunRow:
        """Return what is known of a run, or raise UnknownRunError."""
        rows = self._rows(_ROWS + "WHERE run_id = %(run_id)s", {"run_id": run_id})
        if not rows:
            raise UnknownRunError(run_id)
        return rows[0]

    def recent(self, limit: int) -> Sequence[RunRow]:
        """Return the latest runs, newest first."""
        order: LiteralString = "ORDER BY created_at DESC, place DESC LIMIT %(limit)s"
        return self._rows(_ROWS + order, {"limit": limit})

    def unfinished(self) -> Sequence[RunRow]:
        """Return the runs that have not ended and whose process is dead, oldest first."""
        dead: LiteralString = "WHERE NOT ended AND NOT alive AND owner IS DISTINCT FROM %(me)s "
        return self._rows(_ROWS + dead + "ORDER BY created_at, place", {})

    def _rows(self, query: LiteralString, parameters: Mapping[str, object]) -> list[RunRow]:
        parameters = {**parameters, "me": self.me}
        return [
            RunRow(run_id=run_id, created_at=created_at, epoch=epoch, alive=alive, mine=mine)
            for run_id, created_at, epoch, alive, mine in self._read(query, parameters)
        ]

    def events(self, run_id: str, *, light: bool) -> Sequence[Event]:
        """Return the events of a run in order, or raise UnknownRunError."""
        found = self._read(_LIGHT_EVENTS if light else _EVENTS, (run_id,))
        if not found:
            # Whoever asks for the events of no run is told so; a run without events is damaged.
            self.row(run_id)
        return list(parsed(run_id, cast("list[tuple[int, str]]", found)))

    def text(self, digest: str) -> str:
        """Return the text with this digest."""
        found = self._read("SELECT text FROM texts WHERE digest = %s", (digest,))
        if not found:
            raise StoreError(
                f"A text that a run refers to is not in the store ({digest}). "
                "Give the inputs again, in a new run."
            )
        return bytes(found[0][0]).decode()

    def _read(
        self, query: LiteralString, parameters: Mapping[str, object] | Sequence[object]
    ) -> list[tuple[Any, ...]]:
        return self._reading.run(
            lambda connection, _: connection.execute(query, parameters).fetchall()
        )

    def close(self) -> None:
        """Let others see that the runs begun here are not alive any more."""
        if self.owns:
            try:
                self._writing.run(self._leave)
            except StoreError as exc:
                log.warning("left without a word: %s", exc)
        self._writing.close()
        self._reading.close()

    def _leave(self, connection: Connection, _again: bool) -> None:
        connection.execute("DELETE FROM processes WHERE process = %s", (self.me,))


def _light(event: Event) -> str | None:
    """Return an event without what was said in it, if that makes a difference."""
    if not isinstance(event, CallFinished):
        return None
    silent = event.reply.model_copy(update={"text": "", "tool_calls": ()})
    return to_json(event.model_copy(update={"reply": silent}))


def _taken(added: set[Any], step: tuple[str, str]) -> bool:
    """Tell whether a step was added; of two writes of one name in a batch, the first was."""
    taken = step in added
    added.discard(step)
    return taken


def _refusal(connection: Connection, write: Write, *, again: bool) -> ConcertmasterError | None:
    """Return why a write was left out; nothing, if the attempt before had committed it."""
    run_id, name = write.run_id, write.event.name
    parameters = {"run_id": run_id, "name": name, "epoch": write.epoch}
    found = connection.execute(_WHY_NOT, parameters).fetchone()
    if found is None:
        return UnknownRunError(run_id)
    epoch, data = found
    if again and data == write.data:
        return None
    if data is None or write.takes_over or write.epoch not in (None, epoch):
        return LostRunError(run_id)
    return StoreError(f"The journal of run {run_id} has {name!r} already.")
