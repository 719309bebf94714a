import io
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console

from concertmaster.cli.view.live import LineView, open_view, render
from concertmaster.engine.events import ToolAsked
from concertmaster.runs.state import RunState

START = 1_700_000_000.0

RunAt = Callable[[str], RunState]


def drawn(state: RunState, *, width: int = 120, seconds: float = 4) -> str:
    file = io.StringIO()
    Console(file=file, width=width, color_system=None).print(render(state, START + seconds))
    return file.getvalue()


def row(text: str, name: str) -> str:
    return next(line for line in text.splitlines() if f" {name} " in line)


def test_a_frame_of_a_run_that_is_being_planned_says_so_and_for_how_long(run_at: RunAt) -> None:
    assert "planning · 4.0s" in drawn(run_at("run/start"))


def test_a_frame_begins_with_the_task_in_one_line_without_what_a_terminal_obeys(
    run_at: RunAt,
) -> None:
    lines = drawn(run_at("run/start")).splitlines()
    assert [line.strip() for line in lines[:3]] == [
        "Review this code for [31mproblems",
        "r-1",
        "No language model.",
    ]


def test_a_model_that_has_nothing_to_note_leaves_no_line_for_it(run_at: RunAt) -> None:
    state = run_at("run/start")
    state.notice = ""
    assert len(drawn(state).splitlines()) == 3


def test_a_running_subtask_shows_what_it_waits_for_and_its_time_so_far(run_at: RunAt) -> None:
    text = drawn(run_at("subtask/s1/call/1/start"), seconds=75)
    assert row(text, "s1").split()[-2:] == ["some-model", "1m13s"]


def test_a_waiting_subtask_shows_what_it_comes_after(run_at: RunAt) -> None:
    text = drawn(run_at("plan"))
    assert "after s1, s2" in row(text, "s4")
    assert "waits" in row(text, "s1")


def test_a_subtask_that_was_paid_for_shows_its_tokens_and_cost(run_at: RunAt) -> None:
    text = drawn(run_at("subtask/s1/result"))
    assert row(text, "s1").split()[-3:] == ["3.0s", "12.9k", "$0.0495"]


@pytest.mark.parametrize(
    ("name", "sign", "problem"),
    [
        ("s1", "✓", "Find injection"),
        ("s2", "✗", "The provider did not answer."),
        ("s3", "-", "s2 failed."),
        ("s4", "◐", "The reply was cut."),
    ],
)
def test_an_ended_subtask_shows_how_it_ended_and_why(
    name: str, sign: str, problem: str, run_at: RunAt
) -> None:
    line = row(drawn(run_at("run/end")), name)
    assert line.startswith(sign)
    assert problem in line


def test_the_last_line_counts_what_is_done_and_sums_what_it_took(run_at: RunAt) -> None:
    last = drawn(run_at("subtask/s3/result"), seconds=7).rstrip().splitlines()[-1]
    assert last.endswith("3 of 4 subtasks done · 7.0s · 12.9k tokens · $0.0495 of $2.00")


def test_the_last_line_says_when_the_answer_is_being_written(run_at: RunAt) -> None:
    assert "writing the answer · 9.0s" in drawn(run_at("synthesis/start"), seconds=9)


def test_the_time_of_a_run_that_is_over_stands_still(run_at: RunAt) -> None:
    assert "partial · 1m10s" in drawn(run_at("run/end"), seconds=9999)


@pytest.mark.parametrize("width", [40, 60, 72, 80, 96, 120, 300])
def test_a_frame_fits_any_terminal_with_one_line_for_each_subtask(
    width: int, run_at: RunAt
) -> None:
    lines = drawn(run_at("run/end"), width=width).splitlines()
    assert max(len(line) for line in lines) <= width
    assert sum(line[:1] in ("✓", "✗", "-", "◐") for line in lines) == 5


def test_a_narrow_terminal_still_shows_worker_time_and_cost(run_at: RunAt) -> None:
    line = row(drawn(run_at("run/end"), width=60), "s1")
    assert line.split() == ["✓", "s1", "security-reviewer", "3.0s", "$0.0495"]


