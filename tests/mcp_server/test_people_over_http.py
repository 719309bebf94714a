"""Two people with a token each, on one server over HTTP, in both ways of speaking MCP."""

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
from mcp import Client, MCPError
from mcp.server.subscriptions import ResourceUpdated
from mcp.types import (
    EmptyResult,
    ResourceTemplateReference,
    SubscribeRequest,
    SubscribeRequestParams,
)

from clients import ERAS, hang, structured, text_of, watching
from concertmaster.mcp_server import subscriptions as others
from concertmaster.runs.principals import Allowance
from fakes import Script, plan_json, subtask
from serving import ANN, BOB, TEAM, served
from watching import Heard

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("mode", ERAS)]

PLAN = {"planner": plan_json(subtask("s1"))}


@dataclass(frozen=True, slots=True)
class Team:
    """Two people, each with a connection of their own."""

    ann: Client
    bob: Client


@asynccontextmanager
async def team(
    folder: Path,
    mode: str,
    scripts: Mapping[str, Script] | None = None,
    *,
    runs: int | None = None,
) -> AsyncGenerator[Team]:
    """Serve two people over HTTP."""
    allowance = Allowance(runs=runs)
    async with (
        served(folder, scripts, access=TEAM, allowance=allowance) as server,
        server.client(ANN, mode=mode) as ann,
        server.client(BOB, mode=mode) as bob,
    ):
        yield Team(ann, bob)


async def refused(client: Client, tool: str, **arguments: object) -> str:
    """Return the sentence with which a tool turns a call away."""
    result = await client.call_tool(tool, arguments)
    return text_of(result) if result.is_error else ""


async def unreadable(client: Client, uri: str) -> str:
    """Return the sentence with which a resource is not shown."""
    try:
        await client.read_resource(uri)
    except MCPError as exc:
        return exc.error.message
    return ""


Door = Callable[[Client, str], Awaitable[str]]

DOORS: dict[str, Door] = {
    "get_run": lambda client, run: refused(client, "get_run", run_id=run),
    "waiting": lambda client, run: refused(client, "get_run", run_id=run, wait_seconds=60),
    "subtask": lambda client, run: refused(client, "get_run", run_id=run, subtask_id="s1"),
    "cancel_run": lambda client, run: refused(client, "cancel_run", run_id=run),
    "resume_run": lambda client, run: refused(client, "resume_run", run_id=run),
    "plan_id": lambda client, run: refused(client, "run_orchestration", plan_id=run),
    "input": lambda client, run: refused(
        client, "run_worker", worker="analyst", task="why?", inputs=[f"runs://{run}/answer"]
    ),
    "runs://": lambda client, run: unreadable(client, f"runs://{run}"),
    "plan": lambda client, run: unreadable(client, f"runs://{run}/plan"),
    "trace": lambda client, run: unreadable(client, f"runs://{run}/trace"),
    "subtasks": lambda client, run: unreadable(client, f"runs://{run}/subtasks/s1"),
    "answer": lambda client, run: unreadable(client, f"runs://{run}/answer"),
}


async def finished(client: Client) -> str:
    """Return the id of a run that is over."""
    reply = structured(await client.call_tool("run_orchestration", {"task": "why?"}))
    assert reply["status"] == "succeeded"
    return reply["run_id"]


async def test_a_run_does_not_exist_for_others_at_any_door(mode: str, tmp_path: Path) -> None:
    async with team(tmp_path, mode, PLAN) as people:
        run_id = await finished(people.ann)
        for name, door in DOORS.items():
            with anyio.fail_after(60):
                assert await door(people.ann, run_id) == "", name
                missing = await door(people.bob, "r-none")
                assert "No run 'r-none'" in missing, name
                assert await door(people.bob, run_id) == missing.replace("r-none", run_id), name


async def test_a_diff_is_shown_to_nobody_else(mode: str, tmp_path: Path) -> None:
    async with team(tmp_path, mode, PLAN) as people:
        run_id = await finished(people.ann)
        assert "changes no file" in await unreadable(people.ann, f"runs://{run_id}/diff")
        assert "No run" in await unreadable(people.bob, f"runs://{run_id}/diff")


async def test_a_run_under_way_is_stopped_by_nobody_else(mode: str, tmp_path: Path) -> None:
    work = {"worker": "analyst", "task": "why?", "wait_seconds": 0}
    async with team(tmp_path, mode, {"worker:analyst": hang}) as people:
        run_id = structured(await people.ann.call_tool("run_worker", work))["run_id"]
        assert "No run" in await refused(people.bob, "cancel_run", run_id=run_id)
        seen = structured(await people.ann.call_tool("get_run", {"run_id": run_id}))
        assert seen["status"] == "running"


