"""Plans that a client got, changed and gave back."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from clients import connected
from concertmaster.runs.intake import RunPolicy
from fakes import Script, plan_json, subtask
from patterns import InFlight, critique, decision, run_on

pytestmark = pytest.mark.anyio

INPUTS = [{"name": name, "text": f"about {name}"} for name in ("a", "b")]
TASTER = {
    "name": "taster",
    "description": "Tastes.",
    "instructions": "You taste soup.",
    "why": "Nobody here tastes.",
}


async def test_a_plan_runs_as_it_was_edited(tmp_path: Path) -> None:
    planned = plan_json(
        subtask("s1", inputs=["a", "b"], strategy={"kind": "revise", "critic": "critic"}),
        subtask("s2", "writer"),
        subtask("s3", "taster", depends_on=["s2"]),
        custom_workers=[TASTER],
        verify="report",
        mode="adaptive",
    )
    scripts: dict[str, Script] = {
        "planner": planned,
        # Two parts and three voters, all at work at once.
        "worker:analyst": (five := InFlight(5, "done")),
        "worker:writer": five,
        "orchestrator": decision(done=True, reason="that is all"),
    }
    async with connected(tmp_path, scripts) as connection:
        plan = await connection.ask("plan_task", task="check it", inputs=INPUTS)
        assert (plan["mode"], plan["verify"]) == ("adaptive", "report")
        assert plan["custom_workers"] == [TASTER]
        keys = ("analysis", "mode", "verify", "custom_workers", "subtasks")
        edited = {key: plan[key] for key in keys}
        assert edited["subtasks"][0]["strategy"] == {"kind": "revise", "critic": "critic"}
        edited["subtasks"][0]["strategy"] = "map"
        edited["subtasks"][1]["strategy"] = {"kind": "vote", "decide": "consensus", "answers": 3}
        edited["verify"] = "none"
        run = await run_on(connection, plan=edited, inputs=INPUTS)
    assert [line.get("strategy", "single") for line in run.reply["subtasks"]] == [
        "map 2 parts",
        "vote 3 by consensus",
        "single",
    ]
    assert run.statuses == ["succeeded"] * 3
    assert run.reply["decisions"] == ["that is all"]
    assert run.calls["planner"] == 1
    assert run.calls["worker:taster"] == 1
    assert "verifier" not in run.calls


async def test_what_had_to_be_left_out_of_a_plan_is_missing_from_a_run_of_it_too(
    tmp_path: Path,
) -> None:
    three = plan_json(*(subtask(f"s{number}") for number in (1, 2, 3)))
    async with connected(tmp_path, {"planner": three}) as connection:
        plan = await connection.ask("plan_task", task="check it", max_subtasks=2)
        run = await run_on(connection, plan_id=plan["plan_id"], task="", max_subtasks=2)
    assert plan["status"] == run.reply["status"] == "partial"
    assert "'s3' was left out" in plan["reasons"][0]
    assert run.reply["reasons"] == plan["reasons"]


async def test_a_plan_with_workers_of_its_own_is_refused_where_none_may_be_written(
    tmp_path: Path,
) -> None:
    plan = {
        "subtasks": [subtask("s1", "taster").model_dump(mode="json")],
        "custom_workers": [TASTER],
    }
    constrained = RunPolicy(decomposition="constrained")
    async with connected(tmp_path, {}, policy=constrained) as connection:
        error = await connection.refusal("run_orchestration", task="check it", plan=plan)
    assert "brings 1 custom workers; this run allows none" in error


@pytest.mark.parametrize(
    ("decomposition", "names"),
    [("constrained", []), ("hybrid", ["taster"]), ("dynamic", ["taster", "cook"])],
)
async def test_a_client_decides_how_many_workers_a_planner_may_write(
    decomposition: str, names: list[str], tmp_path: Path
) -> None:
    planned = plan_json(
        *(subtask(f"s{number}", name) for number, name in enumerate(("taster", "cook"), start=1)),
        custom_workers=[TASTER, {**TASTER, "name": "cook"}],
    )
    async with connected(tmp_path, {"planner": planned}) as connection:
        plan = await connection.ask("plan_task", task="soup", decomposition=decomposition)
    assert [worker["name"] for worker in plan.get("custom_workers", [])] == names
    assert bool(plan.get("warnings")) == (decomposition != "dynamic")


async def test_a_plan_keeps_to_the_workers_that_were_named_beside_it(tmp_path: Path) -> None:
    plan = {"subtasks": [subtask("s1", "analyst").model_dump(mode="json")]}
    async with connected(tmp_path, {}) as connection:
        error = await connection.refusal(
            "run_orchestration", task="check it", plan=plan, workers=["writer"]
        )
    assert "names the worker 'analyst', which does not exist; available: writer" in error


async def test_a_plan_runs_by_its_id_with_its_strategies(tmp_path: Path) -> None:
    planned = plan_json(subtask("s1", strategy={"kind": "revise"}))
    async with connected(tmp_path, {"planner": planned, "critic": critique()}) as connection:
        plan = await connection.ask("plan_task", task="check it")
        run = await run_on(connection, plan_id=plan["plan_id"], task="")
    assert run.steps == ["subtask/s1/call/1", "subtask/s1/critique/1/call/1"]


async def test_a_client_s_plan_may_use_the_other_common_names_of_its_keys(
    tmp_path: Path,
) -> None:
    given = {
        "tasks": [
            {"task_id": "s1", "task_type": "analyst", "description": "find"},
            {
                "task_id": "s2",
                "task_type": "writer",
                "description": "write",
                "dependencies": ["s1"],
            },
        ]
    }
    async with connected(tmp_path) as connection:
        run = await run_on(connection, plan=given)
        assert run.statuses == ["succeeded"] * 2
        assert "planner" not in run.calls
        again = await connection.ask("resume_run", run_id=run.reply["run_id"], plan=given)
        assert again["status"] == "succeeded"


async def test_a_wrong_key_of_a_client_s_plan_is_refused_with_the_right_one(
    tmp_path: Path,
) -> None:
    wrong = {"tasks": [{"id": "s1", "worker": "analyst", "objektive": "find"}]}
    async with connected(tmp_path) as connection:
        refusal = await connection.refusal("run_orchestration", task="t", plan=wrong)
    assert "plan.tasks[0].objektive: there is no such key; did you mean 'objective'?" in refusal


@pytest.mark.parametrize(
    ("strategy", "sentence"),
    [
        (
            "revize",
            "strategy (\"revize\" was given): its kind is 'revize'; kinds are single, revise, "
            "vote, map.",
        ),
        (
            {"rounds": 2},
            'strategy ({"rounds": 2} was given): it has no kind; kinds are single, revise, vote, '
            "map.",
        ),
        (
            {"kind": "revise", "rounds": 9},
            "strategy.rounds must be at most 5, not 9.",
        ),
        (
            {"kind": "revise", "critik": "critic"},
            "strategy.critik: there is no such key; did you mean 'critic'?",
        ),
        (
            {"kind": "revise", "critic": "warden"},
            "The strategy of subtask 's1' names the worker 'warden', which does not exist; "
            "available: analyst, critic, writer.",
        ),
        (
            {"kind": "vote", "decide": "rubric"},
            "The strategy of subtask 's1' scores answers by a rubric, but names no criteria.",
        ),
        (
            {"kind": "vote", "voters": [{"worker": "critic"}]},
            "The strategy of subtask 's1' has one voter; it takes two to vote.",
        ),
        (
            {"kind": "map"},
            "The strategy of subtask 's1' goes over inputs, but the subtask has none.",
        ),
        (
            {"kind": "map", "over": "contexts", "contexts": ["de"]},
            'a context is an object, or a list of {"key": …, "value": …}.',
        ),
        (
            {"kind": "map", "over": "chapters"},
            'strategy.over must be "inputs", "sections" or "contexts", not "chapters".',
        ),
    ],
)
async def test_a_strategy_that_cannot_be_is_told_with_what_to_change(
    strategy: Any, sentence: str, tmp_path: Path
) -> None:
    wrong: Mapping[str, Any] = {
        "subtasks": [{"id": "s1", "worker": "analyst", "objective": "x", "strategy": strategy}]
    }
    async with connected(tmp_path) as connection:
        told = await connection.refusal("run_orchestration", task="x", plan=wrong)
        assert connection.llm.requests == []
    assert sentence in told
    assert "tagged-union" not in told


async def test_what_a_planner_asks_for_twice_is_done_once(tmp_path: Path) -> None:
    same = [subtask(name, objective="Find what is wrong.") for name in ("s1", "s2")]
    planned = plan_json(*same, subtask("s3", "critic", depends_on=["s1", "s2"]))
    async with connected(tmp_path, {"planner": planned}) as connection:
        run = await run_on(connection)
    assert run.calls == {"planner": 1, "worker:analyst": 1, "worker:critic": 1, "synthesizer": 1}
    assert run.statuses == ["succeeded", "succeeded"]
    assert run.reply["warnings"] == ["Subtask 's2' was to do the same as 's1'; it is done once."]


async def test_a_given_plan_with_more_parts_than_may_be_is_refused_before_any_call(
    tmp_path: Path,
) -> None:
    contexts = [{"n": str(number)} for number in range(101)]
    parts = subtask("s1", strategy={"kind": "map", "over": "contexts", "contexts": contexts})
    async with connected(tmp_path) as connection:
        plan = json.loads(plan_json(parts))
        sentence = await connection.refusal("run_orchestration", task="x", plan=plan)
        assert connection.llm.requests == []
    assert "has 101 parts; one subtask may have 100." in sentence
