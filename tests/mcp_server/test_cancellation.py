"""A client that walks away takes its run with it, unless the run was handed out before."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import anyio
import pytest

from clients import ERAS, Connection, connected, hang
from concertmaster.runs.state import RunState

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("mode", ERAS)]


@dataclass
class Hanging:
    """A worker that never answers, and remembers how it was left."""

    reached: anyio.Event = field(default_factory=anyio.Event)
    cleaned_up: bool = False

    async def __call__(self, _: object) -> NoReturn:
        self.reached.set()
        try:
            await anyio.sleep_forever()
        finally:
            self.cleaned_up = True
        raise AssertionError("unreachable")


@asynccontextmanager
async def abandoned(
    connection: Connection, tool: str, arguments: dict[str, Any], reached: anyio.Event
) -> AsyncGenerator[None]:
    """Make a call, and walk away from it once it has `reached` its work."""
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection.client.call_tool, tool, arguments)
            await reached.wait()
            yield
            tasks.cancel_scope.cancel()


async def over(connection: Connection) -> RunState:
    """Return the only run once nothing more happens to it."""
    (state,) = (await connection.service.recent()).states
    with anyio.fail_after(60):
        return await connection.service.wait(state.run_id, seconds=60)


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("run_worker", {"worker": "analyst", "task": "x", "wait_seconds": 600}),
        ("run_orchestration", {"task": "x", "wait_seconds": 600}),
        ("plan_task", {"task": "x"}),
    ],
)
async def test_a_call_that_is_abandoned_cancels_its_run(
    tool: str, arguments: dict[str, Any], mode: str, tmp_path: Path
) -> None:
    worker = Hanging()
    async with connected(tmp_path, default=worker, mode=mode) as connection:
        async with abandoned(connection, tool, arguments, worker.reached):
            pass
        state = await over(connection)
    assert state.status == "cancelled"
    assert state.reasons[0].endswith("the client cancelled the call that was waiting for it.")
    assert worker.cleaned_up


async def test_a_wait_that_is_abandoned_leaves_the_run_alone(mode: str, tmp_path: Path) -> None:
    worker = Hanging()
    async with connected(tmp_path, default=worker, mode=mode) as connection:
        run = await connection.ask("run_worker", worker="analyst", task="x", wait_seconds=0)
        arguments = {"run_id": run["run_id"], "wait_seconds": 600}
        async with abandoned(connection, "get_run", arguments, worker.reached):
            await anyio.wait_all_tasks_blocked()
        reply = await connection.ask("get_run", run_id=run["run_id"])
    assert reply["status"] == "running"


async def test_a_server_that_ends_tells_waiting_clients_at_once(mode: str, tmp_path: Path) -> None:
    worker = Hanging()
    replies: list[dict[str, Any]] = []
    async with connected(tmp_path, default=worker, mode=mode) as connection:

        async def ask() -> None:
            arguments = {"worker": "analyst", "task": "x", "wait_seconds": 600}
            replies.append(await connection.ask("run_worker", **arguments))

        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask)
                await worker.reached.wait()
                connection.server.state.end()
    assert replies[0]["status"] == "interrupted"


async def test_a_call_that_comes_in_as_the_server_ends_does_not_wait(
    mode: str, tmp_path: Path
) -> None:
    async with connected(tmp_path, default=hang, mode=mode) as connection:
        connection.server.state.end()
        with anyio.fail_after(60):
            arguments = {"worker": "analyst", "task": "x", "wait_seconds": 600}
            reply = await connection.ask("run_worker", **arguments)
    assert reply["status"] == "interrupted"


async def test_a_call_cut_off_by_the_end_of_the_server_leaves_its_run_to_be_resumed(
    mode: str, tmp_path: Path
) -> None:
    worker = Hanging()
    arguments = {"worker": "analyst", "task": "x", "wait_seconds": 600}
    async with connected(tmp_path, default=worker, mode=mode) as connection:
        async with abandoned(connection, "run_worker", arguments, worker.reached):
            connection.server.state.left = True
        (state,) = (await connection.service.recent()).states
        assert not state.over
    async with connected(tmp_path, default=hang, mode=mode) as connection:
        assert (await over(connection)).status == "interrupted"
