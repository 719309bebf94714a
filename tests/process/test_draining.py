"""Servers that are told to end: what they have begun to pay for ends first."""

import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from anyio import to_thread
from mcp import Client

from concertmaster.background.client import inquire
from concertmaster.fake_api import Behaviour, serve_fake_api
from outliving import BACKGROUND, alive_in, cleared, wait_for_end
from processes import WORK, StdioServer, http_server, runs_in

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="signals are not sent there"),
]

End = Callable[[], object]
"""Tells a server to end, and returns when it has."""


@pytest.fixture
def anyio_backend() -> str:
    # The endpoint runs on asyncio alone.
    return "asyncio"


def terminated(process: subprocess.Popen[str]) -> int:
    process.terminate()
    return process.wait(60)


@asynccontextmanager
async def over_stdio(folder: Path, variables: Mapping[str, str]) -> AsyncGenerator[End]:
    with StdioServer(folder, variables) as server:
        server.call(2, "run_worker", WORK)
        yield lambda: terminated(server.process)


@asynccontextmanager
async def left_by_its_client(folder: Path, variables: Mapping[str, str]) -> AsyncGenerator[End]:
    with StdioServer(folder, variables) as server:

        def leave() -> int:
            server.stdin.close()
            return server.end()

        server.call(2, "run_worker", WORK)
        yield leave


@asynccontextmanager
async def over_http(folder: Path, variables: Mapping[str, str]) -> AsyncGenerator[End]:
    with http_server(folder, variables) as server:
        async with Client(server.address) as client:
            await client.call_tool("run_worker", {**WORK, "wait_seconds": 0})
        yield lambda: terminated(server.process)


@asynccontextmanager
async def in_the_background(folder: Path, variables: Mapping[str, str]) -> AsyncGenerator[End]:
    with cleared(folder), StdioServer(folder, {**variables, **BACKGROUND}) as front:
        front.call(2, "run_worker", WORK)

        def stop() -> None:
            (files,) = alive_in(folder)
            inquire(files, "end")
            wait_for_end(files)

        yield stop


@pytest.mark.parametrize("serving", [over_stdio, left_by_its_client, over_http, in_the_background])
async def test_a_server_that_is_to_end_lets_its_calls_end_and_keeps_what_they_brought(
    serving: Callable[[Path, Mapping[str, str]], AbstractAsyncContextManager[End]],
    tmp_path: Path,
) -> None:
    async with serve_fake_api(Behaviour(first_token_seconds=1)) as api:
        variables = {"CONCERTMASTER_API_KEY": "none", "CONCERTMASTER_BASE_URL": api.address}
        with anyio.fail_after(100):
            async with serving(tmp_path, variables) as end:
                while not api.ledger.entries:
                    await anyio.lowlevel.checkpoint()
                await to_thread.run_sync(end)
    (entry,) = api.ledger.entries
    (run,) = await runs_in(tmp_path)
    assert entry.sent is not None
    assert run.usage.tokens_out == entry.tokens_out > 0
