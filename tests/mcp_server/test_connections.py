"""Connections that ask for nothing, or for too much, on a real server over sockets."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from anyio.abc import SocketStream

from concertmaster.mcp_server.transports.auth import HttpAccess
from serving import ANN, TEAM, Served, served

pytestmark = pytest.mark.anyio

HALF_HEAD = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n"
HEALTH = HALF_HEAD + b"\r\n"
UNFINISHED = (
    "POST /mcp HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n"
    "accept: application/json, text/event-stream\r\ncontent-type: application/json\r\n"
    "{extra}content-length: 100\r\n\r\n{{"
)
"""A request whose body does not come, so that it stays open."""
PING: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {}}
AS_ANN = {"authorization": f"Bearer {ANN}", "accept": "application/json, text/event-stream"}


ANSWERED = 400
"""The status of a ping that belongs to no session: it was let in."""


async def connect(server: Served) -> SocketStream:
    return await anyio.connect_tcp("127.0.0.1", int(server.root.rpartition(":")[2]))


async def closed(connection: SocketStream) -> bytes:
    """Return what still came on a connection, once the server has closed it."""
    came = b""
    try:
        while True:
            came += await connection.receive()
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        return came


@asynccontextmanager
async def holding(server: Served, count: int, sent: bytes) -> AsyncGenerator[list[SocketStream]]:
    """Hold so many connections, on each of which something was sent."""
    async with AsyncExitStack() as stack:
        held: list[SocketStream] = []
        for _ in range(count):
            held.append(await stack.enter_async_context(await connect(server)))
            await held[-1].send(sent)
        yield held


def unfinished(*, forwarded_for: str = "") -> bytes:
    extra = f"x-forwarded-for: {forwarded_for}\r\n" if forwarded_for else ""
    return UNFINISHED.format(token=ANN, extra=extra).encode()


async def post(server: Served, **headers: str) -> int:
    """Return the status of a request of Ann's on a connection of its own."""
    async with httpx2.AsyncClient(timeout=10) as browser:
        given: Mapping[str, str] = AS_ANN | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        return (await browser.post(server.address, json=PING, headers=given)).status_code


async def health(server: Served) -> int:
    async with httpx2.AsyncClient(timeout=10) as browser:
        return (await browser.get(f"{server.root}/healthz")).status_code


async def wait_until_refused(server: Served, **headers: str) -> None:
    """Return once the server has seen so many open requests that it takes no more."""
    while await post(server, **headers) != 503:
        await anyio.lowlevel.checkpoint()


async def test_half_sent_heads_keep_neither_clients_nor_health_checks_out(tmp_path: Path) -> None:
    access = replace(TEAM, connections=20)
    async with served(tmp_path, access=access) as server, holding(server, 60, HALF_HEAD):
        with anyio.fail_after(60):
            assert await health(server) == 200
            async with server.client(ANN) as client:
                assert len((await client.list_tools()).tools) == 6


@pytest.mark.parametrize("before", [b"", HEALTH], ids=["first", "later"])
async def test_a_head_that_does_not_arrive_in_time_ends_its_connection(
    before: bytes, tmp_path: Path
) -> None:
    access = replace(TEAM, head_seconds=0.2)
    with anyio.fail_after(60):
        async with served(tmp_path, access=access) as server, await connect(server) as connection:
            await connection.send(before + HALF_HEAD)
            came = await closed(connection)
    assert came.count(b"200 OK") == bool(before)


async def test_a_head_that_comes_byte_by_byte_has_no_more_time(tmp_path: Path) -> None:
    access = replace(TEAM, head_seconds=0.2)
    with anyio.fail_after(60):
        async with served(tmp_path, access=access) as server, await connect(server) as connection:
            await connection.send(HALF_HEAD)
            with suppress(anyio.BrokenResourceError, anyio.EndOfStream):
                while True:
                    await connection.send(b"x")
                    with anyio.move_on_after(0.02):
                        assert await connection.receive() == b""


async def test_a_body_that_does_not_arrive_in_time_ends_its_connection(tmp_path: Path) -> None:
    access = replace(TEAM, body_seconds=0.2)
    with anyio.fail_after(60):
        async with served(tmp_path, access=access) as server, await connect(server) as connection:
            await connection.send(unfinished())
            assert await closed(connection) == b""


async def test_a_response_that_lasts_longer_than_its_request_may_is_not_cut(
    tmp_path: Path,
) -> None:
    access = replace(TEAM, head_seconds=0.1, body_seconds=0.1)
    waiting = anyio.Event()

    async def work(_request: object) -> str:
        waiting.set()
        await anyio.sleep(0.3)
        return "done"

    scripts = {"worker:analyst": work}
    with anyio.fail_after(60):
        async with (
            served(tmp_path, scripts, access=access) as server,
            server.client(ANN) as client,
        ):
            called = {"worker": "analyst", "task": "x", "wait_seconds": 10}
            reply = await client.call_tool("run_worker", called)
    assert waiting.is_set()
    assert not reply.is_error


async def test_a_request_too_many_is_refused_and_health_is_told_all_the_same(
    tmp_path: Path,
) -> None:
    access = replace(TEAM, connections=2)
    async with served(tmp_path, access=access) as server, holding(server, 2, unfinished()):
        with anyio.fail_after(60):
            await wait_until_refused(server)
            assert await health(server) == 200


OF_ONE_ADDRESS = replace(TEAM, connections_per_address=2, trusted_proxies=())


async def test_an_address_has_so_many_requests_open_and_no_more(tmp_path: Path) -> None:
    async with (
        served(tmp_path, access=OF_ONE_ADDRESS) as server,
        holding(server, 2, unfinished()),
    ):
        with anyio.fail_after(60):
            await wait_until_refused(server)
            # Nobody vouches for what this header says.
            assert await post(server, x_forwarded_for="203.0.113.7") == 503
            assert await health(server) == 200


async def test_idle_connections_of_one_address_make_room_for_its_others(tmp_path: Path) -> None:
    async with (
        served(tmp_path, access=OF_ONE_ADDRESS) as server,
        holding(server, 3, HALF_HEAD) as (first, *_),
    ):
        with anyio.fail_after(60):
            await closed(first)
            assert await post(server) == ANSWERED


async def test_behind_a_trusted_proxy_clients_are_counted_by_their_own_addresses(
    tmp_path: Path,
) -> None:
    access: HttpAccess = replace(TEAM, connections_per_address=2)
    async with (
        served(tmp_path, access=access) as server,
        holding(server, 2, unfinished(forwarded_for="203.0.113.7")),
    ):
        with anyio.fail_after(60):
            await wait_until_refused(server, x_forwarded_for="203.0.113.7")
            assert await post(server, x_forwarded_for="203.0.113.8") == ANSWERED
