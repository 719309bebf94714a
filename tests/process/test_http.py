"""The real command over HTTP: conversations, cancellation, and its end with streams open."""

import signal
import sys
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
from mcp import Client

from clients import ERAS, structured
from processes import RUNNING, WORK, http_server, runs_in

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
    with anyio.fail_after(50), http_server(tmp_path) as server:
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
    with anyio.fail_after(50), http_server(tmp_path) as server:
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
