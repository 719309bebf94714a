"""Whole runs without a language model: what rules can do of each pattern, and what they say."""

from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

import pytest

from asking import EXAMPLES
from concertmaster.cli.bootstrap import open_runs
from concertmaster.engine.plan.plan import Plan
from concertmaster.runs.orders import RunOrder
from concertmaster.runs.service import RunService
from concertmaster.runs.state import RunState
from concertmaster.settings.load import Settings

pytestmark = pytest.mark.anyio

REVIEW = "Review this code for security and style"


@pytest.fixture
async def service(tmp_path: Path) -> AsyncGenerator[RunService]:
    loaded = Settings.load({"offline": True, "data_folder": tmp_path})
    async with open_runs(loaded, roots=(EXAMPLES,)) as runs:
        yield runs


async def ended(service: RunService, order: RunOrder) -> RunState:
    started = await service.start(order)
    return await service.wait(started.run_id, seconds=15)


async def done_by(service: RunService, strategy: Mapping[str, Any]) -> RunState:
    plan = Plan.model_validate(
        {
            "subtasks": [
                {
                    "id": "s1",
                    "worker": "security-reviewer",
                    "objective": "Find security faults.",
                    "inputs": ["shop/app.py"],
                    "strategy": strategy,
                }
            ]
        }
    )
    return await ended(service, RunOrder(task="Review", plan=plan, inputs=("shop/app.py",)))


async def test_what_is_planned_says_why_it_is_planned_once(service: RunService) -> None:
    state = await ended(service, RunOrder(task=REVIEW, inputs=("shop/app.py",)))
    assert state.status == "succeeded"
    assert state.plan is not None
    assert state.plan.mode == "static"
    assert "does not change what the others look for" in state.plan.why


@pytest.mark.parametrize(
    ("strategy", "note"),
    [({"kind": "map"}, ""), ({"kind": "vote", "decide": "consensus"}, "Won by a majority of ")],
)
async def test_parts_and_majorities_need_no_judgement(
    strategy: Mapping[str, Any], note: str, service: RunService
) -> None:
    alone = await done_by(service, {"kind": "single"})
    state = await done_by(service, strategy)
    assert state.status == "succeeded"
    assert alone.answer in state.answer
    result = state.subtasks["s1"].result
    assert result is not None
    assert " ".join(result.notes).startswith(note)
    assert bool(result.notes) is bool(note)


@pytest.mark.parametrize(
    "strategy",
    [{"kind": "vote"}, {"kind": "vote", "decide": "rubric", "criteria": [{"name": "true"}]}],
)
async def test_answers_by_the_same_rules_are_the_same_and_need_no_judgement(
    strategy: Mapping[str, Any], service: RunService
) -> None:
    alone = await done_by(service, {"kind": "single"})
    state = await done_by(service, strategy)
    assert (state.status, state.answer) == ("succeeded", alone.answer)
    result = state.subtasks["s1"].result
    assert result is not None
    assert result.notes == ("All 3 answers are the same, so none was judged.",)


async def test_what_needs_a_judgement_keeps_the_result_and_says_what_is_missing(
    service: RunService,
) -> None:
    alone = await done_by(service, {"kind": "single"})
    state = await done_by(service, {"kind": "revise"})
    assert (state.status, state.answer) == ("partial", alone.answer)
    (reason,) = state.reasons
    sentence = "The offline model works by fixed rules, which cannot criticise a result. For that,"
    assert reason.count(sentence) == 1


async def test_an_adaptive_run_does_what_the_plan_had_and_says_that_it_never_changed(
    service: RunService,
) -> None:
    static = await ended(service, RunOrder(task=REVIEW, inputs=("shop/app.py",), mode="static"))
    state = await ended(service, RunOrder(task=REVIEW, inputs=("shop/app.py",), mode="adaptive"))
    assert state.status == "partial"
    assert static.answer.splitlines()[:12] == state.answer.splitlines()[:12]
    (reason,) = state.reasons
    assert "fixed rules, which cannot decide what to do next." in reason


async def test_results_that_rules_cannot_check_are_answered_from(service: RunService) -> None:
    order = RunOrder(task=REVIEW, inputs=("shop/app.py",), verify="mend")
    state = await ended(service, order)
    assert (state.status, state.answer != "") == ("partial", True)
    assert "which cannot check results against one another." in state.reasons[0]


async def test_a_guard_that_rules_cannot_be_lets_nothing_pass(service: RunService) -> None:
    order = RunOrder(task=REVIEW, inputs=("shop/app.py",), guard="analyst")
    state = await ended(service, order)
    assert (state.status, state.answer) == ("failed", "")
    assert "which cannot screen a task." in state.reasons[0]
