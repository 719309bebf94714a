"""The thread that writes to a store, and commits together all that it has been given.

It takes what it is to do from a queue, and not from the event loop: a commit begins as soon
as the one before it has ended, however much else there is to do in the process.
"""

import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TypeVar

import anyio
from anyio import to_thread

from concertmaster.errors import ConcertmasterError
from concertmaster.store.stored import Write

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
