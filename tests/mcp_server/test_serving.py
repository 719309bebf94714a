"""What the runners do that needs no process of its own; tests/process has the rest."""

import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn

import anyio
import httpx2
import pytest
from mcp import Client
from mcp.types import ResourceUpdatedNotification

from clients import ERAS, connected, watching
from concertmaster.errors import SettingsError
from concertmaster.mcp_server.transports.http import Cuttable, serve_http

pytestmark = pytest.mark.anyio


async def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        async with connected(tmp_path) as connection:
            with pytest.raises(SettingsError, match=f"port {port}: .* Choose another port"):
                await serve_http(connection.server, port=port)


@pytest.mark.parametrize("port", [-1, 65_536])
async def test_a_port_that_cannot_be_is_refused(port: int, tmp_path: Path) -> None:
    async with connected(tmp_path) as connection:
        with pytest.raises(SettingsError, match="must be from 0 to 65535"):
            await serve_http(connection.server, port=port)


@asynccontextmanager
async def served(
    folder: Path, monkeypatch: pytest.MonkeyPatch, **fields: Any
) -> AsyncGenerator[str]:
    """Serve HTTP where the event loop receives no signals; yields the address."""

    def no_signals(*_: object) -> NoReturn:
        raise NotImplementedError

    monkeypatch.setattr(anyio, "open_signal_receiver", no_signals)
    ready = anyio.Event()
    addresses: list[str] = []

    def note(address: str) -> None:
        addresses.append(address)
        ready.set()

    async def serve() -> None:
        await serve_http(connection.server, port=0, ready=note, **fields)

    async with connected(folder) as connection, anyio.create_task_group() as tasks:
        tasks.start_soon(serve)
        await ready.wait()
        yield addresses[0]
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
async def test_http_is_served_without_signals_too(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(tmp_path, monkeypatch, host=host) as address:
        assert address.endswith("/mcp")
        async with Client(address) as client:
            assert len((await client.list_tools()).tools) == 6


@pytest.mark.parametrize("mode", ERAS)
async def test_changes_are_told_over_http(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = anyio.Event()

    async def note(message: object) -> None:
        if isinstance(message, ResourceUpdatedNotification):
            heard.set()

    async with (
        served(tmp_path, monkeypatch) as address,
        Client(address, mode=mode, message_handler=note) as client,
        watching(client, mode, ["runs://recent"]),
    ):
        with anyio.fail_after(60):
            await client.call_tool("run_worker", {"worker": "analyst", "task": "x"})
            await heard.wait()


async def test_a_web_page_elsewhere_cannot_reach_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        served(tmp_path, monkeypatch) as address,
        httpx2.AsyncClient(timeout=60) as browser,
    ):
        foreign_page = await browser.post(address, json={}, headers={"origin": "http://evil.org"})
        rebound_name = await browser.post(address, json={}, headers={"host": "evil.org"})
    assert foreign_page.status_code == 403
    assert rebound_name.status_code == 421


@pytest.mark.parametrize("already_answering", [False, True])
async def test_an_open_response_can_be_cut(already_answering: bool) -> None:
    sent: list[Any] = []
    reached = anyio.Event()

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> NoReturn:
        raise AssertionError("unreachable")

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        if already_answering:
            await send({"type": "http.response.start", "status": 200})
        reached.set()
        await anyio.sleep_forever()

    cuttable = Cuttable(app)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cuttable, {"type": "http"}, receive, send)
            await reached.wait()
            cuttable.cut()
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[0]["status"] == (200 if already_answering else 503)
