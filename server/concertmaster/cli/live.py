"""The view of a run while it goes on: a table that moves, or a line for each change."""

import textwrap
from collections.abc import Generator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.live import Live

from concertmaster.cli.frame import FRAMES_PER_SECOND, asides, render
from concertmaster.cli.wording import (
    count,
    how,
    joined,
    likely,
    notes,
    one_line,
    problem,
    spent,
    times,
    to_answer,
)
from concertmaster.runs.state import RunState
from concertmaster.runs.subtask_state import SubtaskState

SHORT = 160
"""How many characters a line has of a task or an objective; `show` has all of it."""


class View(Protocol):
    """Something that shows where a run stands."""

    frame_seconds: float
    """How long a frame holds when nothing changes."""

    def show(self, state: RunState, now: float) -> None:
        """Show the state as of `now`, in Unix time."""
        ...


@contextmanager
def open_view(console: Console) -> Generator[View]:
    """Show a run on `console`: moving if it is a terminal, else line by line."""
    if not console.is_terminal or console.is_dumb_terminal:
        yield LineView(console)
        return
    # The caller asks for each frame: a refreshing thread would read the state while the
    # event loop changes it.
    with Live(console=console, auto_refresh=False, redirect_stdout=False) as live:
        yield TableView(live)


class TableView:
    """Shows a run as a table that is drawn anew each time."""

    frame_seconds = 1 / FRAMES_PER_SECOND

    def __init__(self, live: Live) -> None:
        self._live = live

    def show(self, state: RunState, now: float) -> None:
        """Draw the run as it stands."""
        self._live.update(render(state, now), refresh=True)


class LineView:
    """Writes one line for each change that matters."""

    frame_seconds = 60.0

    def __init__(self, console: Console) -> None:
        self._console = console
        self._seen: set[str] = set()

    def show(self, state: RunState, now: float) -> None:
        """Write the lines that are new since the last call."""
        for line in lines(state, now):
            if line not in self._seen:
                self._seen.add(line)
                self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def lines(state: RunState, now: float) -> list[str]:
    """Return what has happened in a run, one line for each thing, in the order of time."""
    happened: list[tuple[float, str]] = []
    for item in state.subtasks.values():
        name = f"{item.subtask.id} {item.subtask.worker}"
        if item.started_at is not None:
            happened.append((item.started_at, f"{name}: started"))
        if item.ended_at is not None:
            took = times(item.started_at, item.ended_at, now)
            facts = (took, spent(item.usage), notes(item), problem(item))
            happened.append((item.ended_at, f"{name}: {item.status} · {joined(facts)}"))
    happened.sort(key=lambda pair: pair[0])
    begin = [f"run {state.run_id}: {_short(state.request.task)}"]
    begin += [one_line(text) for text in (state.notice, *state.warnings) if text]
    if state.subtasks:
        begin.append(f"plan: {count(len(state.subtasks), 'subtask')}")
    begin += [f"  {_planned(item)}" for item in state.subtasks.values()]
    if state.subtasks and state.estimate is not None:
        begin.append(f"likely: {likely(state.estimate)}")
    end = [*asides(state), *_synthesis_line(state)]
    answers = [f"  {to_answer(state.run_id, question)}" for question in state.questions.values()]
    return [*begin, *(line for _, line in happened), *end, *answers]


def _planned(item: SubtaskState) -> str:
    after = ", ".join(item.subtask.depends_on)
    return joined(
        (
            f"{item.subtask.id} {item.subtask.worker}: {_short(item.subtask.objective)}",
            how(item.subtask),
            f"after {after}" if after else "",
        )
    )


def _short(text: str) -> str:
    return textwrap.shorten(one_line(text), SHORT, placeholder=" …")


def _synthesis_line(state: RunState) -> list[str]:
    return ["writing the answer"] if state.status == "synthesizing" else []
