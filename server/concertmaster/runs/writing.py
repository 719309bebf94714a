"""The thread that writes to a store, and commits together all that it has been given.

It takes what it is to do from a queue, and not from the event loop: a commit begins as soon
as the one before it has ended, however much else there is to do in the process.
"""

import math
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TypeVar

import anyio
from anyio import to_thread

from concertmaster.errors import ConcertmasterError
from concertmaster.runs.stored import Write

LINGER_SECONDS = 0.05
"""How long a write that nobody waits for may wait for one that somebody does."""

T = TypeVar("T")


class Pending:
    """A write on its way to the disk."""

    def __init__(self, write: Write, *, wait: bool) -> None:
        self.write = write
        self.wanted = wait
        """Whether somebody waits to be told how it ends."""
        self.settled = anyio.Event()
        """Set once the write is committed or has failed."""
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
        self._queue = SimpleQueue[Pending | _Errand]()
        self._done = deque[Pending | _Errand]()
        self._ended = False

    def submit(self, pending: Pending) -> None:
        """Have a write committed.

        Raises:
            ClosedResourceError: the thread has been told to end.
        """
        self._put(pending)

    async def run(self, work: Callable[[], T]) -> T:
        """Return what `work` returns, or raise our error that it raises; also if cancelled."""
        outcome = Future[T]()

        def settle() -> None:
            try:
                outcome.set_result(work())
            except ConcertmasterError as exc:
                outcome.set_exception(exc)

        errand = _Errand(settle)
        self._put(errand)
        with anyio.CancelScope(shield=True):
            await errand.settled.wait()
        return outcome.result()

    def end(self, work: Callable[[], object]) -> None:
        """Have the thread end with `work`, after all that it has been given."""
        self._put(_Errand(work, last=True))
        self._ended = True

    def _put(self, item: Pending | _Errand) -> None:
        if self._ended:
            raise anyio.ClosedResourceError
        self._queue.put(item)

    async def work(self) -> None:
        """Do what is submitted until the end; nothing is left undone when it is cancelled."""
        inside, outside = socket.socketpair()
        with inside, outside, anyio.CancelScope(shield=True):
            inside.setblocking(False)
            outside.setblocking(False)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._tell_whenever, outside)
                # Of a limiter of its own: it is busy for as long as the process.
                await to_thread.run_sync(self._toil, inside, limiter=anyio.CapacityLimiter(1))
                tasks.cancel_scope.cancel()
            self._tell()

    async def _tell_whenever(self, bell: socket.socket) -> None:
        while True:
            await anyio.wait_readable(bell)
            bell.recv(4096)
            self._tell()

    def _tell(self) -> None:
        while self._done:
            self._done.popleft().settled.set()

    def _toil(self, bell: socket.socket) -> None:
        last = False
        while not last:
            writes, errand = self._next()
            if writes:
                self._commit(writes)
                self._hand_back(writes, bell)
            if errand is not None:
                errand.work()
                self._hand_back([errand], bell)
                last = errand.last

    def _next(self) -> tuple[list[Pending], _Errand | None]:
        """Return the writes that are due, and what is to be done after them."""
        writes: list[Pending] = []
        due = math.inf
        while True:
            wait = None if due == math.inf else max(0.0, due - time.monotonic())
            try:
                item = self._queue.get(timeout=wait)
            except Empty:
                return writes, None
            if isinstance(item, _Errand):
                return writes, item
            writes.append(item)
            due = min(due, 0.0 if item.wanted else time.monotonic() + LINGER_SECONDS)

    def _hand_back(self, items: Iterable[Pending | _Errand], bell: socket.socket) -> None:
        self._done.extend(items)
        # Rung so often that it takes no more, it is bound to be heard.
        with suppress(BlockingIOError):
            bell.send(b"!")
