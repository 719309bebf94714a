"""Serving the scripted endpoint on this machine."""

import socket
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import anyio
import uvicorn

from concertmaster.errors import SettingsError
from concertmaster.fake_api.app import FakeApi
from concertmaster.fake_api.behaviour import Behaviour
from concertmaster.fake_api.ledger import Ledger

HOST = "127.0.0.1"
CLOSE_SECONDS = 1
"""How long open responses may hold up the end."""


@dataclass(frozen=True, slots=True)
class ServedApi:
    """A scripted endpoint that can be called."""

    address: str
    ledger: Ledger
    now: Callable[[], float]
    """Tells the time by the clock of the ledger."""


@asynccontextmanager
async def serve_fake_api(
    behaviour: Behaviour | None = None, *, port: int = 0
) -> AsyncGenerator[ServedApi]:
    """Serve a scripted endpoint on loopback; port 0 is any that is free.

    Raises:
        SettingsError: the port cannot be had.
    """
    api = FakeApi(behaviour or Behaviour())
    config = uvicorn.Config(
        api.app,
        log_level="error",
        access_log=False,
        ws="none",
        lifespan="off",
        timeout_graceful_shutdown=CLOSE_SECONDS,
    )
    with _listen(port) as listener:
        server = _Uvicorn(config)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve, [listener])
            yield ServedApi(f"http://{HOST}:{listener.getsockname()[1]}", api.ledger, api.now)
            server.should_exit = True


class _Uvicorn(uvicorn.Server):
    """A uvicorn that leaves signals to the program that it is a part of."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Capture none."""
        yield


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server((HOST, port))
    except OSError as exc:
        raise SettingsError(
            f"Port {port} cannot be had: {exc.strerror}. Choose another port."
        ) from exc
