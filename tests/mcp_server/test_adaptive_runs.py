"""Runs whose plan changes as results come in, and workers written for a run, through MCP."""

import json
from pathlib import Path
from typing import Any

import anyio
import pytest

from clients import Connection, connected, hang
from concertmaster.errors import ModelRequestError
from concertmaster.llm.messages import Request
from concertmaster.runs.intake import RunPolicy
from fakes import Script, plan_json, subtask, texts
from patterns import Ran, decision, ran, run_on

pytestmark = pytest.mark.anyio

FIRST = subtask("s1", decisive=True)
NEXT = subtask("s2", "critic", depends_on=["s1"])


def adaptive(*subtasks: Any, **fields: Any) -> str:
    return plan_json(*subtasks, mode="adaptive", **fields)


def in_turn(*answers: str) -> Script:
    """Answer what a caller is asked one after another; the last answer again and again."""
    left = list(answers)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


async def test_the_orchestrator_adds_what_a_result_calls_for(tmp_path: Path) -> None:
    orchestrator = in_turn(
        decision(add=[NEXT], reason="s1 found a second place"),
        decision(done=True, reason="both places are known"),
    )
    scripts = {"planner": adaptive(FIRST), "orchestrator": orchestrator}
    run = await ran(tmp_path, scripts)
    assert run.steps == [
        "plan/call/1",
        "subtask/s1/call/1",
        "next-step/1/call/1",
        "subtask/s2/call/1",
        "next-step/2/call/1",
        "synthesis/call/1",
    ]
    assert run.reply["status"] == "succeeded"
    assert run.reply["decisions"] == ["s1 found a second place", "both places are known"]
    assert run.statuses == ["succeeded", "succeeded"]


async def test_the_orchestrator_is_asked_while_others_work_and_may_wait_for_them(
    tmp_path: Path,
) -> None:
    asked: list[str] = []
    decided = anyio.Event()

    async def orchestrator(request: Request) -> str:
        asked.extend(texts([request]))
        at_end = "All subtasks have ended." in asked[-1]
        return decision(done=at_end, reason="all is there" if at_end else "s2 is still needed")

    async def slow(_: Request) -> str:
        await decided.wait()
        return "done"

    scripts = {
        "planner": adaptive(FIRST, subtask("s2", "critic"), subtask("s3", "writer")),
        "worker:critic": slow,
        "worker:writer": slow,
        "orchestrator": orchestrator,
    }
    async with connected(tmp_path, scripts) as connection:
        runs: list[Ran] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_until_decided, connection, decided)
            runs.append(await run_on(connection))
    (run,) = runs
    assert run.statuses == ["succeeded"] * 3
    assert run.reply["status"] == "succeeded"
    assert run.reply["decisions"][0] == "s2 is still needed"
    assert "s2 (critic, medium): running." in asked[0]
    assert "All subtasks have ended." in asked[-1]


async def _until_decided(connection: Connection, decided: anyio.Event) -> None:
    """Set `decided` once the first decision can be seen, while two subtasks are at work."""
    state: dict[str, Any] = {}
    while not state.get("decisions"):
        runs = (await connection.ask("get_run"))["runs"]
        if runs:
            state = await connection.ask("get_run", run_id=runs[0]["run_id"], wait_seconds=0.05)
    assert state["progress"] == "1 of 3 subtasks ended; critic and writer are running"
    decided.set()


async def test_a_run_that_has_enough_ends_early(tmp_path: Path) -> None:
    plan = adaptive(FIRST, subtask("s2", "critic"), subtask("s3", "writer", depends_on=["s2"]))
    under_way = anyio.Event()

    async def endless(request: Request) -> str:
        under_way.set()
        return await hang(request)

    async def when_under_way(_: Request) -> str:
        await under_way.wait()
        return "this settles it"

    scripts: dict[str, Script] = {
        "planner": plan,
        "worker:analyst": when_under_way,
        "worker:critic": endless,
        "orchestrator": decision(done=True, reason="s1 settles it"),
    }
    run = await ran(tmp_path, scripts)
    assert run.statuses == ["succeeded", "cancelled", "skipped"]
    assert run.reply["status"] == "succeeded"
    assert run.reply["decisions"] == ["s1 settles it"]
    assert run.failed == ["subtask/s2/call/1"]
    assert "writer" not in str(run.llm.callers())
    assert run.results["s3"]["errors"] == ["The orchestrator had enough without it: s1 settles it"]
    # Where one result is left, the answer still has to say what was not done.
    (told,) = texts([request for request in run.llm.requests if request.caller == "synthesizer"])
    assert "Not done, because there was enough without it: do s2" in told


async def test_a_run_that_ends_early_says_what_was_not_done_though_the_synthesis_fails(
    tmp_path: Path,
) -> None:
    scripts: dict[str, Script] = {
        "planner": adaptive(FIRST, subtask("s2", "critic")),
        "worker:critic": hang,
        "orchestrator": decision(done=True, reason="s1 settles it"),
        "synthesizer": ModelRequestError("The key was refused."),
    }
    run = await ran(tmp_path, scripts)
    assert run.reply["status"] == "partial"
    assert "Not done, because there was enough without it: do s2" in run.reply["answer"]


