"""A journal whose writes are committed in groups, over the tables that a store keeps them in."""

import logging
import socket
import threading
from collections import deque
from collections.abc import (
    AsyncGenerator,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Protocol, TypeVar

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup

from concertmaster.engine.events import Event
from concertmaster.errors import ConcertmasterError, StoreError, UnknownRunError
from concertmaster.store.codec import Write, as_kept
from concertmaster.store.journal import (
    Outline,
    PrincipalUsage,
    Reservation,
    RunRow,
    Standing,
    StoredRun,
)

LINGER_SECONDS = 0.05
"""How long a write that nobody waits for may wait for one that somebody does."""

T = TypeVar("T")


class Pending:
    """A write on its way to the disk."""

    def __init__(self, write: Write, *, wait: bool) -> None:
        self.write = write
        self.wanted = wait
        """Whether somebody waits to be told how it ends."""
        self.settled = anyio.Event() if wait else None
        """Set once the write is committed or has failed, where somebody waits for that."""
        self.error: ConcertmasterError | None = None


class _Errand:
    """Something else that the thread is to do."""

    def __init__(self, work: Callable[[], object], *, last: bool = False) -> None:
        self.work = work
        self.last = last
        self.settled = anyio.Event()


class WritingThread:
    """Does in order what it is given, while `work` runs.

    `commit` is called in the thread with all writes that are pending.
    """

    def __init__(self, commit: Callable[[Sequence[Pending]], None]) -> None:
        self._commit = commit
        self._held: list[Pending | _Errand] = []
        """What waits for something that is due at once."""
        self._holding = anyio.Event()
        self._due = SimpleQueue[list[Pending | _Errand]]()
        self._done = deque[Pending | _Errand]()
        self._ended = False

    def submit(self, pending: Pending) -> None:
        """Have a write committed.

        Raises:
            ClosedResourceError: the thread has been told to end.
        """
        self._hold(pending)
        if pending.wanted:
            self._let_go()
        else:
            self._holding.set()

    async def run(self, work: Callable[[], T]) -> T:
        """Return what `work` returns, or raise our error that it raises; also if cancelled."""
        outcome = Future[T]()

        def settle() -> None:
            try:
                outcome.set_result(work())
            except ConcertmasterError as exc:
                outcome.set_exception(exc)

        errand = _Errand(settle)
        self._hold(errand)
        self._let_go()
        with anyio.CancelScope(shield=True):
            await errand.settled.wait()
        return outcome.result()

    def end(self) -> None:
        """Have the thread end after all that it has been given."""
        self._hold(_Errand(lambda: None, last=True))
        self._let_go()
        self._ended = True

    def _hold(self, item: Pending | _Errand) -> None:
        if self._ended:
            raise anyio.ClosedResourceError
        self._held.append(item)

    def _let_go(self) -> None:
        self._due.put(self._held)
        self._held = []

    async def work(self) -> None:
        """Do what is submitted until the end; nothing is left undone when it is cancelled."""
        inside, outside = socket.socketpair()
        with inside, outside, anyio.CancelScope(shield=True):
            inside.setblocking(False)
            outside.setblocking(False)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._let_go_in_time)
                tasks.start_soon(self._tell_whenever, outside)
                # Of a limiter of its own: it is busy for as long as the process.
                await to_thread.run_sync(self._toil, inside, limiter=anyio.CapacityLimiter(1))
                tasks.cancel_scope.cancel()
            self._tell()

    async def _let_go_in_time(self) -> None:
        while True:
            await self._holding.wait()
            await anyio.sleep(LINGER_SECONDS)
            self._holding = anyio.Event()
            self._let_go()

    async def _tell_whenever(self, bell: socket.socket) -> None:
        while True:
            await anyio.wait_readable(bell)
            bell.recv(4096)
            self._tell()

    def _tell(self) -> None:
        while self._done:
            if (settled := self._done.popleft().settled) is not None:
                settled.set()

    def _toil(self, bell: socket.socket) -> None:
        last = False
        while not last:
            for items in self._next():
                if isinstance(items, _Errand):
                    items.work()
                    last = items.last
                    self._hand_back([items], bell)
                else:
                    self._commit(items)
                    self._hand_back(items, bell)

    def _next(self) -> Iterator[list[Pending] | _Errand]:
        """Yield what there is to do: writes that belong together, and what is between them."""
        items = self._due.get()
        with suppress(Empty):
            while True:
                items += self._due.get_nowait()
        writes: list[Pending] = []
        for item in items:
            if isinstance(item, Pending):
                writes.append(item)
                continue
            if writes:
                yield writes
                writes = []
            yield item
        if writes:
            yield writes

    def _hand_back(self, items: Iterable[Pending | _Errand], bell: socket.socket) -> None:
        self._done.extend(items)
        # Rung so often that it takes no more, it is bound to be heard.
        with suppress(BlockingIOError):
            bell.send(b"!")


