"""A call that lasts is a task for clients that take tasks; the task is the run."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import MCPError
from mcp.types import (
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    CallToolResult,
)

from building import worker
from clients import Connection, connected, hang, structured
from concertmaster.errors import StoreError
from concertmaster.mcp_server import tasks
from concertmaster.runs.service import RunService
from fakes import Script, plan_json, subtask
from serving import ANN, BOB, TEAM, served
from taking_tasks import TakesTasks, ask, call, handed_out
from watching import Heard, listen, listening

pytestmark = pytest.mark.anyio

METHODS = ("tasks/get", "tasks/update", "tasks/cancel")

LASTING = [
    ("run_worker", {"worker": "analyst", "task": "x"}),
    ("run_orchestration", {"task": "x"}),
]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every call that would wait become a task."""
    monkeypatch.setattr(tasks, "GRACE_SECONDS", 0)


@asynccontextmanager
async def taking_tasks(
    folder: Path, default: Script = hang, **options: Any
) -> AsyncGenerator[Connection]:
    with anyio.fail_after(60):
        async with connected(
            folder, default=default, extensions=[TakesTasks()], **options
        ) as connection:
            yield connection


async def over(connection: Connection, task_id: str) -> dict[str, Any]:
    """Return a task once its run is over."""
    await connection.service.wait(task_id, seconds=60)
    return await ask(connection.client, "tasks/get", task_id)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("tool", "arguments"), LASTING)
async def test_a_call_that_lasts_is_a_task_with_the_id_of_its_run(
    tool: str, arguments: dict[str, Any], tmp_path: Path
) -> None:
    async with taking_tasks(tmp_path) as connection:
        handle = await handed_out(connection.client, tool, **arguments)
        task = await ask(connection.client, "tasks/get", handle.task_id)
        (run,) = (await connection.service.recent()).states
    assert (handle.task_id, handle.status) == (run.run_id, "working")
    assert (task["taskId"], task["status"], task["resultType"]) == (
        run.run_id,
        "working",
        "complete",
    )
    assert task["ttlMs"] is None
    assert task["pollIntervalMs"] > 0
    assert "result" not in task


@pytest.mark.usefixtures("impatient")
async def test_a_task_says_how_far_its_run_has_come(tmp_path: Path) -> None:
    plan = plan_json(subtask("s1"), subtask("s2", "critic"))
    reached = anyio.Event()

    async def hang_there(_: object) -> str:
        reached.set()
        return await hang_forever()

    scripts: dict[str, Script] = {
        "planner": plan,
        "worker:analyst": "done",
        "worker:critic": hang_there,
    }
    async with taking_tasks(tmp_path, scripts=scripts) as connection:
        handle = await handed_out(connection.client, "run_orchestration", task="x")
        await reached.wait()
        state = await connection.service.get(handle.task_id)
        while state.ended_subtasks == 0:
            state = await connection.service.wait_for_change(
                handle.task_id, seen=state.events, seconds=10
            )
        first = await ask(connection.client, "tasks/get", handle.task_id)
    assert first["statusMessage"] == "1 of 2 subtasks ended; critic is running"
    assert first["createdAt"] <= first["lastUpdatedAt"]


async def hang_forever() -> str:
    await anyio.sleep_forever()
    raise AssertionError("unreachable")


@pytest.mark.usefixtures("impatient")
async def test_a_task_ends_with_what_the_call_would_have_been_answered_with(tmp_path: Path) -> None:
    async with taking_tasks(tmp_path, "done") as connection:
        handle = await handed_out(connection.client, "run_worker", worker="analyst", task="x")
        task = await over(connection, handle.task_id)
        result = await connection.client.call_tool("get_run", {"run_id": handle.task_id})
    assert task["status"] == "completed"
    assert task["result"]["structuredContent"] == structured(result)
    assert task["result"]["structuredContent"]["answer"] == "done"
    assert task["result"]["content"][0]["text"]


