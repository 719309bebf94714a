"""Serving MCP over stdio until the client leaves or a signal comes, and ending cleanly.

The SDK's own runner does not: SIGTERM kills the process at once, and SIGINT leaves it hanging in
a read.
"""

import importlib
import logging
import os
import signal
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import CancelledError
from contextlib import asynccontextmanager, suppress
from typing import IO, Any

import anyio
import anyio.from_thread
import anyio.lowlevel
from anyio import to_thread
from anyio.abc import TaskStatus

from concertmaster.mcp_server.incoming import mended
from concertmaster.mcp_server.server import ConcertmasterServer
from concertmaster.signals import ending_signals, leave_closed_terminal

log = logging.getLogger(__name__)

LAST_SECONDS = 6.0
"""How long the process may live once it is to end and is drained, whatever it is stuck in.

A server that workers use may take 4 seconds of it, until it is killed.
"""

REAP_SECONDS = 1.0
"""How long what is killed at the very end may take to be gone."""


async def serve_stdio(server: ConcertmasterServer, *, drain_seconds: float = 0.0) -> int:
    """Serve the client at stdin and stdout until it leaves or a signal comes.

    The run service may take `drain_seconds` longer to close than it usually does.
    Returns the exit status: 0, or 128 plus the number of the signal.
    """
    ending = Ending(drain_seconds)

    async def stop() -> None:
        server.state.end()
        scope.cancel()

    def leave() -> None:
        server.state.end()
        ending.hurry()

    with anyio.CancelScope() as scope:
        try:
            async with (
                ending.at_signal(stop),
                _Stdin(_private_stdin(), at_end=leave) as stdin,
            ):
                await server.serve_stdio(stdin, _Stdout(_private_stdout(), at_end=leave))
        except* BrokenPipeError:
            log.info("the client left while it was being written to")
    return ending.status


class Ending:
    """The end of a server by a signal, and the exit status that it leads to."""

    def __init__(self, drain_seconds: float) -> None:
        self.status = 0
        self._last_seconds = LAST_SECONDS + drain_seconds

    @asynccontextmanager
    async def at_signal(self, stop: Callable[[], Awaitable[None]]) -> AsyncGenerator[None]:
        """Call `stop` when the first signal comes, and ignore those after it."""
        async with anyio.create_task_group() as tasks:
            # Begun before anybody is told that the server is there.
            await tasks.start(self._await_signal, stop)
            yield
            tasks.cancel_scope.cancel()

    async def _await_signal(
        self, stop: Callable[[], Awaitable[None]], *, task_status: TaskStatus[None]
    ) -> None:
        wanted = ending_signals()
        try:
            with anyio.open_signal_receiver(*wanted) as signals:
                task_status.started()
                heard = await anext(signals)
        except NotImplementedError:
            # On Windows, where event loops receive no signals, they end the process as usual.
            task_status.started()
            return
        self.status = 128 + heard
        for number in wanted:
            signal.signal(number, signal.SIG_IGN)
        leave_closed_terminal(heard)
        self.hurry()
        await stop()

    def hurry(self) -> None:
        """Have the process end before long, whatever it is stuck in."""
        last = threading.Timer(self._last_seconds, _end_at_once, [self.status])
        last.daemon = True
        last.start()


def _end_at_once(status: int) -> None:
    """End this process and those that it has started, such as servers that workers use."""
    # Clients wait for a server to start, and hardly one comes to this.
    psutil: Any = importlib.import_module("psutil")
    with suppress(psutil.Error):
        started = psutil.Process().children(recursive=True)
        for process in started:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(started, timeout=REAP_SECONDS)
    os._exit(status)


class _Stdin(anyio.AsyncFile[str]):
    """Standard input; waiting for a line of it can be cancelled.

    A thread that reads cannot be interrupted, and one of anyio's would keep the process from
    ending. The one here dies with the process.
    """

    def __init__(self, file: IO[str], *, at_end: Callable[[], None]) -> None:
        super().__init__(file)
        self._at_end = at_end
        self._sender, self._lines = anyio.create_memory_object_stream[str]()
        self._loop = anyio.lowlevel.current_token()
        threading.Thread(target=self._read, name="stdin", daemon=True).start()

    async def readline(self) -> str:
        """Return the next line, or nothing at the end of the input."""
        try:
            return mended(await self._lines.receive())
        except anyio.EndOfStream:
            self._at_end()
            return ""

    async def aclose(self) -> None:
        """Take no more lines."""
        self._lines.close()
        # The thread may wait for one to be taken. It is told now, and not by the event loop's
        # end, which would report that.
        await anyio.lowlevel.cancel_shielded_checkpoint()

    def _read(self) -> None:
        # The server may have ended while a line was on its way.
        with suppress(anyio.RunFinishedError, anyio.BrokenResourceError, CancelledError):
            # A terminal that has gone cannot be read.
            with suppress(OSError):
                for line in filter(str.strip, self.wrapped):
                    anyio.from_thread.run(self._sender.send, line, token=self._loop)
            anyio.from_thread.run_sync(self._sender.close, token=self._loop)


class _Stdout(anyio.AsyncFile[str]):
    """Standard output; that nobody reads it any more is told before calls are cancelled by that.

    Else it would be as if the client had cancelled them, and their runs would be cancelled too.
    """

    def __init__(self, file: IO[str], *, at_end: Callable[[], None]) -> None:
        super().__init__(file)
        self._at_end = at_end
        self._unwritten = ""

    async def write(self, b: str) -> int:
        """Take a text, which the next flush writes."""
        self._unwritten += b
        return len(b)

    async def flush(self) -> None:
        """Write what was taken.

        Raises:
            BrokenPipeError: nobody reads it.
        """
        text, self._unwritten = self._unwritten, ""
        try:
            await to_thread.run_sync(self._put, text)
        except OSError as exc:
            self._at_end()
            raise BrokenPipeError from exc

    def _put(self, text: str) -> None:
        self.wrapped.write(text)
        self.wrapped.flush()


def _private_stdin() -> IO[str]:
    """Return standard input, and put an empty one in its place for child processes to read."""
    private = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return open(private, encoding="utf-8", errors="replace", closefd=False)


def _private_stdout() -> IO[str]:
    """Return standard output, and put stderr in its place: what else is printed is no message."""
    private = os.dup(1)
    os.dup2(2, 1)
    return open(private, "w", encoding="utf-8", closefd=False)
