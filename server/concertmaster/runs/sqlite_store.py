"""The journal on SQLite: one file in the data folder, shared by any number of processes."""

import json
import logging
import math
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio
from anyio import to_thread
from pydantic_core import PydanticSerializationError

from concertmaster.engine.record.events import EVENT, Event
from concertmaster.errors import ConcertmasterError, StoreError
from concertmaster.runs.journal import RunRow, StoredRun
from concertmaster.runs.sqlite_file import NewRun, SqliteFile, Write

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25
"""How often to look whether another process has committed something."""

PATIENCE_SECONDS = 10
"""How long to wait for another process that has the file locked."""

T = TypeVar("T")


class _Pending:
    """A write on its way to the disk."""

    def __init__(self, write: Write, *, wait: bool) -> None:
        self.write = write
        self.settled = anyio.Event() if wait else None
        """Set once the write is committed or has failed, if somebody waits for that."""
        self.error: ConcertmasterError | None = None


class SqliteJournal:
    """A journal in one SQLite file. See `Journal` for what its methods promise.

    All that is pending is committed together, by one task, which finishes what has been
    given to it even if nobody waits for it any more. After a write that nobody waited for
    has failed, its run gets no further ones until a caller who waits has been told.
    """

    def __init__(self, data_folder: Path, *, patience: float) -> None:
        self._file = SqliteFile(data_folder, patience=patience)
        self._send, self._receive = anyio.create_memory_object_stream[_Pending](math.inf)
        self._writing = anyio.CapacityLimiter(1)
        self._reading = anyio.CapacityLimiter(1)
        self._untold: dict[str, ConcertmasterError] = {}
        """By run: the failure of a write that nobody waited for."""
        self._seen_of_others: int | None = None

    async def create(
        self, run_id: str, event: Event, texts: Mapping[str, str], *, key: str = ""
    ) -> None:
        """Commit a new run, owned by this process at epoch 1, with its first event."""
        new = NewRun(texts=texts, key=key or None)
        write = Write(run_id=run_id, event=event, data=_json(event), epoch=1, begins=new)
        await self._submit(write)

    async def run_with(self, key: str) -> str | None:
        """Return the id of the run that has an idempotency key, if there is one."""
        return await self._read(partial(self._file.run_with, key))

    async def append(self, run_id: str, event: Event, *, epoch: int, wait: bool = True) -> None:
        """Commit an event, in the order of the calls; without `wait`, return before that."""
        write = Write(run_id=run_id, event=event, data=_json(event), epoch=epoch)
        await self._submit(write, wait=wait)

    async def take_over(self, run_id: str, event: Event, *, epoch: int) -> None:
        """Commit the event that begins an epoch of a run, which this process owns from then on."""
        write = Write(run_id=run_id, event=event, data=_json(event), epoch=epoch, takes_over=True)
        await self._submit(write)

    async def request_cancel(self, run_id: str, event: Event) -> None:
        """Commit an event on behalf of a process that does not own the run."""
        await self._submit(Write(run_id=run_id, event=event, data=_json(event)))

    async def row(self, run_id: str) -> RunRow:
        """Return what is known of a run."""
        return await self._read(partial(self._file.row, run_id))

    async def recent(self, limit: int, *, principal: str | None = None) -> Sequence[RunRow]:
        """Return the latest runs, newest first: all, or those of one principal."""
        return await self._read(partial(self._file.recent, limit, principal=principal))

    async def spent(self, principal: str, *, since: float) -> float:
        """Return what the model calls of a principal's runs cost since a time, in USD."""
        return await self._read(partial(self._file.spent, principal, since=since))

    async def unfinished(self) -> Sequence[RunRow]:
        """Return the runs that have not ended and whose process is dead, oldest first."""
        return await self._read(self._file.unfinished)

    async def events(self, run_id: str, *, light: bool = False) -> Sequence[Event]:
        """Return the events of a run in order; `light` leaves out what was said in them."""
        return await self._read(partial(self._file.events, run_id, light=light))

    async def text(self, digest: str) -> str:
        """Return the text with this digest."""
        return await self._read(partial(self._file.text, digest))

    async def stock(self) -> Sequence[StoredRun]:
        """Return what is kept of each run, newest first."""
        return await self._read(self._file.stock)

    async def delete(self, run_ids: Sequence[str]) -> None:
        """Delete runs, and the texts that no other run refers to; all of them or none."""
        delete = partial(self._file.delete, run_ids)
        await to_thread.run_sync(delete, limiter=self._writing)

    async def changed_elsewhere(self) -> None:
        """Return when another process has committed something since the last call began.

        The first call returns at once, since something may have come before it.
        """
        since = self._seen_of_others
        # Asked of the connection that writes, to which commits of this process are no news.
        look = partial(to_thread.run_sync, self._file.commits_of_others, limiter=self._writing)
        self._seen_of_others = now = await look()
        while now == since:
            await anyio.sleep(POLL_SECONDS)
            now = await look()

    async def _read(self, read: Callable[[], T]) -> T:
        return await to_thread.run_sync(read, limiter=self._reading)

    async def _submit(self, write: Write, *, wait: bool = True) -> None:
        pending = _Pending(write, wait=wait)
        self._send.send_nowait(pending)
        if pending.settled is not None:
            try:
                await pending.settled.wait()
            except anyio.get_cancelled_exc_class():
                # Nobody is there to be told of a failure now.
                pending.settled = None
                raise
            if pending.error is not None:
                raise pending.error

    async def write_until_closed(self) -> None:
        """Commit what is submitted, until the journal is closed and nothing is left."""
        with anyio.CancelScope(shield=True), self._receive:
            async for first in self._receive:
                waiting = self._receive.statistics().current_buffer_used
                others = [self._receive.receive_nowait() for _ in range(waiting)]
                await self._commit([first, *others])
            await to_thread.run_sync(self._file.close, limiter=self._writing)

    async def _commit(self, batch: Sequence[_Pending]) -> None:
        for pending in batch:
            pending.error = self._untold.get(pending.write.run_id)
        sound = [pending for pending in batch if pending.error is None]
        errors = await self._errors([pending.write for pending in sound])
        for pending, error in zip(sound, errors, strict=True):
            pending.error = error
        for pending in batch:
            self._settle(pending)

    async def _errors(self, writes: Sequence[Write]) -> Sequence[ConcertmasterError | None]:
        commit = partial(self._file.commit, writes)
        try:
            return await to_thread.run_sync(commit, limiter=self._writing)
        except StoreError as exc:
            log.warning("commit failed: %s", exc, extra={"events": len(writes)})
            log.debug("commit failed", exc_info=True)
            return [StoreError(str(exc)) for _ in writes]

    def _settle(self, pending: _Pending) -> None:
        run_id = pending.write.run_id
        if pending.settled is not None:
            earlier = self._untold.pop(run_id, None)
            pending.error = pending.error or earlier
            pending.settled.set()
        elif pending.error is not None:
            self._untold[run_id] = pending.error

    def close(self) -> None:
        """Take no more writes."""
        self._send.close()


def _json(event: Event) -> str:
    try:
        return EVENT.dump_json(event).decode()
    except PydanticSerializationError:
        # Half a character, which JSON can spell and UTF-8 cannot: no reason to lose a reply.
        plain = json.dumps(EVENT.dump_python(event, mode="json"), ensure_ascii=False)
        return plain.encode(errors="replace").decode()


@asynccontextmanager
async def open_sqlite(
    data_folder: Path, *, patience: float = PATIENCE_SECONDS
) -> AsyncGenerator[SqliteJournal]:
    """Open the journal in `data_folder`; the disk is not touched before it is first used.

    When the journal is closed, everything that was submitted to it has been committed or
    has failed. `patience` is how long to wait for a process that has the file locked.
    """
    failure: BaseException | None = None
    journal = SqliteJournal(data_folder, patience=patience)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(journal.write_until_closed)
            try:
                yield journal
            finally:
                journal.close()
    except BaseExceptionGroup as group:
        # The task raises nothing, so this is what the caller raised, which needs no wrapping.
        failure = group.exceptions[0]
    if failure is not None:
        raise failure
