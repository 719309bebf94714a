"""What a person sees of strategies, decisions, findings, guards and workers of a plan's own."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from rich.console import Console

from concertmaster.cli.view.live import lines, render
from concertmaster.engine.events import (
    CallStarted,
    Event,
    Finding,
    GuardDecided,
    PlanAccepted,
    PlanRevised,
    ResultsVerified,
    RunStarted,
)
from concertmaster.engine.plan.plan import Plan
from concertmaster.engine.request import RunRequest
from concertmaster.runs.state import RunState, fold
from fakes import FakeLLM, plan_json, subtask
from patterns import critique, decision, finding, findings, screening

START = 1_700_000_000.0

PLAN = Plan(
    mode="adaptive",
    subtasks=(
        subtask("s1", inputs=["a.md", "b.md"], strategy={"kind": "map"}),
        subtask("s2", "critic", strategy={"kind": "vote", "decide": "consensus"}),
        subtask("s3", "writer", strategy={"kind": "revise"}, depends_on=["s1"]),
        subtask("s4", "writer", strategy={"kind": "map", "over": "sections"}),
        subtask("s5"),
    ),
)


def call(step: str, caller: str, subtask_id: str | None = None) -> CallStarted:
    return CallStarted(
        name=f"{step}/start",
        at=START + 2,
        step=step,
        caller=caller,
        model="some-model",
        subtask_id=subtask_id,
    )


def state_after(*events: Event, guard: str = "") -> RunState:
    started = RunStarted(name="run/start", at=START, request=RunRequest(task="x", guard=guard))
    return fold("r-1", [started, *events], alive=True)


PLANNED = PlanAccepted(name="plan/1", at=START + 1, plan=PLAN)


def drawn(state: RunState, width: int = 120) -> str:
    file = io.StringIO()
    Console(file=file, width=width, color_system=None).print(render(state, START + 3))
    return file.getvalue()


def test_a_frame_shows_how_each_subtask_is_done() -> None:
    text = drawn(state_after(PLANNED))
    rows = {line.split()[1]: line for line in text.splitlines() if re.match(r"\S  s\d", line)}
    assert "map 2 parts" in rows["s1"]
    assert "vote 3 by consensus" in rows["s2"]
    assert "revise up to 2" in rows["s3"]
    assert "map sections" in rows["s4"]
    assert "single" not in rows["s5"]


def test_a_frame_without_strategies_has_no_room_for_them() -> None:
    plain = Plan(subtasks=(subtask("s1", objective="o" * 200),))
    with_them = Plan(subtasks=(*plain.subtasks, subtask("s2", strategy={"kind": "revise"})))
    widths = [
        drawn(state_after(PLANNED.model_copy(update={"plan": plan}))).count("o")
        for plan in (plain, with_them)
    ]
    assert widths[0] > widths[1]


@pytest.mark.parametrize("width", [40, 79, 80, 120])
def test_a_frame_with_strategies_fits_any_terminal(width: int) -> None:
    shown = drawn(state_after(PLANNED), width=width).splitlines()
    assert max(len(line) for line in shown) <= width


def test_a_frame_counts_the_calls_that_are_under_way() -> None:
    parts = [call(f"subtask/s1/part/{n}/call/1", "worker:analyst", "s1") for n in (1, 2)]
    state = state_after(PLANNED, *parts)
    state.subtasks["s1"].status = "running"
    assert "some-model (2)" in drawn(state)


@pytest.mark.parametrize(
    ("caller", "said"),
    [
        ("orchestrator", "deciding what comes next"),
        ("verifier", "checking the results against one another"),
    ],
)
def test_the_last_line_says_what_the_run_as_a_whole_waits_for(caller: str, said: str) -> None:
    assert said in drawn(state_after(PLANNED, call("step", caller))).splitlines()[-1]


def test_the_last_line_says_that_the_guard_is_not_through() -> None:
    state = state_after(PLANNED, guard="warden").shown()
    assert (
        drawn(state)
        .splitlines()[-1]
        .split(maxsplit=1)[1]
        .startswith("the guard warden is reading; nothing shows before it is through")
    )


DECIDED = (
    GuardDecided(name="guard", at=START + 2, passed=True),
    PLANNED,
    PlanRevised(name="plan/2", at=START + 3, plan=PLAN, done=True, reason="s1 settles it"),
    ResultsVerified(
        name="verification",
        at=START + 4,
        findings=(Finding(subtasks=("s1",), severity="high", what="Four is not five."),),
    ),
)


def test_decisions_and_findings_stand_below_the_subtasks() -> None:
    shown = drawn(state_after(*DECIDED, guard="warden")).splitlines()
    assert [line.strip() for line in shown[-4:-1]] == [
        "guard warden: passed",
        "decision: s1 settles it",
        "results do not agree: Four is not five.",
    ]


def test_without_a_terminal_decisions_and_findings_are_lines_too() -> None:
    told = lines(state_after(*DECIDED, guard="warden"), START)
    assert told[-3:] == [
        "guard warden: passed",
        "decision: s1 settles it",
        "results do not agree: Four is not five.",
    ]
    assert "  s2 critic: do s2 · vote 3 by consensus" in told


Invoke = Callable[..., Result]

WRITTEN = {
    "name": "taster",
    "description": "Tastes.",
    "instructions": "You taste soup.",
    "why": "Nobody here tastes.",
}


@pytest.fixture
def ran(invoke: Invoke, answer_with: Callable[[FakeLLM], None], tmp_path: Path) -> str:
    """Return the id of a run with everything."""
    folder = tmp_path / "workers"
    folder.mkdir()
    (folder / "warden.md").write_text("---\nname: warden\ndescription: Guards.\n---\nYou guard.")
    plan = plan_json(
        subtask("s1", "taster", strategy={"kind": "revise", "critic": "reviewer"}),
        subtask("s2", strategy={"kind": "vote", "decide": "consensus", "answers": 2}),
        mode="adaptive",
        why="the soup decides",
        verify="report",
        custom_workers=[WRITTEN],
    )
    scripts = {
        "planner": plan,
        "critic": critique(),
        "orchestrator": decision(done=True, reason="it is soup"),
        "verifier": findings(finding("Hot is not cold.", "s1", "s2")),
        "guard": screening(allowed=True),
    }
    answer_with(FakeLLM(scripts))
    result = invoke("run", "Taste it", "--guard", "warden", "--workers-dir", str(folder))
    assert result.exit_code == 0, result.stderr
    assert "Results do not agree: Hot is not cold." in result.stderr
    found = re.search(r"concertmaster show (r-\S+)", result.stderr)
    assert found is not None
    return found.group(1)


def test_a_run_is_shown_with_all_that_decided_it(invoke: Invoke, ran: str) -> None:
    shown = invoke("show", ran).stdout
    facts = dict(re.findall(r"^(\w+) {2,}(.+?) *$", shown, flags=re.MULTILINE))
    assert facts["guard"] == "warden · passed"
    assert facts["mode"] == "adaptive · the soup decides"
    assert facts["findings"] == "Hot is not cold."
    assert facts["written"] == "taster: Tastes."
    assert "it is soup" in facts["decisions"]
    assert "revise up to 2" in shown
    assert "Won by a majority of 2 of 2." in shown


def test_a_result_is_shown_with_how_it_came_about(invoke: Invoke, ran: str) -> None:
    result = invoke("show", ran, "--subtask", "s1")
    assert result.stderr == "A critic read it; it was revised not at all.\n"
    data = json.loads(invoke("show", ran, "--subtask", "s2", "--json").stdout)
    assert data["notes"] == ["Won by a majority of 2 of 2."]


def test_json_has_all_that_decided_a_run(invoke: Invoke, ran: str) -> None:
    data = json.loads(invoke("show", ran, "--json").stdout)
    assert data["guard"] == "passed"
    assert data["findings"] == ["Hot is not cold."]
    assert data["custom_workers"] == ["taster: Tastes."]
    assert data["decisions"][-1] == "it is soup"
    lines_of = {line["subtask_id"]: line for line in data["subtasks"]}
    assert lines_of["s1"]["strategy"] == "revise up to 2"
    assert lines_of["s2"]["notes"] == "Won by a majority of 2 of 2."


def test_a_plan_is_printed_with_its_mode_strategies_and_workers(
    invoke: Invoke, answer_with: Callable[[FakeLLM], None]
) -> None:
    plan = plan_json(
        subtask("s1", "taster", strategy={"kind": "revise", "critic": "reviewer"}, decisive=True),
        mode="adaptive",
        why="The soup decides.",
        verify="mend",
        custom_workers=[WRITTEN],
    )
    answer_with(FakeLLM({"planner": plan}))
    printed = invoke("plan", "Taste it").stdout
    assert "Mode: adaptive. The soup decides. Results are checked against one another: mend." in (
        printed
    )
    assert '- Strategy: revise up to 2, critic "reviewer"' in printed
    assert "- Decisive: what comes next is decided when it has ended" in printed
    assert "**taster**, written for this run: Tastes." in printed
    data = json.loads(invoke("plan", "Taste it", "--json").stdout)
    assert (data["mode"], data["why"], data["verify"]) == ("adaptive", "The soup decides.", "mend")
    assert data["custom_workers"] == [WRITTEN]
    assert data["subtasks"][0]["strategy"] == {"kind": "revise", "critic": "reviewer", "rounds": 2}