async def test_a_run_goes_on_as_planned_when_the_orchestrator_cannot_be_asked(
    tmp_path: Path,
) -> None:
    scripts = {
        "planner": adaptive(FIRST, NEXT),
        "orchestrator": ModelRequestError("The key was refused."),
    }
    run = await ran(tmp_path, scripts)
    assert run.statuses == ["succeeded", "succeeded"]
    assert run.reply["status"] == "partial"
    assert run.reply["reasons"] == [
        "The orchestrator could not be asked what to do next: The key was refused."
    ]
    assert run.calls["orchestrator"] == 1


async def test_the_orchestrator_makes_up_for_what_failed(tmp_path: Path) -> None:
    orchestrator = in_turn(
        decision(add=[subtask("s2", "critic")], reason="s1 failed, so another tries"),
        decision(done=True),
    )
    scripts = {
        "planner": adaptive(FIRST),
        "worker:analyst": ModelRequestError("Too long."),
        "orchestrator": orchestrator,
    }
    run = await ran(tmp_path, scripts)
    assert run.statuses == ["failed", "succeeded"]
    assert run.reply["status"] == "partial"
    asked = texts([item for item in run.llm.requests if item.caller == "orchestrator"])
    assert "s1 (analyst, medium): failed. do s1" in asked[0]


@pytest.mark.parametrize(
    ("mode", "planned", "asked"),
    [
        ("auto", "static", 0),
        ("auto", "adaptive", 1),
        ("static", "adaptive", 0),
        ("adaptive", "static", 1),
    ],
)
async def test_auto_leaves_the_mode_to_the_planner_and_nothing_else_does(
    mode: str, planned: str, asked: int, tmp_path: Path
) -> None:
    scripts = {
        "planner": plan_json(subtask("s1"), mode=planned),
        "orchestrator": decision(done=True),
    }
    run = await ran(tmp_path, scripts, mode=mode)
    assert run.calls.get("orchestrator", 0) == asked
    assert run.reply["status"] == "succeeded"


TASTER = {
    "name": "taster",
    "description": "Tastes.",
    "instructions": "You taste soup.",
    "why": "Nobody here tastes.",
}
SMELLER = TASTER | {"name": "smeller", "instructions": "You smell soup."}


@pytest.mark.parametrize(
    ("decomposition", "custom", "tries"),
    [
        ("constrained", [TASTER], 3),
        ("hybrid", [TASTER], 1),
        ("hybrid", [TASTER, SMELLER], 3),
        ("dynamic", [TASTER, SMELLER], 1),
    ],
)
async def test_a_planner_brings_as_many_workers_of_its_own_as_it_may(
    decomposition: Any, custom: list[dict[str, str]], tries: int, tmp_path: Path
) -> None:
    subtasks = [subtask(f"s{number}", worker["name"]) for number, worker in enumerate(custom, 1)]
    scripts = {"planner": plan_json(*subtasks, custom_workers=custom)}
    policy = RunPolicy(decomposition=decomposition)
    async with connected(tmp_path, scripts, policy=policy) as connection:
        run = await run_on(connection)
    assert run.calls["planner"] == tries
    assert set(run.statuses) == {"succeeded"}
    warned = [text for text in run.reply.get("warnings", ()) if "custom worker" in text]
    assert bool(warned) is (tries == 3)
    said = " ".join(texts(run.llm.requests))
    assert ("You taste soup." in said) is (decomposition != "constrained")
    assert ("You smell soup." in said) is (decomposition == "dynamic")


async def test_workers_that_a_plan_brought_are_there_for_what_is_added_later(
    tmp_path: Path,
) -> None:
    plan = adaptive(subtask("s1", "taster"), custom_workers=[TASTER])
    again = decision(add=[subtask("s2", "taster", objective="taste it again, cold")])
    scripts = {"planner": plan, "orchestrator": in_turn(again, decision(done=True))}
    run = await ran(tmp_path, scripts)
    assert run.calls["worker:taster"] == 2
    assert run.statuses == ["succeeded", "succeeded"]


async def test_a_direct_answer_takes_one_call(tmp_path: Path) -> None:
    run = await ran(tmp_path, {"planner": plan_json(direct_answer="Four.")}, mode="adaptive")
    assert (run.reply["answer"], run.steps) == ("Four.", ["plan/call/1"])


async def test_a_direct_answer_of_a_schema_is_shaped_by_the_synthesizer(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}
    scripts = {
        "planner": plan_json(direct_answer="Four."),
        "synthesizer": json.dumps({"sum": 4}),
    }
    run = await ran(tmp_path, scripts, output_schema=schema)
    assert run.reply["value"] == {"sum": 4}
    assert run.steps == ["plan/call/1", "synthesis/call/1"]
