"""Serving MCP over HTTP until a signal comes, and ending cleanly.

The runner of the SDK does not: it waits for open streams without bound.
"""

import logging
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager

import anyio
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from concertmaster.errors import SettingsError
from concertmaster.protocol.access import OPEN, HttpAccess
from concertmaster.protocol.connections import Connections
from concertmaster.protocol.http_app import PATH, http_app
from concertmaster.protocol.server import ConcertmasterServer
from concertmaster.protocol.serving import Ending

log = logging.getLogger(__name__)

CUT_SECONDS = 0.5
"""How long open HTTP responses may go on once the server is to end."""

GRACE_SECONDS = 2
"""How long connections may stay open after that."""


async def serve_http(
    server: ConcertmasterServer,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    access: HttpAccess = OPEN,
    ready: Callable[[str], object] = log.info,
    drain_seconds: float = 0.0,
) -> int:
    """Serve Streamable HTTP until a signal comes; `ready` is told the address once it is open.

    The run service may take `drain_seconds` longer to close than it usually does.
    Returns the exit status: 0, or 128 plus the number of the signal.

    Raises:
        SettingsError: these terms do not do for the host, or the port cannot be had.
    """
    access.check(host)
    ending = Ending(drain_seconds)

    async def stop() -> None:
        server.state.end()
        runner.should_exit = True
        await anyio.sleep(CUT_SECONDS)
        app.cut()

    async with access.verifying() as verifier:
        app = Cuttable(http_app(server, host=host, access=access, verifier=verifier))
        runner = _Uvicorn(_config(app, access))
        with _listen(host, port) as listener:
            async with ending.at_signal(stop):
                address = f"[{host}]" if ":" in host else host
                ready(f"http://{address}:{listener.getsockname()[1]}{PATH}")
                await runner.serve(sockets=[listener])
    return ending.status


def _config(app: ASGIApp, access: HttpAccess) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=Connections(access).protocol,
        ws="none",
        log_config=None,
        access_log=False,
        forwarded_allow_ips=list(access.trusted_proxies),
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


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
