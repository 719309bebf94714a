"""How runs, plans and traces look once they are printed."""

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

from pydantic import JsonValue, TypeAdapter
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from concertmaster.cli.view.formatting import (
    asked,
    count,
    harmless,
    how,
    joined,
    likely,
    money,
    notes,
    one_line,
    problem,
    taken,
    times,
    to_answer,
    tokens,
)
from concertmaster.cli.view.live import style_of, symbol_of
from concertmaster.cli.view.terminal import table_of
from concertmaster.engine.events import Estimate
from concertmaster.engine.plan.plan import Plan, Subtask
from concertmaster.replies.build import cited_answer, reused_line, written_workers
from concertmaster.runs.state import RunState, SubtaskState, sufficient_budget
from concertmaster.runs.trace import Span

_JSON: TypeAdapter[JsonValue] = TypeAdapter(JsonValue)


def summary(state: RunState) -> str:
    """Return how a run ended, what it took, and where to see more of it."""
    return joined(
        (
            state.displayed_status,
            count(len(state.subtasks), "subtask"),
            times(state.started_at, state.stopped_at, time.time()),
            taken(state),
            f"concertmaster show {state.run_id}",
        )
    )


def answer_text(state: RunState) -> str:
    """Return what a run was for: its answer, or the plan if it only planned."""
    if state.value is not None:
        return _JSON.dump_json(state.value, indent=2).decode()
    if state.request.kind == "plan" and state.plan is not None:
        return plan_markdown(state.plan, state.estimate)
    return cited_answer(state)


def plan_markdown(plan: Plan, estimate: Estimate | None = None) -> str:
    """Return a plan as Markdown."""
    parts = [plan.analysis] if plan.analysis else []
    parts.append(_proceeding(plan))
    if plan.direct_answer is not None:
        parts.append(plan.direct_answer)
    for item in plan.subtasks:
        facts = {
            "Why": item.why,
            "After": ", ".join(item.depends_on),
            "Inputs": ", ".join(item.inputs),
            "Gives": item.expects,
            "Priority": item.priority,
            "Strategy": _strategy(item),
            "Decisive": "what comes next is decided when it has ended" if item.decisive else "",
            "Needs": "all that it comes after" if item.needs_all else "",
        }
        lines = [f"**{item.id} {item.worker}**: {item.objective}"]
        lines += [f"- {title}: {text}" for title, text in facts.items() if text]
        parts.append("\n".join([lines[0], "", *lines[1:]]))
    parts += [
        f"**{worker.name}**, written for this run: {worker.description}\n\n"
        f"- Why: {worker.why}\n- Instructions: {worker.instructions}"
        for worker in plan.custom_workers
    ]
    if estimate is not None and plan.subtasks:
        parts.append(f"Likely: {likely(estimate)}")
    return "\n\n".join(part for part in parts if part)


def _proceeding(plan: Plan) -> str:
    """Return in which mode the run proceeds and why, and whether its results are checked."""
    facts = [f"Mode: {plan.mode}."] if plan.mode != "static" or plan.why else []
    facts += [plan.why] if plan.why else []
    if plan.verify != "none":
        facts.append(f"Results are checked against one another: {plan.verify}.")
    return " ".join(facts)


def _strategy(subtask: Subtask) -> str:
    said = {"kind", "rounds", "answers", "decide", "over"}
    rest = subtask.strategy.model_dump(mode="json", exclude_defaults=True, exclude=said)
    details = [f"{name} {json.dumps(value, ensure_ascii=False)}" for name, value in rest.items()]
    return ", ".join(filter(None, [how(subtask), *details]))


def to_go_on(state: RunState) -> str:
    """Return the command that has a run go on, if it has stopped short of what was wanted."""
    if not state.still or state.status == "succeeded":
        return ""
    if state.status == "needs_approval":
        return f"concertmaster resume {state.run_id} --approve"
    if state.plan_declined:
        return f"concertmaster resume {state.run_id} --plan FILE, with the plan edited"
    if state.nothing_left:
        return f"concertmaster resume {state.run_id} --from SUBTASK, or --plan FILE"
    budget_usd = sufficient_budget(state)
    more = f" --budget {budget_usd:g}" if budget_usd is not None else ""
    return f"concertmaster resume {state.run_id}{more}"


