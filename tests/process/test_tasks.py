"""Tasks of the real command, over both transports: they outlive the server that made them."""

import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import anyio
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

from processes import COMMAND, WORK, environment, http_server, silent_provider
from taking_tasks import TakesTasks, ask, handed_out

pytestmark = pytest.mark.anyio

Connect = Callable[[Path, Mapping[str, str]], AbstractAsyncContextManager[Client]]


@asynccontextmanager
async def over_stdio(folder: Path, extra: Mapping[str, str]) -> AsyncGenerator[Client]:
    parameters = StdioServerParameters(
        command=COMMAND[0], args=COMMAND[1:], env=environment(folder, extra)
    )
    async with Client(stdio_client(parameters), extensions=[TakesTasks()]) as client:
        yield client


@asynccontextmanager
async def over_http(folder: Path, extra: Mapping[str, str]) -> AsyncGenerator[Client]:
    with http_server(folder, extra) as server:
        async with Client(server.address, extensions=[TakesTasks()]) as client:
            yield client


TRANSPORTS = [
    over_stdio,
    pytest.param(
        over_http,
        marks=pytest.mark.skipif(sys.platform == "win32", reason="signals are not sent there"),
    ),
]


@pytest.mark.parametrize("connect", TRANSPORTS)
async def test_a_task_outlives_its_server(connect: Connect, tmp_path: Path) -> None:
    arguments = {name: value for name, value in WORK.items() if name != "wait_seconds"}
    with anyio.fail_after(100), silent_provider() as variables:
        silent = {**variables, "CONCERTMASTER_KEEP_DAYS": "2.5"}
        async with connect(tmp_path, silent) as client:
            cut = await handed_out(client, "run_worker", **arguments)
            cancelled = await handed_out(client, "run_worker", **arguments)
            await ask(client, "tasks/cancel", cancelled.task_id)
            ended = await ask(client, "tasks/get", cancelled.task_id)
        async with connect(tmp_path, silent) as client:
            assert await ask(client, "tasks/get", cancelled.task_id) == ended
            interrupted = await ask(client, "tasks/get", cut.task_id)
    assert (ended["status"], ended["ttlMs"]) == ("cancelled", 216_000_000)
    assert interrupted["status"] == "completed"
    assert interrupted["result"]["structuredContent"]["status"] == "interrupted"