@pytest.mark.usefixtures("impatient")
async def test_a_run_that_failed_is_a_result_that_says_so(tmp_path: Path) -> None:
    async with taking_tasks(tmp_path, "") as connection:
        handle = await handed_out(connection.client, "run_worker", worker="analyst", task="x")
        task = await over(connection, handle.task_id)
    assert task["status"] == "completed"
    assert task["result"]["structuredContent"]["status"] == "failed"
    assert task["statusMessage"].startswith("The run has ended: failed.")


@pytest.mark.parametrize(("tool", "arguments"), LASTING)
async def test_a_call_that_takes_a_moment_is_answered_at_once(
    tool: str, arguments: dict[str, Any], tmp_path: Path
) -> None:
    scripts: dict[str, Script] = {"planner": plan_json(direct_answer="done")}
    async with taking_tasks(tmp_path, "done", scripts=scripts) as connection:
        result = await call(connection.client, tool, **arguments)
    assert isinstance(result, CallToolResult)
    assert structured(result)["answer"] == "done"


@pytest.mark.parametrize("wait_seconds", [0, 0.25])
async def test_a_call_that_does_not_want_to_wait_gets_the_state_so_far(
    wait_seconds: float, tmp_path: Path
) -> None:
    async with taking_tasks(tmp_path) as connection:
        result = await call(
            connection.client,
            "run_worker",
            worker="analyst",
            task="x",
            wait_seconds=wait_seconds,
        )
    assert isinstance(result, CallToolResult)
    assert structured(result)["status"] in ("planning", "running")


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("run_worker", {"worker": "nobody", "task": "x"}),
        ("run_worker", {"worker": "analyst", "task": "x", "wait_seconds": "soon"}),
        ("run_orchestration", {}),
    ],
)
async def test_a_call_that_is_wrong_is_refused_and_no_task(
    tool: str, arguments: dict[str, Any], tmp_path: Path
) -> None:
    async with taking_tasks(tmp_path) as connection:
        result = await call(connection.client, tool, **arguments)
    assert isinstance(result, CallToolResult)
    assert result.is_error


@pytest.mark.usefixtures("impatient")
async def test_tools_that_start_nothing_are_never_tasks(tmp_path: Path) -> None:
    async with taking_tasks(tmp_path) as connection:
        handle = await handed_out(connection.client, "run_worker", worker="analyst", task="x")
        run = await call(connection.client, "cancel_run", run_id=handle.task_id)
        found = await call(connection.client, "get_run", run_id=handle.task_id, wait_seconds=60)
    assert isinstance(run, CallToolResult)
    assert isinstance(found, CallToolResult)


@pytest.mark.usefixtures("impatient")
async def test_cancelling_a_task_cancels_its_run(tmp_path: Path) -> None:
    async with taking_tasks(tmp_path) as connection:
        handle = await handed_out(connection.client, "run_worker", worker="analyst", task="x")
        assert await ask(connection.client, "tasks/cancel", handle.task_id) == {
            "resultType": "complete"
        }
        task = await over(connection, handle.task_id)
        again = await ask(connection.client, "tasks/cancel", handle.task_id)
        run = await connection.service.get(handle.task_id)
    assert run.status == "cancelled"
    assert task["status"] == "cancelled"
    assert "the client cancelled its task" in task["statusMessage"]
    assert f"run {run.run_id}" in task["statusMessage"]
    assert "result" not in task
    assert again == {"resultType": "complete"}


@pytest.mark.usefixtures("impatient")
async def test_a_run_that_is_gone_on_with_is_its_task_again(tmp_path: Path) -> None:
    async with taking_tasks(tmp_path) as connection:
        handle = await handed_out(connection.client, "run_worker", worker="analyst", task="x")
        await ask(connection.client, "tasks/cancel", handle.task_id)
        resumed = await handed_out(connection.client, "resume_run", run_id=handle.task_id)
        task = await ask(connection.client, "tasks/get", handle.task_id)
    assert (resumed.task_id, resumed.status) == (handle.task_id, "working")
    assert task["status"] == "working"


