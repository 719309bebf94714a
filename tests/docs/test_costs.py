"""What the README says that modes and strategies cost, against the calls that they make."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from clients import connected
from concertmaster.engine.plan.plan import Plan
from concertmaster.engine.request import RunRequest
from concertmaster.errors import ModelRequestError
from concertmaster.llm.messages import Request
from concertmaster.replies.graph import plan_graph
from fakes import Script, in_turn, plan_json, subtask, texts
from patterns import critique, decision, finding, findings, judging, ran, scores, screening

pytestmark = pytest.mark.anyio

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
SECTION = README[README.index("## Modes and strategies") :]

INPUTS = [{"name": name, "text": f"about {name}"} for name in "abcd"]
CRITERIA = [{"name": "true"}, {"name": "short"}]


def score(request: Request) -> str:
    """Score an answer by what is asked for."""
    asked = [name for name in ("true", "short") if f"- {name}" in texts([request])[0]]
    return scores(**dict.fromkeys(asked, 5))


SCRIPTS: Mapping[str, Script] = {
    "critic": critique("Say why."),
    "judge": judging("done"),
    "rubric": score,
}


def row_of(name: str) -> str:
    """Return the calls that the README gives for a mode or strategy."""
    row = re.search(rf"^\| {re.escape(name)} \| [^|]+ \| ([^|]+) \|$", SECTION, flags=re.MULTILINE)
    assert row is not None, name
    return row.group(1)


STRATEGIES: Mapping[str, tuple[str, str, Mapping[str, Any], int]] = {
    "single": ("`single`", "`1`", {"kind": "single"}, 1),
    "revise": (
        "`revise`",
        "`2 + 2·r` at most for `r` rounds",
        {"kind": "revise", "rounds": 3},
        2 + 2 * 3,
    ),
    "judge": (
        "`vote`, decide `judge`",
        "`k + 1` for `k` answers",
        {"kind": "vote", "answers": 4},
        4 + 1,
    ),
    "rubric": (
        "`vote`, decide `rubric`",
        "`k + k`;",
        {"kind": "vote", "answers": 4, "decide": "rubric", "criteria": CRITERIA},
        4 + 4,
    ),
    "rubric by criterion": (
        "`vote`, decide `rubric`",
        "`k + k·c` with `separate_criteria`",
        {
            "kind": "vote",
            "answers": 4,
            "decide": "rubric",
            "criteria": CRITERIA,
            "separate_criteria": True,
        },
        4 + 4 * 2,
    ),
    "consensus": (
        "`vote`, decide `consensus` or `weighted`",
        "`k` at most",
        {"kind": "vote", "answers": 4, "decide": "consensus", "share": 0.9},
        4,
    ),
    "map": ("`map`", "`1` for each part", {"kind": "map"}, 4),
}


@pytest.mark.parametrize(
    ("name", "formula", "strategy", "calls"), STRATEGIES.values(), ids=STRATEGIES
)
async def test_a_strategy_makes_as_many_calls_as_the_readme_says(
    name: str, formula: str, strategy: Mapping[str, Any], calls: int, tmp_path: Path
) -> None:
    assert formula in row_of(name)
    plan = plan_json(subtask("s1", strategy=strategy, inputs=list("abcd")))
    answers = in_turn("done", *(f"answer {number}" for number in range(2, 20)))
    scripts = {"planner": plan, "worker:analyst": answers, **SCRIPTS}
    run = await ran(tmp_path, scripts, inputs=INPUTS)
    assert len(run.llm.requests) - run.calls["planner"] == calls


@pytest.mark.parametrize("name", ["judge", "rubric"])
async def test_identical_answers_cost_what_the_readme_says(name: str, tmp_path: Path) -> None:
    row, _, strategy, _ = STRATEGIES[name]
    assert "only `k` if all answers are the same" in row_of(row)
    plan = plan_json(subtask("s1", strategy=strategy))
    run = await ran(tmp_path, {"planner": plan, **SCRIPTS})
    assert len(run.llm.requests) - 1 == 4


async def test_a_satisfied_critic_costs_what_the_readme_says(tmp_path: Path) -> None:
    assert row_of("`revise`").startswith("`2`, and")
    plan = plan_json(subtask("s1", strategy={"kind": "revise"}))
    run = await ran(tmp_path, {"planner": plan, "critic": critique()})
    assert len(run.llm.requests) - 1 == 2


RUNS: Mapping[str, tuple[str, str, Mapping[str, Any], Mapping[str, Script], int]] = {
    "static": ("mode `static`", "none", {"mode": "static"}, {}, 0),
    "adaptive": (
        "mode `adaptive`",
        "`1` for each decision",
        {"mode": "adaptive"},
        {"orchestrator": decision(done=True)},
        1,
    ),
    "report": ("`verify`: `report`", "`1`", {"verify": "report"}, {"verifier": findings()}, 1),
    "mend": (
        "`verify`: `mend`",
        "`1`, and `1` for each result concerned",
        {"verify": "mend"},
        {"verifier": findings(finding("They differ.", "s1", "s2"))},
        1 + 2,
    ),
    "guard": ("`guard`", "`1`", {"guard": "writer"}, {"guard": screening(allowed=True)}, 1),
}


@pytest.mark.parametrize(("name", "formula", "asked", "scripts", "calls"), RUNS.values(), ids=RUNS)
async def test_a_run_makes_as_many_calls_more_as_the_readme_says(
    name: str,
    formula: str,
    asked: Mapping[str, Any],
    scripts: Mapping[str, Script],
    calls: int,
    tmp_path: Path,
) -> None:
    assert formula in row_of(name)
    # The second waits for the first, so that the end is the only occasion for a decision.
    plan = plan_json(subtask("s1"), subtask("s2", depends_on=["s1"]), subtask("s3", "critic"))
    usual = {"planner", "worker:analyst", "worker:critic", "synthesizer"}
    run = await ran(tmp_path, {"planner": plan, **scripts}, **asked)
    besides = sum(count for caller, count in run.calls.items() if caller not in usual)
    mended = run.calls["worker:analyst"] + run.calls["worker:critic"] - 3
    assert besides + mended == calls
    assert run.reply["status"] == "succeeded"


async def test_decisions_end_where_the_readme_says(tmp_path: Path) -> None:
    assert "6 at most (`rounds`)" in row_of("mode `adaptive`")
    numbers = iter(range(2, 50))

    def more(_: object) -> str:
        return decision(add=[subtask(f"s{next(numbers)}", objective=f"look {'x' * 40}")])

    plan = plan_json(subtask("s1"), mode="adaptive")
    run = await ran(tmp_path, {"planner": plan, "orchestrator": more}, max_subtasks=50)
    assert run.calls["orchestrator"] == 6
    assert run.reply["status"] == "partial"


async def test_a_direct_answer_costs_what_the_readme_says(tmp_path: Path) -> None:
    assert row_of("direct answer") == "`1` in all"
    run = await ran(tmp_path, {"planner": plan_json(direct_answer="Four.")})
    assert len(run.llm.requests) == 1


async def test_a_map_has_no_more_parts_than_the_readme_says(tmp_path: Path) -> None:
    assert "at most 100" in row_of("`map`")
    many = [{"name": f"n{number}", "text": "x"} for number in range(101)]
    names = [item["name"] for item in many]
    plan = json.loads(plan_json(subtask("s1", strategy={"kind": "map"}, inputs=names)))
    async with connected(tmp_path) as connection:
        order = {"task": "x", "plan": plan, "inputs": many}
        sentence = await connection.refusal("run_orchestration", **order)
        assert connection.llm.requests == []
    assert "has 101 parts; one subtask may have 100." in sentence


def test_the_flowchart_in_the_readme_is_of_the_plan_above_it() -> None:
    section = SECTION[SECTION.index("### A plan to edit") :]
    found = re.search(
        r"```json\n(.*?)```.*?for the task \"(.*?)\".*?```mermaid\n(.*?)```", section, re.DOTALL
    )
    assert found is not None
    plan, task, chart = found.groups()
    assert chart == plan_graph(Plan.model_validate_json(plan), RunRequest(task=task))


async def test_the_plan_in_the_readme_runs(tmp_path: Path) -> None:
    section = SECTION[SECTION.index("### A plan to edit") :]
    text = re.search(r"```json\n(.*?)```", section, flags=re.DOTALL)
    assert text is not None
    plan = Plan.model_validate_json(text.group(1))
    names = {item.worker for item in plan.subtasks} | {"reviewer"}
    assert {item.strategy.kind for item in plan.subtasks} == {"map", "vote", "revise"}
    text_of_plan = text.group(1)
    # The workers of the tests stand in for the built-in ones.
    for name in names - {"analyst", "writer", "tax-reader"}:
        text_of_plan = text_of_plan.replace(f'"{name}"', '"critic"')
    edited = Plan.model_validate_json(text_of_plan).model_dump(mode="json")
    inputs = [{"name": f"{name}.md", "text": "x"} for name in "abc"]
    scripts: dict[str, Script] = {
        "critic": critique(),
        "rubric": ModelRequestError("Not today."),
        "orchestrator": decision(done=True),
        "verifier": findings(),
    }
    run = await ran(tmp_path, scripts, plan=edited, inputs=inputs)
    assert run.reply["status"] in ("succeeded", "partial")
    assert len(run.statuses) == 4
