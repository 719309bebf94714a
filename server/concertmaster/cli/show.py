"""How runs, plans and traces look once they are printed."""

import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from pydantic import JsonValue, TypeAdapter
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from concertmaster.cli.frame import style_of, symbol_of
from concertmaster.cli.terminal import table_of
from concertmaster.cli.wording import (
    count,
    harmless,
    joined,
    money,
    one_line,
    problem,
    spent,
    times,
    tokens,
)
from concertmaster.engine.plan import Plan
from concertmaster.runs.state import RunState, SubtaskState
from concertmaster.runs.trace import Span

_JSON: TypeAdapter[JsonValue] = TypeAdapter(JsonValue)


def summary(state: RunState) -> str:
    """Return how a run ended, what it took, and where to see more of it."""
    return joined(
        (
            state.status,
            count(len(state.subtasks), "subtask"),
            times(state.started_at, state.ended_at, time.time()),
            spent(state.usage),
            f"concertmaster show {state.run_id}",
        )
    )


def answer_text(state: RunState) -> str:
    """Return what a run was for: its answer, or the plan if it only planned."""
    if state.value is not None:
        return _JSON.dump_json(state.value, indent=2).decode()
    if state.request.kind == "plan" and state.plan is not None:
        return plan_markdown(state.plan)
    return state.answer


def plan_markdown(plan: Plan) -> str:
    """Return a plan as Markdown."""
    parts = [plan.analysis] if plan.analysis else []
    if plan.direct_answer is not None:
        parts.append(plan.direct_answer)
    for item in plan.subtasks:
        facts = {
            "Why": item.why,
            "After": ", ".join(item.depends_on),
            "Inputs": ", ".join(item.inputs),
            "Gives": item.expects,
            "Priority": item.priority,
        }
        lines = [f"**{item.id} {item.worker}**: {item.objective}"]
        lines += [f"- {title}: {text}" for title, text in facts.items() if text]
        parts.append("\n".join([lines[0], "", *lines[1:]]))
    return "\n\n".join(parts)


def run_parts(state: RunState) -> list[RenderableType]:
    """Return what `show` prints of a run above its answer."""
    facts = Table.grid(padding=(0, 2, 0, 0))
    facts.add_column(style="dim")
    facts.add_column(overflow="fold")
    rows = {
        "task": harmless(state.request.task),
        "run": joined((state.run_id, state.request.kind)),
        "status": state.status,
        "started": moment(state.started_at),
        "took": times(state.started_at, state.ended_at, time.time()),
        "used": spent(state.usage),
        "models": ", ".join(name for name in state.by_model if name),
        "inputs": ", ".join(item.name for item in state.request.inputs),
        "notice": state.notice,
        "warnings": "\n".join(state.warnings),
        "missing": "\n".join(state.reasons),
    }
    for name, text in rows.items():
        if text:
            style = style_of(text) if name == "status" else ""
            facts.add_row(name, Text(harmless(text), style=style))
    return [facts, *([subtask_table(state.subtasks.values())] if state.subtasks else [])]


def subtask_table(items: Iterable[SubtaskState]) -> Table:
    """Return a row for each subtask."""
    table = table_of("", "id", "worker", "after", "took", "tokens", "cost", "objective")
    for item in items:
        table.add_row(
            Text(symbol_of(item.status), style=style_of(item.status)),
            item.subtask.id,
            item.subtask.worker,
            ", ".join(item.subtask.depends_on),
            times(item.started_at, item.ended_at, time.time()),
            tokens(item.usage),
            money(item.usage.usd),
            problem(item) or one_line(item.subtask.objective),
        )
    return table


def runs_table(states: Sequence[RunState]) -> Table:
    """Return a row for each run."""
    table = table_of("", "run", "started", "took", "status", "subtasks", "task")
    for state in states:
        table.add_row(
            Text(symbol_of(state.status), style=style_of(state.status)),
            state.run_id,
            moment(state.started_at),
            times(state.started_at, state.ended_at, time.time()),
            state.status,
            str(len(state.subtasks) or ""),
            one_line(state.request.task),
        )
    return table


def trace_tree(span: Span) -> Tree:
    """Return a trace as a tree with the time and status of each span."""
    tree = Tree(_span_line(span), guide_style="dim")
    _grow(tree, span.spans)
    return tree


def _grow(tree: Tree, spans: Iterable[Span]) -> None:
    for span in spans:
        _grow(tree.add(_span_line(span)), span.spans)


def _span_line(span: Span) -> Text:
    took = times(span.started_at, span.ended_at, time.time())
    return Text.assemble(
        one_line(span.name), "  ", (took, "dim"), "  ", (span.status, style_of(span.status))
    )


def moment(at: float) -> str:
    """Return a point in time as the reader's clock shows it."""
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