@pytest.mark.usefixtures("impatient")
async def test_answers_to_what_was_never_asked_are_ignored(tmp_path: Path) -> None:
    async with taking_tasks(tmp_path) as connection:
        handle = await handed_out(connection.client, "run_worker", worker="analyst", task="x")
        updated = await ask(connection.client, "tasks/update", handle.task_id, {"name": "Ada"})
        task = await ask(connection.client, "tasks/get", handle.task_id)
    assert updated == {"resultType": "complete"}
    assert task["status"] == "working"


@pytest.mark.usefixtures("impatient")
async def test_a_task_outlives_its_server(tmp_path: Path) -> None:
    async with taking_tasks(tmp_path, "done") as connection:
        done = await handed_out(connection.client, "run_worker", worker="analyst", task="x")
        await connection.service.wait(done.task_id, seconds=60)
    async with taking_tasks(tmp_path) as connection:
        cut = await handed_out(connection.client, "run_worker", worker="analyst", task="x")
        task = await ask(connection.client, "tasks/get", done.task_id)
    assert task["result"]["structuredContent"]["answer"] == "done"
    async with taking_tasks(tmp_path) as connection:
        task = await ask(connection.client, "tasks/get", cut.task_id)
    assert task["status"] == "completed"
    assert task["result"]["structuredContent"]["status"] == "interrupted"


@pytest.mark.parametrize("method", METHODS)
async def test_a_task_that_there_is_not_is_refused(method: str, tmp_path: Path) -> None:
    async with taking_tasks(tmp_path) as connection:
        with pytest.raises(MCPError, match="No run 'r-9'") as caught:
            await ask(connection.client, method, "r-9", {})
    assert caught.value.error.code == INVALID_PARAMS


@pytest.mark.parametrize("method", METHODS)
async def test_a_client_that_takes_no_tasks_is_told_what_it_lacks(
    method: str, tmp_path: Path
) -> None:
    async with connected(tmp_path) as connection:
        run = await connection.ask("run_worker", worker="analyst", task="x")
        with pytest.raises(MCPError) as caught:
            await ask(connection.client, method, run["run_id"], {})
    assert caught.value.error.code == MISSING_REQUIRED_CLIENT_CAPABILITY
    assert caught.value.error.data == {"requiredCapabilities": {"extensions": {tasks.TASKS: {}}}}


@pytest.mark.parametrize("method", METHODS)
async def test_before_2026_07_28_there_are_no_tasks(method: str, tmp_path: Path) -> None:
    async with taking_tasks(tmp_path, mode="legacy") as connection:
        result = await call(
            connection.client, "run_worker", worker="analyst", task="x", wait_seconds=1
        )
        assert isinstance(result, CallToolResult)
        with pytest.raises(MCPError) as caught:
            await ask(connection.client, method, structured(result)["run_id"], {})
    assert caught.value.error.code == METHOD_NOT_FOUND


@pytest.mark.usefixtures("impatient")
async def test_what_a_guard_withholds_no_task_tells(tmp_path: Path) -> None:
    scripts: dict[str, Script] = {"planner": plan_json(subtask("s1")), "worker:analyst": "secret"}
    async with taking_tasks(tmp_path, scripts=scripts, workers=[worker("guard")]) as connection:
        handle = await handed_out(connection.client, "run_orchestration", task="x", guard="guard")
        await anyio.wait_all_tasks_blocked()
        task = await ask(connection.client, "tasks/get", handle.task_id)
    assert task["statusMessage"].startswith("the guard is reading the task")


async def test_a_store_that_fails_is_an_error_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise StoreError("The disk is gone.")

    async with taking_tasks(tmp_path) as connection:
        monkeypatch.setattr(RunService, "get", fail)
        with pytest.raises(MCPError, match="The disk is gone"):
            await ask(connection.client, "tasks/get", "r-1")