@pytest.mark.parametrize("width", [50, 72, 80, 96])
def test_long_names_take_no_room_from_signs_and_figures(run_at: RunAt, width: int) -> None:
    state = run_at("run/end")
    (paid,) = [item for item in state.subtasks.values() if item.usage.calls]
    named = paid.subtask.model_copy(update={"id": "consequences-of-everything-" * 2})
    state = replace(state, subtasks={named.id: replace(paid, subtask=named)})
    (line,) = [line for line in drawn(state, width=width).splitlines() if "consequences" in line]
    assert line.startswith("✓  consequences")
    assert line.endswith("$0.0495")
    assert len(line) <= width


def test_what_is_under_way_turns_from_frame_to_frame(run_at: RunAt) -> None:
    state = run_at("run/start")
    assert drawn(state, seconds=4) != drawn(state, seconds=4.125).replace("4.1s", "4.0s")


def plain_lines(*states: RunState) -> list[str]:
    file = io.StringIO()
    view = LineView(Console(file=file))
    for state in states:
        view.show(state, START)
    return file.getvalue().splitlines()


def test_without_a_terminal_each_change_is_one_line_in_the_order_of_time(run_at: RunAt) -> None:
    names = ("run/start", "plan", "subtask/s1/call/1", "subtask/s3/result", "synthesis/start")
    assert plain_lines(*(run_at(name) for name in names)) == [
        "run r-1: Review this code for [31mproblems",
        "No language model.",
        "s9 was left out.",
        "plan: 4 subtasks",
        "  s1 security-reviewer: Find injection faults in app.py; leave style alone, "
        "others see to it.",
        "  s2 researcher: Look up known faults.",
        "  s3 analyst: Estimate. · after s2",
        "  s4 writer: Write. · after s1, s2",
        "s1 security-reviewer: started",
        "s2 researcher: started",
        "s1 security-reviewer: succeeded · 3.0s · 12.9k tokens · $0.0495",
        "s2 researcher: failed · 4.0s · The provider did not answer.",
        "s3 analyst: skipped · s2 failed.",
        "s4 writer: started",
        "s4 writer: partial · 2.0s · The reply was cut.",
        "writing the answer",
    ]


def test_a_line_has_the_beginning_of_a_long_objective(run_at: RunAt) -> None:
    state = run_at("plan")
    first = state.subtasks["s1"]
    told = first.subtask.model_copy(update={"objective": "Find faults. " * 20})
    state = replace(state, subtasks={"s1": replace(first, subtask=told)})
    (line,) = [line for line in plain_lines(state) if "Find faults." in line]
    assert line.endswith("Find faults. …")
    assert len(line) < 200


def test_nothing_is_written_twice(run_at: RunAt) -> None:
    state = run_at("run/end")
    assert plain_lines(state, state, state) == plain_lines(state)


@pytest.mark.parametrize(
    ("terminal", "term", "moving"),
    [(True, "xterm", True), (True, "dumb", False), (False, "", False)],
)
def test_only_a_terminal_that_can_move_the_cursor_gets_a_moving_view(
    terminal: bool,
    term: str,
    moving: bool,
    run_at: RunAt,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", term)
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=80)
    with open_view(console) as view:
        view.show(run_at("run/start"), START)
        view.show(run_at("run/end"), START)
    assert ("\x1b[2K" in file.getvalue()) is moving
    assert "s1" in file.getvalue()


ASKED = ToolAsked(
    name="subtask/s4/tool/1.1/question",
    at=START + 7,
    step="subtask/s4/tool/1.1",
    question_id="q-1",
    subtask_id="s4",
    worker="writer",
    tool="git.commit",
    arguments='{"message": "\x1b[31mall"}',
    until=START + 99,
)


def test_a_question_is_shown_with_the_tool_and_its_arguments(run_at: RunAt) -> None:
    state = run_at("subtask/s4/start")
    state.apply(ASKED)
    assert 'asked: may s4 writer call git.commit with {"message": "[31mall"}' in drawn(state)


def test_line_by_line_a_question_comes_with_the_command_that_answers_it(run_at: RunAt) -> None:
    file = io.StringIO()
    state = run_at("subtask/s4/start")
    state.apply(ASKED)
    LineView(Console(file=file)).show(state, START + 9)
    assert "asked: may s4 writer call git.commit with" in file.getvalue()
    assert "concertmaster answer r-1 q-1 yes|no" in file.getvalue()
