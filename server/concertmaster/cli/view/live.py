"""The view of a run while it goes on: a table that moves, or a line for each change."""

import textwrap
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from concertmaster.cli.view.formatting import (
    asked,
    bill,
    count,
    how,
    joined,
    likely,
    money,
    notes,
    one_line,
    problem,
    spent,
    times,
    to_answer,
    tokens,
)
from concertmaster.runs.state import RunState, SubtaskState

FRAMES_PER_SECOND = 8

WIDEST = 120
"""Beyond this many columns a row is hard to follow with the eye."""

ASIDES = 4
"""How many lines about the run as a whole have room below its subtasks."""

_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_SYMBOLS = {
    "succeeded": "✓",
    "partial": "◐",
    "failed": "✗",
    "skipped": "-",
    "cancelled": "■",
    "interrupted": "■",
    "needs_approval": "?",
    "pending": "·",
}
_STYLES = {
    "succeeded": "green",
    "partial": "yellow",
    "failed": "red",
    "cancelled": "yellow",
    "interrupted": "yellow",
    "needs_approval": "yellow",
    "skipped": "dim",
    "pending": "dim",
}


def style_of(status: str) -> str:
    """Return how a status is coloured; what is under way is cyan."""
    return _STYLES.get(status, "cyan")


def symbol_of(status: str, now: float = 0) -> str:
    """Return the sign of a status; what is under way turns with time."""
    if status in _SYMBOLS:
        return _SYMBOLS[status]
    return _SPINNER[int(now * FRAMES_PER_SECOND) % len(_SPINNER)]


def render(state: RunState, now: float) -> RenderableType:
    """Return the frame of a run at `now`, in Unix time."""
    return _Frame(state, now)


@dataclass(frozen=True, slots=True)
class _Column:
    cell: Callable[[SubtaskState, float], str]
    least_width: int = 0
    """Width of the terminal from which on there is room for it."""
    justify: Literal["left", "right"] = "left"
    min_width: int | None = None
    """Keeps the columns from jumping when a cell is filled."""
    ratio: int | None = None
    wanted: Callable[[RunState], bool] = lambda _: True
    """Whether it says anything about a run."""


def _objective(item: SubtaskState, _now: float) -> str:
    return problem(item) or one_line(item.subtask.objective)


def _doing(item: SubtaskState, _now: float) -> str:
    after = ", ".join(item.subtask.depends_on)
    if item.status == "pending":
        return f"after {after}" if after else "waits"
    return one_line(item.doing) if item.status == "running" else item.status


def _has_strategies(state: RunState) -> bool:
    return any(how(item.subtask) for item in state.subtasks.values())


def _tokens(item: SubtaskState, _now: float) -> str:
    return tokens(item.usage) if item.usage.metered else ""


def _money(item: SubtaskState, _now: float) -> str:
    return money(item.usage.usd) if item.usage.metered else ""


_ASKED = {
    "orchestrator": "deciding what comes next",
    "verifier": "checking the results against one another",
}
"""What is going on while one of these waits for a model."""

_COLUMNS = (
    _Column(lambda item, _now: item.subtask.id),
    _Column(lambda item, _now: item.subtask.worker),
    _Column(lambda item, _now: how(item.subtask), least_width=80, wanted=_has_strategies),
    _Column(_objective, least_width=72, ratio=1),
    _Column(_doing, least_width=96, min_width=17),
    _Column(
        lambda item, now: times(item.started_at, item.ended_at, now), justify="right", min_width=5
    ),
    _Column(_tokens, least_width=80, justify="right", min_width=5),
    _Column(_money, justify="right", min_width=7),
)


@dataclass(frozen=True, slots=True)
class _Frame:
    state: RunState
    now: float

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = min(options.max_width, WIDEST)
        state = self.state
        yield _single(one_line(state.request.task), "bold")
        yield _single(state.run_id, "dim")
        if state.notice:
            yield Text(one_line(state.notice), style="yellow")
        if state.subtasks:
            if state.estimate is not None:
                yield _single(f"likely: {likely(state.estimate)}", "dim")
            table = self._table(width)
            yield Padding(table, (1, 0))
        for line in asides(state)[-ASIDES:]:
            yield _single(line)
        sign = symbol_of(state.status, self.now)
        took = times(state.started_at, state.stopped_at, self.now)
        facts = joined((_progress(state), took, bill(state)))
        yield _single(f"{sign} {facts}", style_of(state.status))

    def _table(self, width: int) -> Table:
        columns = [
            column
            for column in _COLUMNS
            if width >= column.least_width and column.wanted(self.state)
        ]
        table = Table.grid(padding=(0, 2, 0, 0), expand=any(column.ratio for column in columns))
        table.width = width if table.expand else None
        table.add_column(no_wrap=True)
        for column in columns:
            table.add_column(
                justify=column.justify,
                min_width=column.min_width,
                ratio=column.ratio,
                # Where there is too little room, columns of words give way to signs and figures.
                no_wrap=column.justify == "right",
            )
        for item in self.state.subtasks.values():
            sign = symbol_of(item.status, self.now)
            cells = [_single(column.cell(item, self.now)) for column in columns]
            faint = "dim" if item.status in ("pending", "skipped") else ""
            table.add_row(Text(sign, style=style_of(item.status)), *cells, style=faint)
        return table


def _single(text: str, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def asides(state: RunState) -> list[str]:
    """Return what the guard, the orchestrator and the check had to say, and what is asked."""
    said = [f"guard {state.request.guard}: {state.guard}"] if state.guard == "passed" else []
    said += [f"decision: {reason}" for reason in state.decisions]
    said += [f"results do not agree: {finding.what}" for finding in state.findings]
    said += [f"asked: {asked(question)}" for question in state.questions.values()]
    return [one_line(text) for text in said]


def _progress(state: RunState) -> str:
    if state.guard == "pending" and not state.still:
        return f"the guard {state.request.guard} is reading; nothing shows before it is through"
    match state.displayed_status:
        case "running":
            done = f"{state.ended_subtasks} of {count(len(state.subtasks), 'subtask')} done"
            asked = [text for who, text in _ASKED.items() if who in state.calls.values()]
            return joined((done, *asked))
        case "synthesizing":
            return "writing the answer"
        case status:
            return status


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