async def listed(client: Client) -> list[str]:
    """Return the runs that are told of, in whatever way; they agree."""
    runs = structured(await client.call_tool("get_run", {}))["runs"]
    ids = [run["run_id"] for run in runs]
    template = ResourceTemplateReference(uri="runs://{run_id}")
    completed = await client.complete(template, {"name": "run_id", "value": ""})
    assert completed.completion.values == ids
    (recent,) = (await client.read_resource("runs://recent")).contents
    assert re.findall("r-[A-Za-z0-9_-]{22}", recent.model_dump_json()) == ids
    return ids


async def test_each_is_told_of_their_own_runs(mode: str, tmp_path: Path) -> None:
    template = ResourceTemplateReference(uri="runs://{run_id}/subtasks/{subtask_id}")
    async with team(tmp_path, mode, PLAN) as people:
        run_id = await finished(people.ann)
        assert await listed(people.ann) == [run_id]
        assert await listed(people.bob) == []
        for client, expected in ((people.ann, ["s1"]), (people.bob, [])):
            found = await client.complete(
                template, {"name": "subtask_id", "value": ""}, {"run_id": run_id}
            )
            assert found.completion.values == expected


async def test_one_person_has_the_same_runs_on_two_connections(mode: str, tmp_path: Path) -> None:
    async with served(tmp_path, PLAN, access=TEAM) as server:
        async with server.client(ANN, mode=mode) as client:
            run_id = await finished(client)
        async with server.client(ANN, mode=mode) as client:
            assert await refused(client, "get_run", run_id=run_id) == ""


async def test_workers_and_notices_are_for_everybody(mode: str, tmp_path: Path) -> None:
    async with team(tmp_path, mode) as people:
        (catalog,) = (await people.bob.read_resource("workers://catalog")).contents
        assert "analyst" in catalog.model_dump_json()
        assert (await people.bob.list_prompts()).prompts == []


async def test_one_person_cannot_take_all_places(mode: str, tmp_path: Path) -> None:
    work = {"worker": "analyst", "task": "why?", "wait_seconds": 0}
    async with team(tmp_path, mode, {"worker:analyst": hang}, runs=1) as people:
        assert await refused(people.ann, "run_worker", **work) == ""
        assert "the most you may have" in await refused(people.ann, "run_worker", **work)
        assert await refused(people.bob, "run_worker", **work) == ""


async def watch(client: Client, uri: str) -> None:
    """Ask to be told of changes of a resource."""
    if client.protocol_version == "2025-11-25":
        params = SubscribeRequestParams(uri=uri)
        await client.session.send_request(SubscribeRequest(params=params), EmptyResult)
    else:
        async with client.listen(resource_subscriptions=[uri]):
            pass


async def test_nobody_else_is_told_of_changes_of_a_run(mode: str, tmp_path: Path) -> None:
    async with team(tmp_path, mode, PLAN) as people:
        run_id = await finished(people.ann)
        for uri in (f"runs://{run_id}", f"runs://{run_id}/answer"):
            with anyio.fail_after(60), pytest.raises(MCPError, match="No run"):
                await watch(people.bob, uri)


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "at another replica"])
async def test_nobody_else_is_told_that_the_list_of_runs_has_changed(
    mode: str, elsewhere: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(others, "PAUSE_SECONDS", 0)
    ann, bob = Heard(), Heard()
    uris = ["runs://recent", "workers://catalog"]
    with anyio.fail_after(60):
        async with (
            served(tmp_path, PLAN, access=TEAM) as server,
            served(tmp_path, PLAN, access=TEAM) as replica,
            (replica if elsewhere else server).client(ANN, mode=mode) as worker,
            server.client(ANN, mode=mode, message_handler=ann.handle) as first,
            server.client(BOB, mode=mode, message_handler=bob.handle) as second,
            watching(first, mode, uris),
            watching(second, mode, uris),
        ):
            await finished(worker)
            await ann.until("runs://recent")
            await server.server.state.bus.publish(ResourceUpdated(uri="workers://catalog"))
            await bob.until("workers://catalog")
            assert bob.uris == ["workers://catalog"]
            await finished(second)
            await bob.until("runs://recent")
