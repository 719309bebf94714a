"""Runs that go on, seen through a real client."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp.types import TextResourceContents

from clients import ERAS, Connection, connected, hang, text_of
from concertmaster.errors import ModelUnavailableError
from fakes import in_turn, plan_json, subtask
from services import Gate

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("mode", ERAS)]

TWO = plan_json(subtask("s1"), subtask("s2", "critic"))
BUSY = ModelUnavailableError("The provider is busy.")


async def until(connection: Connection, run_id: str, holds: Callable[[Any], bool]) -> None:
    """Return once a run's state is so."""
    while not holds(await connection.service.get(run_id)):
        await anyio.lowlevel.checkpoint()


async def interrupted(folder: Path, mode: str) -> str:
    """Leave a run behind whose first subtask has succeeded and whose second has not."""
    scripts = {"planner": TWO, "worker:critic": hang}
    async with connected(folder, scripts, mode=mode) as connection:
        run = await connection.ask("run_orchestration", task="check it", wait_seconds=0)
        with anyio.fail_after(60):
            await until(
                connection,
                run["run_id"],
                lambda state: state.plan and state.subtasks["s1"].status == "succeeded",
            )
    return str(run["run_id"])


async def test_an_interrupted_run_goes_on_and_pays_for_nothing_twice(
    mode: str, tmp_path: Path
) -> None:
    run_id = await interrupted(tmp_path, mode)
    async with connected(tmp_path, {"synthesizer": "all is well"}, mode=mode) as connection:
        told = await connection.ask("get_run", run_id=run_id)
        assert f'resume_run with run_id "{run_id}"' in told["next"]
        reply = await connection.ask("resume_run", run_id=run_id)
        assert (reply["status"], reply["answer"]) == ("succeeded", "all is well")
        assert reply["run_id"] == run_id
        assert connection.llm.callers() == ["worker:critic", "synthesizer"]


async def test_a_call_for_a_run_that_goes_on_answers_after_its_time(
    mode: str, tmp_path: Path
) -> None:
    run_id = await interrupted(tmp_path, mode)
    async with connected(tmp_path, {"worker:critic": hang}, mode=mode) as connection:
        reply = await connection.ask("resume_run", run_id=run_id, wait_seconds=0)
        assert reply["status"] == "running"
        again = await connection.ask("resume_run", run_id=run_id, wait_seconds=0)
        assert (again["status"], again["run_id"]) == ("running", run_id)


async def test_a_partial_answer_says_how_to_get_the_rest(mode: str, tmp_path: Path) -> None:
    scripts = {"planner": TWO, "worker:critic": BUSY}
    async with connected(tmp_path, scripts, mode=mode) as connection:
        reply = await connection.ask("run_orchestration", task="check it")
        assert reply["status"] == "partial"
        assert "resume_run" in reply["next"]


async def test_what_was_made_without_a_failed_result_is_made_again_when_the_run_is_resumed(
    mode: str, tmp_path: Path
) -> None:
    chain = plan_json(subtask("s1"), subtask("s2", "critic", depends_on=["s1"]))
    scripts = {"planner": chain, "worker:analyst": BUSY, "worker:critic": "made without s1"}
    async with connected(tmp_path, scripts, mode=mode) as connection:
        first = await connection.ask("run_orchestration", task="check it")
        assert first["status"] == "partial"
    async with connected(tmp_path, {"worker:critic": "made with s1"}, mode=mode) as connection:
        reply = await connection.ask("resume_run", run_id=first["run_id"])
        assert (reply["status"], reply.get("reasons", [])) == ("succeeded", [])
        assert connection.llm.callers() == ["worker:analyst", "worker:critic", "synthesizer"]
        result = await connection.ask("get_run", run_id=first["run_id"], subtask_id="s2")
        assert (result["status"], result["result"]) == ("succeeded", "made with s1")


async def test_a_run_with_nothing_left_to_retry_answers_the_same_and_says_what_could_be_done(
    mode: str, tmp_path: Path
) -> None:
    plan = plan_json(*(subtask(f"s{number}") for number in range(10)))
    async with connected(tmp_path, {"planner": plan}, mode=mode) as connection:
        first = await connection.ask("run_orchestration", task="check it")
        assert first["status"] == "partial"
        assert "Nothing is left to try again" in first["next"]
        before = len(connection.llm.requests)
        reply = await connection.ask("resume_run", run_id=first["run_id"])
        assert len(connection.llm.requests) == before
        assert (reply["status"], reply["answer"]) == ("partial", first["answer"])
        assert reply["usage"] == first["usage"]
        assert reply["reasons"][:-1] == first["reasons"]
        assert "nothing could be tried again, so no call was made" in reply["reasons"][-1]
        assert "raise the budget, re-run a subtask or edit the plan" in reply["reasons"][-1]