log = logging.getLogger(__name__)


class Tables(Protocol):
    """Where a store keeps runs and events. Every method blocks, and may raise StoreError.

    One thread at a time may write, and one may read.
    """

    def commit(self, writes: Sequence[Write]) -> Sequence[ConcertmasterError | None]:
        """Commit the writes together and return, for each, why it was left out, if it was."""
        ...

    def row(self, run_id: str) -> RunRow:
        """Return what is known of a run, or raise UnknownRunError."""
        ...

    def recent(self, limit: int, *, principal: str | None) -> Sequence[RunRow]:
        """Return the latest runs, newest first: all, or those of one principal."""
        ...

    def usage_of(self, principal: str, *, since: float, without: str) -> PrincipalUsage:
        """Return what the runs of a principal use, `without` one of them."""
        ...

    def unfinished(self) -> Sequence[RunRow]:
        """Return the runs that have not ended, oldest first."""
        ...

    def offering(self, fingerprint: str, *, principal: str, since: float) -> Sequence[str]:
        """Return the runs of a principal that have had such a result since a time."""
        ...

    def standing(self, run_ids: Collection[str]) -> Mapping[str, Standing]:
        """Return how those of the runs stand that there are."""
        ...

    def events(self, run_id: str) -> Sequence[Event]:
        """Return the events of a run in order, or raise UnknownRunError."""
        ...

    def outlines(self, run_ids: Collection[str]) -> Mapping[str, Outline]:
        """Return the events of each of the runs in order, without what was said in them."""
        ...

    def text(self, digest: str) -> str:
        """Return the text with this digest."""
        ...

    def run_with(self, key: str) -> str | None:
        """Return the id of the run that has an idempotency key, if there is one."""
        ...

    def stock(self) -> Sequence[StoredRun]:
        """Return what is kept of each run, newest first."""
        ...

    def delete(self, run_ids: Sequence[str]) -> None:
        """Delete runs and the texts that no other refers to; for the writing thread."""
        ...

    def let_go(self, run_id: str, epoch: int) -> None:
        """Own a run no more that is still in this epoch; for the writing thread."""
        ...

    def close(self) -> None:
        """Let others see that the runs begun here are not alive any more."""
        ...


