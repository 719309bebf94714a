"""Subtasks that do the same: which are merged, and which only give rise to a warning."""

import json
from typing import Any

import pytest

from building import drive
from concertmaster.engine.events import PlanAccepted
from concertmaster.engine.plan.plan import Plan
from concertmaster.engine.plan.validation import merged, overlaps
from concertmaster.engine.request import RunRequest
from fakes import plan_json, subtask

pytestmark = pytest.mark.anyio

FIND: dict[str, Any] = {"objective": "Find what is wrong with the prices.", "inputs": ["a", "b"]}


def test_subtasks_that_ask_for_the_same_become_one_on_which_others_depend() -> None:
    plan = Plan(
        subtasks=(
            subtask("s1", **FIND, priority="low", needs_all=True),
            subtask(
                "s2",
                objective="find what  is wrong with the Prices",
                inputs=["b", "a"],
                priority="high",
                decisive=True,
            ),
            subtask("s3", "critic", depends_on=["s2", "s1"]),
        )
    )
    whole, warnings = merged(plan)
    first, last = whole.subtasks
    assert (first.id, first.priority, first.decisive, first.needs_all) == (
        "s1",
        "high",
        True,
        False,
    )
    assert last.depends_on == ("s1",)
    assert warnings == ["Subtask 's2' was to do the same as 's1'; it is done once."]


def test_chains_that_do_the_same_become_one() -> None:
    plan = Plan(
        subtasks=(
            subtask("s1", **FIND),
            subtask("s2", **FIND),
            subtask("s3", objective="Mend it.", depends_on=["s1"]),
            subtask("s4", objective="Mend it.", depends_on=["s2"]),
        )
    )
    whole, warnings = merged(plan)
    assert [item.id for item in whole.subtasks] == ["s1", "s3"]
    assert len(warnings) == 2


@pytest.mark.parametrize(
    "other",
    [
        {"worker": "critic"},
        {"inputs": ["a"]},
        {"objective": "Find what is wrong with the dates."},
        {"expects": "in Danish"},
        {"depends_on": ["s0"]},
        {"strategy": {"kind": "vote"}},
    ],
    ids=["worker", "inputs", "objective", "expects", "depends_on", "strategy"],
)
def test_subtasks_that_differ_in_what_matters_stay_apart(other: dict[str, Any]) -> None:
    plan = Plan(
        subtasks=(
            subtask("s0", objective="Something else."),
            subtask("s1", **FIND),
            subtask("s2", **(FIND | other)),
        )
    )
    assert merged(plan) == (plan, [])


def test_objectives_that_are_nearly_the_same_give_rise_to_a_warning() -> None:
    words = "Find what is wrong with the prices in the list of"
    near = [subtask("s1", objective=f"{words} May"), subtask("s2", objective=f"{words} June")]
    assert overlaps(near) == ["Subtasks 's1' and 's2' seem to do the same with the same inputs."]
    assert overlaps([near[0], subtask("s2", objective=f"{words} June", inputs=["a"])]) == []
    assert overlaps([near[0], subtask("s2", objective="Look elsewhere.")]) == []


async def test_a_plan_with_the_same_work_twice_does_it_once_also_while_it_is_written() -> None:
    same = [subtask(name, objective="Find it.") for name in ("s1", "s2")]
    written = plan_json(*same, subtask("s3", "critic", depends_on=["s2"]))
    run, llm = await drive(RunRequest(task="t"), {"planner": written})
    assert llm.callers().count("worker:analyst") == 1
    (accepted,) = [event for event in run.events if isinstance(event, PlanAccepted)]
    assert [item.id for item in accepted.plan.subtasks] == ["s1", "s3"]
    assert "it is done once" in accepted.warnings[0]
    assert run.end.status == "succeeded"


async def test_a_given_plan_is_done_as_it_stands() -> None:
    plan = json.loads(plan_json(subtask("s1", **FIND), subtask("s2", **FIND)))
    request = RunRequest.model_validate({"task": "t", "plan": plan})
    _, llm = await drive(request, {}, inputs={"a": "x", "b": "y"})
    assert llm.callers().count("worker:analyst") == 2