async def test_subtasks_begun_from_a_rejected_plan_are_named_in_the_warnings(
    mode: str, tmp_path: Path
) -> None:
    broken = plan_json(subtask("s1"), subtask("s2", "nobody"))
    scripts = {"planner": in_turn(broken, plan_json(subtask("s2", "critic")))}
    async with connected(tmp_path, scripts, mode=mode) as connection:
        reply = await connection.ask("run_orchestration", task="check it")
        assert reply["status"] == "succeeded"
        (warning,) = reply["warnings"]
        assert warning.startswith("Subtask 's1' (analyst) was begun from a draft of the plan")
        result = await connection.client.call_tool("get_run", {"run_id": reply["run_id"]})
        assert warning in text_of(result)


async def test_a_run_that_failed_can_be_tried_again(mode: str, tmp_path: Path) -> None:
    async with connected(tmp_path, default=BUSY, mode=mode) as connection:
        failed = await connection.ask("run_worker", worker="analyst", task="x")
        assert failed["status"] == "failed"
        assert "resume_run" in failed["next"]
    async with connected(tmp_path, mode=mode) as connection:
        reply = await connection.ask("resume_run", run_id=failed["run_id"])
    assert (reply["status"], reply["answer"]) == ("succeeded", "done")


async def test_a_run_that_succeeded_answers_as_it_did(mode: str, tmp_path: Path) -> None:
    async with connected(tmp_path, mode=mode) as connection:
        done = await connection.ask("run_worker", worker="analyst", task="x")
        assert await connection.ask("resume_run", run_id=done["run_id"]) == done
        assert "r-none" in await connection.refusal("resume_run", run_id="r-none")


async def test_abandoning_the_call_cancels_the_run_that_it_has_gone_on(
    mode: str, tmp_path: Path
) -> None:
    run_id = await interrupted(tmp_path, mode)
    gate = Gate()
    async with connected(tmp_path, {"worker:critic": gate}, mode=mode) as connection:
        async with anyio.create_task_group() as tasks:
            call = connection.client.call_tool
            tasks.start_soon(call, "resume_run", {"run_id": run_id})
            await gate.reached.wait()
            tasks.cancel_scope.cancel()
        with anyio.fail_after(60):
            await until(connection, run_id, lambda state: state.status == "cancelled")


async def test_abandoning_the_call_leaves_a_run_that_was_under_way(
    mode: str, tmp_path: Path
) -> None:
    gate = Gate()
    async with connected(tmp_path, {"worker:analyst": gate}, mode=mode) as connection:
        run = await connection.ask("run_worker", worker="analyst", task="x", wait_seconds=0)
        run_id = run["run_id"]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection.client.call_tool, "resume_run", {"run_id": run_id})
            await gate.reached.wait()
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        gate.opened.set()
        reply = await connection.ask("get_run", run_id=run_id, wait_seconds=10)
    assert reply["status"] == "succeeded"


async def test_an_edited_plan_pays_only_for_what_changed_and_says_so(
    mode: str, tmp_path: Path
) -> None:
    async with connected(tmp_path, {"planner": TWO}, mode=mode) as connection:
        first = await connection.ask("run_orchestration", task="check it")
        read = await connection.client.read_resource(f"runs://{first['run_id']}/plan")
        (content,) = read.contents
        assert isinstance(content, TextResourceContents)
        plan = json.loads(content.text)
        plan["subtasks"][1]["objective"] = "Look again."
        before = len(connection.llm.requests)
        reply = await connection.ask("resume_run", run_id=first["run_id"], plan=plan)
        assert connection.llm.callers()[before:] == ["worker:critic", "synthesizer"]
        assert reply["run_id"] != first["run_id"]
        assert reply["reused"] == f"s1 from {first['run_id']}; saved 1 call, 0.01 USD."
        result = await connection.client.call_tool("get_run", {"run_id": reply["run_id"]})
        assert f"Taken over: {reply['reused']}" in text_of(result)


async def test_from_a_subtask_on_a_run_is_made_anew(mode: str, tmp_path: Path) -> None:
    async with connected(tmp_path, {"planner": TWO}, mode=mode) as connection:
        first = await connection.ask("run_orchestration", task="check it")
        again = await connection.ask(
            "resume_run", run_id=first["run_id"], from_subtask="s2", wait_seconds=60
        )
        assert again["reused"].startswith("s1 from")
        refusal = await connection.refusal("resume_run", run_id=first["run_id"], from_subtask="s7")
        assert "no subtask 's7'" in refusal


async def test_a_call_that_is_sent_twice_is_done_once(mode: str, tmp_path: Path) -> None:
    call = {"worker": "analyst", "task": "x", "idempotency_key": "mine"}
    gate = Gate()
    async with connected(tmp_path, {"worker:analyst": gate}, mode=mode) as connection:
        first = await connection.ask("run_worker", **call, wait_seconds=0)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection.client.call_tool, "run_worker", call)
            await gate.reached.wait()
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        gate.opened.set()
        again = await connection.ask("run_worker", **call)
        assert (again["run_id"], again["status"]) == (first["run_id"], "succeeded")
        refusal = await connection.refusal("run_orchestration", task="y", idempotency_key="mine")
        assert "belongs to run" in refusal
        assert len(connection.llm.requests) == 1
