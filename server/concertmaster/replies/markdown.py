"""Replies as Markdown: the same facts as their structured form, for clients that show text."""

import json
from collections.abc import Iterable, Mapping, Sequence

from pydantic import JsonValue

from concertmaster.engine.events import Estimate
from concertmaster.engine.plan.plan import SINGLE, CustomWorker, Strategy, Subtask
from concertmaster.llm.fencing import quoted
from concertmaster.replies.models import (
    AnyReply,
    Budget,
    ModelUsage,
    PlanReply,
    QuestionLine,
    RunLine,
    RunReply,
    SubtaskLine,
    SubtaskReply,
)


def markdown(reply: AnyReply) -> str:
    """Return what `reply` says, as text."""
    match reply:
        case RunReply():
            parts = _run(reply)
        case PlanReply():
            parts = _plan(reply)
        case SubtaskReply():
            parts = _subtask(reply)
        case _:
            runs = "\n".join(map(_run_line, reply.runs))
            parts = [runs, _bullets("Not readable", reply.unreadable)]
    return "\n\n".join(part for part in (*parts, reply.notice, reply.next) if part)


def _run(reply: RunReply) -> Iterable[str]:
    yield f"Run {reply.run_id}: **{reply.status}**{_figures(reply.seconds, reply.usd)}"
    yield f"Task: {reply.task}"
    yield f"Context: {reply.context}" if reply.context else ""
    yield _bullets("Constraints", reply.constraints)
    yield f"Progress: {reply.progress}" if reply.progress else ""
    yield _bullets("Waits for a person to agree to", map(_question, reply.questions))
    yield f"Guard: {reply.guard}" if reply.guard != "none" else ""
    yield f"Taken over: {reply.reused}" if reply.reused else ""
    yield _cut(reply.answer, reply.next_offset, reply.answer_chars)
    yield _json(reply.value)
    yield _sources(reply)
    yield _bullets("Not whole because", reply.reasons)
    yield _bullets("Decisions on the plan", reply.decisions)
    yield _bullets("Results do not agree", reply.findings)
    yield _bullets("Warnings", reply.warnings)
    yield _bullets("Subtasks", [*map(_subtask_line, reply.subtasks), *_more(reply.more_subtasks)])
    yield _bullets("Workers written for this run", reply.custom_workers)
    yield _bullets("Usage", map(_usage, reply.usage))
    yield _estimate(reply.estimate)
    yield _budget(reply.budget) if reply.budget and reply.budget.spent_tokens else ""
    yield _links(reply.links)


def _plan(reply: PlanReply) -> Iterable[str]:
    yield f"Plan {reply.plan_id}: **{reply.status}**{_figures(None, reply.usd)}"
    yield reply.analysis
    yield f"Mode: {reply.mode}. {reply.why}".strip()
    yield f"Results are checked against one another: {reply.verify}" * (reply.verify != "none")
    if reply.direct_answer is not None:
        yield f"Direct answer:\n\n{_cut(reply.direct_answer, reply.next_offset, None)}"
    yield _bullets("Not whole because", reply.reasons)
    yield _bullets("Warnings", reply.warnings)
    yield _bullets("Subtasks", [*map(_planned, reply.subtasks), *_more(reply.more_subtasks)])
    yield _bullets("Workers written for this run", map(_custom_worker, reply.custom_workers))
    yield "Texts are shortened here; run the plan by its plan_id." if reply.shortened else ""
    yield _estimate(reply.estimate)
    yield _bullets("Usage", map(_usage, reply.usage))
    yield _links(reply.links)


def _subtask(reply: SubtaskReply) -> Iterable[str]:
    figures = _figures(reply.seconds, None)
    yield f"Subtask {reply.subtask_id} of run {reply.run_id}: **{reply.status}**{figures}"
    yield f"{reply.worker}: {reply.objective}"
    yield _cut(reply.result, reply.next_offset, reply.result_chars)
    yield _json(reply.value)
    yield _sources(reply)
    yield _bullets("How it came about", reply.notes)
    yield _bullets("Errors", reply.errors)
    yield _bullets("Usage", map(_usage, reply.usage))
    yield _links(reply.links)


def _cut(text: str, next_offset: int | None, total: int | None) -> str:
    if total is None and next_offset is None:
        return text
    end = f"goes on at offset {next_offset}" if next_offset is not None else "ends here"
    of = f" of {total} characters in all" if total is not None else ""
    return f"{text}\n\n[a part{of}; it {end}]"


def _json(value: JsonValue) -> str:
    if value is None:
        return ""
    return f"```json\n{json.dumps(value, ensure_ascii=False)}\n```"


def _bullets(title: str, items: Iterable[str]) -> str:
    lines = "\n".join(f"- {item}" for item in items)
    return f"{title}:\n{lines}" if lines else ""