def run_parts(state: RunState) -> list[RenderableType]:
    """Return what `show` prints of a run above its answer."""
    facts = Table.grid(padding=(0, 2, 0, 0))
    facts.add_column(style="dim")
    facts.add_column(overflow="fold")
    rows = {
        "task": harmless(state.request.task),
        "context": state.request.context,
        "constraints": "\n".join(state.request.constraints),
        "run": joined((state.run_id, state.request.kind)),
        "status": state.displayed_status,
        "started": moment(state.started_at),
        "took": times(state.started_at, state.stopped_at, time.time()),
        "likely": likely(state.estimate) if state.estimate and state.subtasks else "",
        "used": taken(state),
        "models": ", ".join(name for name in state.by_model if name),
        "inputs": ", ".join(item.name for item in state.request.inputs),
        "guard": joined((state.request.guard, state.guard)) if state.request.guard else "",
        "mode": _mode(state),
        "taken over": reused_line(state),
        "to go on": to_go_on(state),
        "asked": "\n".join(_asked(state)),
        "decisions": "\n".join(state.decisions),
        "findings": "\n".join(finding.what for finding in state.findings),
        "written": "\n".join(written_workers(state)),
        "notice": state.notice,
        "warnings": "\n".join(state.warnings),
        "missing": "\n".join(state.reasons),
    }
    for name, text in rows.items():
        if text:
            style = style_of(text) if name == "status" else ""
            facts.add_row(name, Text(harmless(text), style=style))
    return [facts, *([subtask_table(state.subtasks.values())] if state.subtasks else [])]


def _asked(state: RunState) -> Iterator[str]:
    for question in state.questions.values():
        yield asked(question)
        yield to_answer(state.run_id, question)


def _mode(state: RunState) -> str:
    if state.plan is None or state.request.kind == "worker":
        return ""
    return joined((state.plan.mode, state.plan.why))


def subtask_table(items: Iterable[SubtaskState]) -> Table:
    """Return a row for each subtask; what no subtask has is left out, to save room."""
    rows = [
        {
            "": Text(symbol_of(item.status), style=style_of(item.status)),
            "id": item.subtask.id,
            "worker": item.subtask.worker,
            "how": how(item.subtask),
            "after": ", ".join(item.subtask.depends_on),
            "took": times(item.started_at, item.ended_at, time.time()),
            "tokens": tokens(item.usage) if item.usage.metered else "",
            "cost": money(item.usage.usd) if item.usage.metered else "",
            "objective": problem(item) or notes(item) or one_line(item.subtask.objective),
        }
        for item in items
    ]
    titles = [title for title in rows[0] if any(row[title] for row in rows)]
    table = table_of(*titles)
    for row in rows:
        table.add_row(*(row[title] for title in titles))
    return table


def runs_table(states: Sequence[RunState]) -> Table:
    """Return a row for each run."""
    table = table_of("", "run", "started", "took", "status", "task")
    for state in states:
        table.add_row(
            Text(symbol_of(state.displayed_status), style=style_of(state.displayed_status)),
            state.run_id,
            moment(state.started_at, "%b %d %H:%M"),
            times(state.started_at, state.stopped_at, time.time()),
            state.displayed_status,
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
        branch = tree.add(_span_line(span))
        if result := span.attributes.get("result"):
            branch.add(Text(harmless(str(result)), style="dim"))
        _grow(branch, span.spans)


def _span_line(span: Span) -> Text:
    took = times(span.started_at, span.ended_at, time.time())
    told = one_line(str(span.attributes.get("arguments", "")))
    if origin := span.attributes.get("taken_from"):
        told = f"taken over from {origin}"
    return Text.assemble(
        one_line(span.name),
        "  ",
        (took, "dim"),
        "  ",
        (span.status, style_of(span.status)),
        (f"  {told}" if told else "", "dim"),
    )


def moment(at: float, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    """Return a point in time as the reader's clock shows it."""
    return datetime.fromtimestamp(at, UTC).astimezone().strftime(form)
