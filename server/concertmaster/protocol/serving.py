"""Serving MCP over stdio and HTTP until the client leaves or a signal comes, and ending cleanly.

The SDK's own runners do not: over stdio SIGTERM kills the process at once and SIGINT leaves it
hanging in a read; over HTTP both wait for open streams without bound.
"""

import logging
import os
import signal
import socket
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from concurrent.futures import CancelledError
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import IO

import anyio
import anyio.from_thread
import anyio.lowlevel
import uvicorn
from anyio.abc import TaskStatus
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from concertmaster.errors import SettingsError
from concertmaster.protocol.incoming import mended
from concertmaster.protocol.server import ConcertmasterServer

log = logging.getLogger(__name__)

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PATH = "/mcp"

CUT_SECONDS = 0.5
"""How long open HTTP responses may go on once the server is to end."""

GRACE_SECONDS = 2
"""How long connections may stay open after that."""

LAST_SECONDS = 6.0
"""How long the process may live after a signal, whatever it is stuck in.

A server that workers use may take 4 seconds of it, until it is killed.
"""

SIGNALS = (signal.SIGINT, signal.SIGTERM)


async def serve_stdio(server: ConcertmasterServer) -> int:
    """Serve the client at stdin and stdout until it leaves or a signal comes.

    Returns the exit status: 0, or 128 plus the number of the signal.
    """
    ending = _Ending()

    async def stop() -> None:
        server.state.end()
        scope.cancel()

    with anyio.CancelScope() as scope:
        try:
            async with ending.at_signal(stop):
                await server.serve_stdio(_Stdin(_private_stdin(), at_end=server.state.end))
        except* BrokenPipeError:
            log.info("the client left while it was being written to")
    return ending.status


async def serve_http(
    server: ConcertmasterServer,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    ready: Callable[[str], object] = log.info,
) -> int:
    """Serve Streamable HTTP until a signal comes; `ready` is told the address once it is open.

    Returns the exit status: 0, or 128 plus the number of the signal.

    Raises:
        SettingsError: the host is not this machine, or the port cannot be had.
    """
    if host not in LOOPBACK:
        raise SettingsError(
            f"host is {host!r}, but HTTP is served on this machine only: use one of "
            f"{', '.join(LOOPBACK)}."
        )
    app = Cuttable(server.streamable_http_app(streamable_http_path=PATH, host=host))
    config = uvicorn.Config(
        app, log_config=None, access_log=False, timeout_graceful_shutdown=GRACE_SECONDS
    )
    ending = _Ending()

    async def stop() -> None:
        server.state.end()
        runner.should_exit = True
        await anyio.sleep(CUT_SECONDS)
        app.cut()

    with _listen(host, port) as listener:
        runner = _Uvicorn(config)
        async with ending.at_signal(stop):
            address = f"[{host}]" if ":" in host else host
            ready(f"http://{address}:{listener.getsockname()[1]}{PATH}")
            await runner.serve(sockets=[listener])
    return ending.status


class _Ending:
    """The end of a server by a signal, and the exit status that it leads to."""

    def __init__(self) -> None:
        self.status = 0

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
        try:
            with anyio.open_signal_receiver(*SIGNALS) as signals:
                task_status.started()
                self.status = 128 + await anext(signals)
        except NotImplementedError:
            # On Windows, where event loops receive no signals, they end the process as usual.
            task_status.started()
            return
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        last = threading.Timer(LAST_SECONDS, os._exit, [self.status])
        last.daemon = True
        last.start()
        await stop()


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

    def _read(self) -> None:
        # The server may have ended while a line was on its way.
        with suppress(anyio.RunFinishedError, anyio.BrokenResourceError, CancelledError):
            for line in filter(str.strip, self.wrapped):
                anyio.from_thread.run(self._sender.send, line, token=self._loop)
            anyio.from_thread.run_sync(self._sender.close, token=self._loop)


def _private_stdin() -> IO[str]:
    """Return standard input, and put an empty one in its place for child processes to read."""
    private = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return open(private, encoding="utf-8", errors="replace", closefd=False)


class _Uvicorn(uvicorn.Server):
    """A uvicorn that leaves signals to us, since it would send them again at its end."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Capture none."""
        yield


class Cuttable:
    """An ASGI application whose open responses can be brought to an end.

    Some last as long as the client wants, and uvicorn would report those as failures.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._open: set[anyio.CancelScope] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def note_start(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        with anyio.CancelScope() as response:
            self._open.add(response)
            try:
                await self._app(scope, receive, note_start)
            finally:
                self._open.discard(response)
        if response.cancelled_caught:
            if not started:
                await send({"type": "http.response.start", "status": 503, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    def cut(self) -> None:
        """End all open responses."""
        for response in self._open:
            response.cancel()


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise SettingsError(f"port is {port}, but it must be from 0 to 65535.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as exc:
        raise SettingsError(
            f"HTTP cannot be served at {host}, port {port}: {exc.strerror}. Choose another port."
        ) from exc