def _more(count: int) -> Sequence[str]:
    return [f"and {count} more"] if count else []


def _sources(reply: RunReply | SubtaskReply) -> str:
    lines = [source.line for source in reply.sources]
    return _bullets("Sources", [*lines, *_more(reply.more_sources)])


def _figures(seconds: float | None, usd: float | None) -> str:
    figures = [f"{seconds:g} s"] if seconds is not None else []
    figures += [f"{usd:g} USD"] if usd is not None else []
    return f" ({', '.join(figures)})" if figures else ""


def _subtask_line(line: SubtaskLine) -> str:
    notes = f" ({line.notes})" if line.notes else ""
    error = f" Error: {line.error}" if line.error else ""
    by = f" ({line.strategy})" if line.strategy != "single" else ""
    return (
        f"{line.subtask_id} {line.worker}{by}: {line.status}{_figures(line.seconds, line.usd)}. "
        f"{line.objective}{notes}{error}"
    )


def _question(line: QuestionLine) -> str:
    return (
        f"{line.question_id}: {line.subtask_id} {line.worker} calling {line.tool} with "
        f"{line.arguments}"
    )


def _planned(subtask: Subtask) -> str:
    said = {
        "why": subtask.why,
        "expects": subtask.expects,
        "inputs": ", ".join(map(quoted, subtask.inputs)),
        "depends_on": ", ".join(subtask.depends_on),
        "needs_all": "true" if subtask.needs_all else "",
        "decisive": "true" if subtask.decisive else "",
        "strategy": _strategy(subtask.strategy),
        "timeout_seconds": f"{subtask.timeout_seconds:g}" if subtask.timeout_seconds else "",
        "max_tokens": str(subtask.max_tokens or ""),
        "budget_usd": f"{subtask.budget_usd:g}" if subtask.budget_usd else "",
    }
    rest = "".join(f"\n  {name}: {text}" for name, text in said.items() if text)
    return f"{subtask.id} {subtask.worker} ({subtask.priority}): {subtask.objective}{rest}"


def _strategy(strategy: Strategy) -> str:
    return "" if strategy == SINGLE else strategy.model_dump_json(exclude_defaults=True)


def _custom_worker(worker: CustomWorker) -> str:
    return (
        f"{worker.name}: {worker.description}\n  why: {worker.why}\n"
        f"  instructions: {worker.instructions}"
    )


def _run_line(line: RunLine) -> str:
    return (
        f"- {line.run_id} ({line.kind}): {line.status}{_figures(line.seconds, None)}, "
        f"started {line.started_at}. {line.task}"
    )


def _usage(usage: ModelUsage) -> str:
    price = "price unknown" if usage.usd is None else f"{usage.usd:g} USD"
    return (
        f"{usage.model}: {usage.calls} calls, {usage.attempts} attempts; tokens: "
        f"{usage.tokens_in} in{_estimated(usage.estimated_in)}, "
        f"{usage.tokens_out} out{_estimated(usage.estimated_out)}, "
        f"{usage.cache_read} cache read, {usage.cache_write} cache written; "
        f"{price}{_cache(usage)}{_served(usage)}"
    )


def _estimated(tokens: int) -> str:
    return f" ({tokens} of them estimated)" if tokens else ""


def _served(usage: ModelUsage) -> str:
    """Return how often the provider called tools itself."""
    counts = {
        "web searches": usage.searches,
        "pages fetched": usage.fetches,
        "containers": usage.containers,
    }
    return "".join(f"; {count} {name}" for name, count in counts.items() if count)


def _cache(usage: ModelUsage) -> str:
    if usage.saved_usd is None:
        return ""
    saved = f", {usage.saved_usd:g} USD saved"
    return f"; {usage.cache_hit_rate:.0%} of the input from the cache{saved}"


def _estimate(estimate: Estimate | None) -> str:
    return "" if estimate is None else f"To run the plan takes about {estimate.words}."


def _budget(budget: Budget) -> str:
    spent = "unknown" if budget.spent_usd is None else f"{budget.spent_usd:g}"
    return (
        f"Spent of the budget: {spent} of {budget.usd:g} USD, "
        f"{budget.spent_tokens} of {budget.tokens} tokens"
    )


def _links(links: Mapping[str, str]) -> str:
    named = ", ".join(f"{name} {uri}" for name, uri in links.items())
    return f"Resources: {named}" if named else ""


def one_line(text: str, limit: int) -> str:
    """Return `text` in one line of at most `limit` characters, without control characters."""
    line = "".join(char if char.isprintable() else " " for char in text[: limit * 4])
    line = " ".join(line.split())
    return line if len(line) <= limit and len(text) <= limit * 4 else f"{line[: limit - 1]}…"