@pytest.mark.usefixtures("impatient")
async def test_a_listener_is_told_how_its_tasks_come_along(tmp_path: Path) -> None:
    heard, takes_tasks = Heard(), TakesTasks()
    with anyio.fail_after(60):
        async with connected(
            tmp_path, default=hang, extensions=[takes_tasks], message_handler=heard.handle
        ) as connection:
            handle = await handed_out(connection.client, "run_worker", worker="analyst", task="x")
            wanted = {"taskIds": [handle.task_id, "r-9"]}
            async with listening(connection.client, heard, **wanted) as agreement:
                await ask(connection.client, "tasks/cancel", handle.task_id)
                news = await takes_tasks.until("cancelled")
            task = await ask(connection.client, "tasks/get", handle.task_id)
    assert agreement == {"taskIds": [handle.task_id]}
    assert news.model_dump(by_alias=True, exclude={"meta"}) == {
        name: value for name, value in task.items() if name != "resultType"
    }
    assert news.meta is not None
    assert heard.uris == []


@pytest.mark.usefixtures("impatient")
async def test_a_listener_may_ask_for_a_task_and_for_resources(tmp_path: Path) -> None:
    heard, takes_tasks = Heard(), TakesTasks()
    with anyio.fail_after(60):
        async with connected(
            tmp_path, default=hang, extensions=[takes_tasks], message_handler=heard.handle
        ) as connection:
            handle = await handed_out(connection.client, "run_worker", worker="analyst", task="x")
            uri = f"runs://{handle.task_id}"
            resources = [uri, "runs://recent"]
            wanted: dict[str, Any] = {
                "taskIds": [handle.task_id],
                "resource_subscriptions": resources,
            }
            async with listening(connection.client, heard, **wanted) as agreement:
                await ask(connection.client, "tasks/cancel", handle.task_id)
                await takes_tasks.until("cancelled")
                await anyio.wait_all_tasks_blocked()
    assert agreement == wanted
    assert set(heard.uris) == set(resources)


async def test_only_a_client_that_takes_tasks_can_listen_to_them(tmp_path: Path) -> None:
    heard = Heard()
    async with connected(tmp_path, message_handler=heard.handle) as connection:
        with pytest.raises(MCPError) as caught:
            await listen(connection.client, {"taskIds": ["r-9"]})
    assert caught.value.error.code == MISSING_REQUIRED_CLIENT_CAPABILITY


async def test_what_is_no_list_of_tasks_is_not_agreed_to(tmp_path: Path) -> None:
    heard = Heard()
    with anyio.fail_after(60):
        async with (
            connected(tmp_path, message_handler=heard.handle) as connection,
            listening(
                connection.client, heard, taskIds=5, resource_subscriptions=["runs://recent"]
            ) as it,
        ):
            assert it == {"resource_subscriptions": ["runs://recent"]}


@pytest.mark.usefixtures("impatient")
async def test_a_task_does_not_exist_for_somebody_else(tmp_path: Path) -> None:
    async with (
        served(tmp_path, {"worker:analyst": hang}, access=TEAM) as server,
        server.client(ANN, extensions=[TakesTasks()]) as ann,
        server.client(BOB, extensions=[TakesTasks()]) as bob,
    ):
        task = await handed_out(ann, "run_worker", worker="analyst", task="x")
        for task_id in (task.task_id, "r-none"):
            with anyio.fail_after(60), pytest.raises(MCPError, match=f"No run '{task_id}'"):
                await listen(bob, {"taskIds": [task_id]})
            for method in METHODS:
                with pytest.raises(MCPError, match=f"No run '{task_id}'"):
                    await ask(bob, method, task_id, {})
        assert (await ask(ann, "tasks/get", task.task_id))["status"] == "working"
