"""The real command over HTTP: conversations, cancellation, and its end with streams open."""

import importlib
import json
import re
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import anyio
import httpx2
import pytest
from anyio import to_thread
from mcp import Client

from clients import ERAS, structured
from processes import MODERN, RUNNING, WORK, http_server, runs_in

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("mode", ERAS),
    pytest.mark.skipif(sys.platform == "win32", reason="signals are not sent there"),
]


class Work:
    """A worker's run that lasts, and what its client was told."""

    def __init__(self) -> None:
        self.running = anyio.Event()
        self.reply: dict[str, Any] = {}

    async def note(self, progress: float, total: float | None, message: str | None) -> None:
        del progress, total
        if message == RUNNING:
            self.running.set()

    async def do(self, session: Client) -> None:
        result = await session.call_tool("run_worker", WORK, progress_callback=self.note)
        self.reply = structured(result)


async def test_a_cancelled_call_cancels_its_run(mode: str, tmp_path: Path) -> None:
    with anyio.fail_after(100), http_server(tmp_path) as server:
        async with Client(server.address, mode=mode) as session:
            work = Work()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(work.do, session)
                await work.running.wait()
                tasks.cancel_scope.cancel()
            (run,) = structured(await session.call_tool("get_run", {}))["runs"]
            waiting = {"run_id": run["run_id"], "wait_seconds": 30}
            ended = structured(await session.call_tool("get_run", waiting))
    assert ended["status"] == "cancelled"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
async def test_a_server_with_open_streams_ends_and_tells_who_waits(
    number: signal.Signals, status: int, mode: str, tmp_path: Path
) -> None:
    with anyio.fail_after(100), http_server(tmp_path) as server:
        work = Work()
        async with Client(server.address, mode=mode) as session:
            # Without them, the client asks for the tools' schemas when it has got a reply.
            await session.list_tools()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(work.do, session)
                await work.running.wait()
                server.process.send_signal(number)
            assert await server.end() == status
        assert cast("Any", server.process.stderr).read() == ""
        assert cast("Any", server.process.stdout).read() == ""
    assert work.reply["status"] == "interrupted"
    (run,) = await runs_in(tmp_path)
    assert run.status == "interrupted"


class RawClient:
    """A client that speaks HTTP as it comes, in the way of an era of the protocol."""

    def __init__(self, http: httpx2.AsyncClient, address: str, mode: str) -> None:
        self._http = http
        self._address = address
        self._modern = mode != "legacy"
        self._headers = {"accept": "application/json, text/event-stream"}

    async def begin(self) -> None:
        if self._modern:
            self._headers["mcp-protocol-version"] = "2026-07-28"
            return
        client = {"name": "test", "version": "1"}
        hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client}
        async with self.sent("initialize", 1, hello) as answer:
            self._headers["mcp-session-id"] = answer.headers["mcp-session-id"]
        self._headers["mcp-protocol-version"] = "2025-11-25"
        await self.tell("notifications/initialized", {})

    def sent(self, method: str, number: int | None, params: dict[str, Any]) -> Any:
        """Send a request, or without a number a notification; yields the open response."""
        headers = dict(self._headers)
        message: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": params}
        if number is not None:
            message["id"] = number
        if self._modern:
            headers |= {"mcp-method": method, "mcp-name": params.get("name", "")}
            params["_meta"] = MODERN | params.get("_meta", {})
        return self._http.stream("POST", self._address, json=message, headers=headers)

    async def tell(self, method: str, params: dict[str, Any]) -> None:
        async with self.sent(method, None, params) as answer:
            assert answer.status_code == 202

    def call(self, number: int, tool: str, arguments: dict[str, Any]) -> Any:
        """Send a tool call that wants progress; yields the open response."""
        meta = {"progressToken": number}
        params = {"name": tool, "arguments": dict(arguments), "_meta": meta}
        return self.sent("tools/call", number, params)

    async def result(self, number: int, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the structured content of the answer to a tool call."""
        async with self.call(number, tool, arguments) as answer:
            async for line in answer.aiter_lines():
                found = re.fullmatch(r"(?:data:)? *(\{.*\})", line)
                message: dict[str, Any] = json.loads(found[1]) if found else {}
                if message.get("id") == number:
                    return message["result"]["structuredContent"]
        raise AssertionError("there was no answer")


@asynccontextmanager
async def raw(address: str, mode: str) -> AsyncGenerator[RawClient]:
    async with httpx2.AsyncClient(timeout=100) as http:
        client = RawClient(http, address, mode)
        await client.begin()
        yield client


async def test_a_client_that_vanishes_cancels_its_run_where_that_is_how_it_is_said(
    mode: str, tmp_path: Path
) -> None:
    with anyio.fail_after(100), http_server(tmp_path) as server:
        async with (
            raw(server.address, mode) as vanishing,
            vanishing.call(2, "run_worker", WORK) as answer,
        ):
            async for line in answer.aiter_lines():
                if RUNNING in line:
                    break
        async with raw(server.address, mode) as other:
            (run,) = (await other.result(2, "get_run", {}))["runs"]
            # Before 2026-07-28 a connection that is lost says nothing of the call.
            wait_seconds = 0 if mode == "legacy" else 30
            waiting = {"run_id": run["run_id"], "wait_seconds": wait_seconds}
            reply = await other.result(3, "get_run", waiting)
    assert reply["status"] == ("running" if mode == "legacy" else "cancelled")


async def test_a_cancellation_of_an_answered_call_is_ignored(mode: str, tmp_path: Path) -> None:
    with anyio.fail_after(100), http_server(tmp_path) as server:
        async with raw(server.address, mode) as client:
            assert (await client.result(2, "get_run", {}))["runs"] == []
            cancelled = {"requestId": 2, "reason": "done with it"}
            await client.tell("notifications/cancelled", cancelled)
            assert (await client.result(3, "get_run", {}))["runs"] == []


@pytest.mark.usefixtures("enough_files")
async def test_500_half_sent_heads_keep_nobody_out_and_are_closed(
    mode: str, tmp_path: Path
) -> None:
    with anyio.fail_after(60), http_server(tmp_path) as server, ExitStack() as held:
        url = urlsplit(server.address)
        halves = [
            held.enter_context(socket.create_connection(("127.0.0.1", url.port or 0)))
            for _ in range(500)
        ]
        for half in halves:
            half.sendall(b"POST /mcp HTTP/1.1\r\nhost: localhost\r\n")
        async with httpx2.AsyncClient(timeout=10) as http:
            assert (await http.get(f"http://{url.netloc}/healthz")).status_code == 200
        async with Client(server.address, mode=mode) as client:
            assert len((await client.list_tools()).tools) == 6
        halves[-1].settimeout(30)
        assert await to_thread.run_sync(halves[-1].recv, 1) == b""


@pytest.fixture
def enough_files() -> Generator[None]:
    resource = importlib.import_module("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 2000), hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