class GroupCommit:
    """A journal but for the news of others. See `Journal` for what its methods promise.

    All that is pending is committed together, by one thread, which finishes what has been
    given to it even if nobody waits for it any more. After a write that nobody waited for
    has failed, its run gets no further ones until a caller who waits has been told.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._writing = WritingThread(self._commit)
        self._reading = anyio.CapacityLimiter(1)
        self._untold: dict[str, ConcertmasterError] = {}
        """By run: the failure of a write that nobody waited for."""
        self._telling = threading.Lock()

    async def create(
        self,
        run_id: str,
        event: Event,
        texts: Mapping[str, str],
        *,
        key: str = "",
        queued: bool = False,
        reservation: Reservation | None = None,
    ) -> None:
        """Commit a new run, owned by this process at epoch 1, with its first event."""
        data, said = as_kept(event)
        await self._submit(
            Write(
                run_id=run_id,
                event=event,
                data=data,
                texts={**said, **texts},
                epoch=1,
                begins=True,
                key=key or None,
                queued=queued,
                reservation=reservation,
            )
        )

    async def run_with(self, key: str) -> str | None:
        """Return the id of the run that has an idempotency key, if there is one."""
        return await self._read(partial(self._tables.run_with, key))

    async def append(self, run_id: str, event: Event, *, epoch: int, wait: bool = True) -> None:
        """Commit an event, in the order of the calls; without `wait`, return before that."""
        data, texts = as_kept(event)
        write = Write(run_id=run_id, event=event, data=data, texts=texts, epoch=epoch)
        await self._submit(write, wait=wait)

    async def take_over(
        self,
        run_id: str,
        event: Event,
        *,
        epoch: int,
        queued: bool = False,
        most: int | None = None,
        reservation: Reservation | None = None,
    ) -> None:
        """Commit the event that begins an epoch of a run, which this process owns from then on."""
        data, texts = as_kept(event)
        await self._submit(
            Write(
                run_id=run_id,
                event=event,
                data=data,
                texts=texts,
                epoch=epoch,
                takes_over=True,
                queued=queued,
                most=most,
                reservation=reservation,
            )
        )

    async def let_go(self, run_id: str, *, epoch: int) -> None:
        """Own a run no more that is still in this epoch, as if this process had died."""
        await self._writing.run(partial(self._tables.let_go, run_id, epoch))
        # Whoever goes on with it has written nothing yet that could have failed.
        with self._telling:
            self._untold.pop(run_id, None)

    async def tell(self, run_id: str, event: Event) -> None:
        """Commit an event on behalf of a process that does not own the run."""
        data, texts = as_kept(event)
        await self._submit(Write(run_id=run_id, event=event, data=data, texts=texts))

    async def row(self, run_id: str) -> RunRow:
        """Return what is known of a run."""
        _check_id(run_id)
        return await self._read(partial(self._tables.row, run_id))

    async def recent(self, limit: int, *, principal: str | None = None) -> Sequence[RunRow]:
        """Return the latest runs, newest first: all, or those of one principal."""
        return await self._read(partial(self._tables.recent, limit, principal=principal))

    async def usage_of(self, principal: str, *, since: float, without: str = "") -> PrincipalUsage:
        """Return what the runs of a principal use, `without` one of them."""
        return await self._read(
            partial(self._tables.usage_of, principal, since=since, without=without)
        )

    async def unfinished(self) -> Sequence[RunRow]:
        """Return the runs that have not ended, oldest first."""
        return await self._read(self._tables.unfinished)

    async def offering(self, fingerprint: str, *, principal: str, since: float) -> Sequence[str]:
        """Return the runs of a principal that have had such a result since a time."""
        find = self._tables.offering
        return await self._read(partial(find, fingerprint, principal=principal, since=since))

    async def standing(self, run_ids: Collection[str]) -> Mapping[str, Standing]:
        """Return how those of the runs stand that there are."""
        return await self._read(partial(self._tables.standing, run_ids))

    async def events(self, run_id: str) -> Sequence[Event]:
        """Return the events of a run in order."""
        _check_id(run_id)
        return await self._read(partial(self._tables.events, run_id))

    async def outlines(self, run_ids: Collection[str]) -> Mapping[str, Outline]:
        """Return the events of each of the runs in order, without what was said in them."""
        return await self._read(partial(self._tables.outlines, run_ids))

    async def text(self, digest: str) -> str:
        """Return the text with this digest."""
        return await self._read(partial(self._tables.text, digest))

    async def stock(self) -> Sequence[StoredRun]:
        """Return what is kept of each run, newest first."""
        return await self._read(self._tables.stock)

    async def delete(self, run_ids: Sequence[str]) -> None:
        """Delete runs, and the texts that no other run refers to; all of them or none."""
        await self._writing.run(partial(self._tables.delete, run_ids))

    async def _read(self, read: Callable[[], T]) -> T:
        return await to_thread.run_sync(read, limiter=self._reading)

    async def _submit(self, write: Write, *, wait: bool = True) -> None:
        pending = Pending(write, wait=wait)
        self._writing.submit(pending)
        if pending.settled is not None:
            try:
                await pending.settled.wait()
            except anyio.get_cancelled_exc_class():
                self._forsake(pending)
                raise
            if pending.error is not None:
                raise pending.error

    @asynccontextmanager
    async def committing(self) -> AsyncGenerator[TaskGroup]:
        """Commit what is submitted; at the end, all has been committed or has failed.

        Tasks started in the group that is yielded are cancelled at the end.
        """
        failure: BaseException | None = None
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._write_until_closed)
                try:
                    yield tasks
                finally:
                    self._writing.end()
                    tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            # The tasks raise nothing, so this is what the caller raised, which needs no wrapping.
            failure = group.exceptions[0]
        if failure is not None:
            raise failure

    async def _write_until_closed(self) -> None:
        with anyio.CancelScope(shield=True):
            await self._writing.work()
            # Whoever still reads is waited for: a connection closed under a thread that uses it
            # takes the whole process down.
            async with self._reading:
                await to_thread.run_sync(self._tables.close)

    def _commit(self, batch: Sequence[Pending]) -> None:
        """Commit together what can be, and note of each write how it ended; for the thread."""
        for pending in batch:
            pending.error = self._untold.get(pending.write.run_id)
        sound = [pending for pending in batch if pending.error is None]
        errors = self._errors([pending.write for pending in sound])
        for pending, error in zip(sound, errors, strict=True):
            pending.error = error
        for pending in batch:
            self._settle(pending)

    def _errors(self, writes: Sequence[Write]) -> Sequence[ConcertmasterError | None]:
        try:
            return self._tables.commit(writes)
        except StoreError as exc:
            log.warning("commit failed: %s", exc, extra={"events": len(writes)})
            log.debug("commit failed", exc_info=True)
            return [StoreError(str(exc)) for _ in writes]

    def _settle(self, pending: Pending) -> None:
        run_id = pending.write.run_id
        with self._telling:
            if pending.wanted:
                earlier = self._untold.pop(run_id, None)
                pending.error = pending.error or earlier
            elif pending.error is not None:
                self._untold[run_id] = pending.error

    def _forsake(self, pending: Pending) -> None:
        """Take in that nobody waits for a write any more, who could be told how it ends."""
        with self._telling:
            pending.wanted = False
            if pending.error is not None:
                self._untold[pending.write.run_id] = pending.error


def _check_id(run_id: str) -> None:
    # Callers can name anything, and databases take no half characters and no NUL.
    if not (run_id.isascii() and run_id.isprintable()):
        raise UnknownRunError(run_id)
