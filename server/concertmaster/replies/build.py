"""From the state of a run to what a client is told of it."""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from concertmaster.engine.events import SubtaskResult
from concertmaster.engine.plan.plan import CustomWorker, Map, Revise, Subtask, Vote
from concertmaster.llm.messages import Source
from concertmaster.llm.usage import NO_USAGE, Usage
from concertmaster.replies.markdown import one_line
from concertmaster.replies.models import (
    Budget,
    ModelUsage,
    PlanReply,
    RunLine,
    RunReply,
    RunsReply,
    SubtaskLine,
    SubtaskReply,
)
from concertmaster.replies.next_steps import (
    next_after_plan,
    next_after_run,
    next_after_subtask,
    question_lines,
)
from concertmaster.replies.pagination import Page
from concertmaster.runs.file_changes import rewritten_files
from concertmaster.runs.state import RecentRuns, RunState, SubtaskState


def usd_of(usage: Usage) -> float | None:
    """Return what calls cost in USD; None if no provider was asked, or a price is unknown."""
    return _rounded(usage.usd) if usage.metered else None


def _rounded(usd: float | None) -> float | None:
    return None if usd is None else round(usd, 6)


def budget(state: RunState) -> Budget | None:
    """Return what a run may spend, and what it has spent; None for one that spends nothing."""
    if state.usage.calls and not state.usage.metered:
        return None
    limits = state.request.limits
    return Budget(
        usd=limits.budget_usd,
        spent_usd=_rounded(state.usage.usd),
        tokens=limits.budget_tokens,
        spent_tokens=state.usage.new_tokens,
    )


def usage_lines(by_model: Mapping[str, Usage]) -> tuple[ModelUsage, ...]:
    """Return what the calls of each model took."""
    return tuple(
        ModelUsage(
            model=one_line(model, 80),
            calls=usage.calls,
            attempts=usage.attempts,
            tokens_in=usage.tokens_in,
            estimated_in=usage.estimated_in,
            tokens_out=usage.tokens_out,
            estimated_out=usage.estimated_out,
            cache_read=usage.cache_read,
            cache_write=usage.cache_write,
            usd=_rounded(usage.usd),
            cache_hit_rate=round(usage.cache_hit_rate, 3),
            searches=usage.searches,
            fetches=usage.fetches,
            containers=usage.containers,
            saved_usd=_rounded(usage.saved_usd) if usage.cached else None,
        )
        for model, usage in by_model.items()
        if usage.metered
    )[:8]


def reused_line(state: RunState) -> str:
    """Return which results were taken over from which runs, and what that saved."""
    if not (reused := state.reused):
        return ""
    names: dict[str, list[str]] = {}
    for name, result in reused.items():
        names.setdefault(result.taken_from or state.request.rerun_of, []).append(name)
    saved = sum((result.saved or NO_USAGE for result in reused.values()), NO_USAGE)
    origins = "; ".join(
        f"{', '.join(subtasks)} from {run_id}" for run_id, subtasks in names.items()
    )
    calls = f"{saved.calls} call{'' if saved.calls == 1 else 's'}"
    price = "" if saved.usd is None else f", {round(saved.usd, 4):g} USD"
    return f"{origins}; saved {calls}{price}."


ADDRESS_CHARS = 500


def sources_of(state: RunState) -> tuple[Source, ...]:
    """Return what the results of a run cite, each address once."""
    results = (item.result for item in state.subtasks.values())
    by_address: dict[str, Source] = {}
    for result in results:
        for source in result.sources if result is not None else ():
            by_address.setdefault(source.url, source)
    return tuple(by_address.values())


def shortened(sources: Sequence[Source], most: int, chars: int) -> tuple[Source, ...]:
    """Return the first of some sources, with texts of at most so many characters."""
    return tuple(
        Source(
            url=one_line(source.url, ADDRESS_CHARS),
            title=one_line(source.title, chars),
            cited=one_line(source.cited, chars),
        )
        for source in sources[:most]
    )


def listed(sources: Iterable[Source]) -> str:
    """Return sources as a Markdown list with a title; nothing if there are none."""
    lines = "\n".join(f"- {source.line}" for source in sources)
    return f"Sources:\n\n{lines}" if lines else ""


def cited_answer(state: RunState) -> str:
    """Return the answer of a run, with what it rests on where it is no JSON."""
    if state.value is not None:
        return state.answer
    return "\n\n".join(filter(None, [state.answer, listed(sources_of(state))]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Detail:
    """How much a reply tells of each thing, so that it fits."""

    objective: int
    """Characters of an objective."""
    sentence: int
    """Characters of an error, a reason or a warning."""
    subtasks: int
    sentences: int
    """How many reasons or warnings."""
    sources: int


DETAILS = (
    Detail(objective=2_000, sentence=1_000, subtasks=50, sentences=20, sources=30),
    Detail(objective=160, sentence=200, subtasks=50, sentences=10, sources=15),
    Detail(objective=60, sentence=80, subtasks=30, sentences=5, sources=8),
    Detail(objective=40, sentence=60, subtasks=8, sentences=3, sources=3),
)
"""From the fullest to one that fits whatever the run."""


def progress_line(state: RunState) -> str:
    """Return how far a run has come, such as `1 of 2 subtasks ended; analyst is running`."""
    if state.displayed_status == "cancelling":
        return one_line(f"cancelling: {state.cancel_requested}", 200)
    questions = state.questions.values()
    asked = [f"{item.worker} waits for leave to call {item.tool}" for item in questions]
    return one_line("; ".join([_progress(state), *asked]), 200)


def _progress(state: RunState) -> str:
    if state.status == "queued":
        return "queued until a process has room for it"
    if state.guard == "pending":
        return "the guard is reading the task; nothing is shown before it lets it pass"
    if state.status == "needs_approval":
        return "the plan waits for approval"
    if not state.subtasks:
        return state.status
    if state.status == "synthesizing":
        return f"all {len(state.subtasks)} subtasks ended; writing the answer"
    if "verifier" in state.calls.values():
        return f"all {len(state.subtasks)} subtasks ended; checking their results"
    running = [item.subtask.worker for item in state.subtasks.values() if item.status == "running"]
    ended = f"{state.ended_subtasks} of {len(state.subtasks)} subtasks ended"
    if "orchestrator" in state.calls.values():
        ended += "; the orchestrator decides what comes next"
    return f"{ended}; {_at_work(running)}" if running else ended


def _at_work(running: Sequence[str]) -> str:
    """Return who of these workers is running, with the first three by name."""
    shown = [*running[:3], *([f"{len(running) - 3} more"] if len(running) > 3 else [])]
    names = shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
    return f"{names} {'is' if len(running) == 1 else 'are'} running"


def strategy_phrase(subtask: Subtask) -> str:
    """Return how a subtask is done, in short: `single`, `vote 3 by judge`, `map 12 parts`."""
    match subtask.strategy:
        case Revise(rounds=rounds):
            return f"revise up to {rounds}"
        case Vote() as vote:
            return f"vote {len(vote.electorate)} by {vote.decide}"
        case Map(over="sections"):
            return "map sections"
        case Map(over=over, contexts=contexts):
            parts = len(contexts if over == "contexts" else subtask.inputs)
            return f"map {parts} {'part' if parts == 1 else 'parts'}"
        case single:
            return single.kind


def long_text(state: RunState) -> str:
    """Return the text of a run that may need several pages: its answer, or its plan as JSON."""
    if state.request.kind == "plan" and state.plan is not None and not state.answer:
        return state.plan.model_dump_json(indent=2, exclude_defaults=True)
    if state.value is not None:
        return json.dumps(state.value, ensure_ascii=False, indent=2)
    return state.answer


def run_reply(state: RunState, page: Page, detail: Detail, *, approval_token: str = "") -> RunReply:
    """Return where a run stands, with one page of its answer; only that from the second page on."""
    if page.start:
        return RunReply(
            run_id=state.run_id,
            status=state.status,
            task=one_line(state.request.task, 160),
            answer=page.text,
            next_offset=page.next_offset,
            answer_chars=page.total,
            next=next_after_run(state, page, approval_token=approval_token),
        )
    as_value = state.value is not None and page.whole
    sources = sources_of(state)
    run = f"runs://{state.run_id}"
    links = {"run": run, "trace": f"{run}/trace"}
    if state.plan is not None:
        links["plan"] = f"{run}/plan"
    if state.answer:
        links["answer"] = f"{run}/answer"
    if rewritten_files(state):
        links["diff"] = f"{run}/diff"
    return RunReply(
        run_id=state.run_id,
        status=state.displayed_status,
        task=one_line(state.request.task, 160),
        context=one_line(state.request.context, 160),
        constraints=_sentences(state.request.constraints, detail),
        progress="" if state.still else progress_line(state),
        questions=question_lines(state, most=detail.sentences, chars=detail.sentence),
        guard=state.guard,
        answer="" if as_value else page.text,
        next_offset=page.next_offset,
        answer_chars=None if page.whole else page.total,
        value=state.value if as_value else None,
        subtasks=tuple(_lines(state, detail)),
        more_subtasks=max(len(state.subtasks) - detail.subtasks, 0),
        seconds=_elapsed(state.started_at, state.stopped_at),
        usd=usd_of(state.usage),
        estimate=state.estimate if _still_to_be_run(state) else None,
        approval_token=approval_token,
        budget=budget(state),
        rest=state.rest,
        usage=usage_lines(state.by_model),
        reused=one_line(reused_line(state), detail.sentence),
        reasons=_sentences(state.reasons, detail),
        sources=shortened(sources, detail.sources, detail.sentence),
        more_sources=max(len(sources) - detail.sources, 0),
        decisions=_sentences(state.decisions, detail),
        findings=_sentences([finding.what for finding in state.findings], detail),
        custom_workers=_sentences(written_workers(state), detail),
        warnings=_sentences(state.warnings, detail),
        notice=one_line(state.notice, 400),
        next=next_after_run(state, page, approval_token=approval_token),
        links=links,
    )


def _still_to_be_run(state: RunState) -> bool:
    """Tell whether what the plan of a run is likely to take is still of use."""
    return not state.over or state.request.kind == "plan" or state.status == "needs_approval"


def _lines(state: RunState, detail: Detail) -> Iterable[SubtaskLine]:
    for subtask_id, item in list(state.subtasks.items())[: detail.subtasks]:
        errors = " ".join(item.result.errors) if item.result is not None else ""
        notes = item.result.notes if item.result is not None else ()
        yield SubtaskLine(
            subtask_id=subtask_id,
            worker=item.subtask.worker,
            status=item.status,
            objective=one_line(item.subtask.objective, min(detail.objective, 160)),
            strategy=strategy_phrase(item.subtask),
            notes=one_line(" ".join(notes), min(detail.sentence, 300)),
            seconds=_subtask_seconds(item),
            usd=usd_of(item.usage),
            error=one_line(errors, min(detail.sentence, 300)),
        )


def written_workers(state: RunState) -> list[str]:
    """Return a line for each worker that was written for a run."""
    workers = state.plan.custom_workers if state.plan is not None else ()
    return [f"{worker.name}: {worker.description}" for worker in workers]


def plan_reply(state: RunState, page: Page, detail: Detail) -> PlanReply:
    """Return the plan that a planning run made; `page` is of its direct answer."""
    plan = state.plan
    run = f"runs://{state.run_id}"
    subtasks = plan.subtasks if plan is not None else ()
    shown = tuple(_shortened(subtask, detail) for subtask in subtasks[: detail.subtasks])
    custom = plan.custom_workers[: detail.subtasks] if plan is not None else ()
    analysis = plan.analysis if plan is not None else ""
    short_analysis = analysis if len(analysis) <= detail.objective else one_line(analysis, 300)
    return PlanReply(
        plan_id=state.run_id,
        status=state.displayed_status,
        analysis=short_analysis,
        direct_answer=page.text or None,
        next_offset=page.next_offset,
        mode=plan.mode if plan is not None else "static",
        why=one_line(plan.why, detail.sentence) if plan is not None else "",
        verify=plan.verify if plan is not None else "none",
        subtasks=shown,
        custom_workers=tuple(_shortened_worker(worker, detail) for worker in custom),
        shortened=shown != subtasks[: detail.subtasks] or short_analysis != analysis,
        more_subtasks=max(len(subtasks) - detail.subtasks, 0),
        estimate=state.estimate,
        usd=usd_of(state.usage),
        usage=usage_lines(state.by_model),
        reasons=_sentences(state.reasons, detail),
        warnings=_sentences(state.warnings, detail),
        notice=one_line(state.notice, 400),
        next=next_after_plan(state, page),
        links={"plan": f"{run}/plan", "trace": f"{run}/trace"} if plan else {"run": run},
    )


def _shortened(subtask: Subtask, detail: Detail) -> Subtask:
    """Return a subtask whose texts are no longer than `detail` allows."""
    changes: dict[str, object] = {}
    for name in ("objective", "why", "expects"):
        text: str = getattr(subtask, name)
        if len(text) > detail.objective:
            changes[name] = one_line(text, detail.objective)
    if len(subtask.inputs) > detail.sentences or len("".join(subtask.inputs)) > detail.sentence:
        changes["inputs"] = tuple(one_line(name, 60) for name in subtask.inputs[:3])
    if len(subtask.depends_on) > detail.sentences:
        changes["depends_on"] = subtask.depends_on[: detail.sentences]
    return subtask.model_copy(update=changes) if changes else subtask


def _shortened_worker(worker: CustomWorker, detail: Detail) -> CustomWorker:
    """Return a custom worker whose texts are no longer than `detail` allows."""
    texts = {
        name: one_line(getattr(worker, name), detail.objective)
        for name in ("description", "instructions", "why")
        if len(getattr(worker, name)) > detail.objective
    }
    return worker.model_copy(update=texts) if texts else worker


def subtask_reply(
    state: RunState, result: SubtaskResult, page: Page, detail: Detail
) -> SubtaskReply:
    """Return a subtask with one page of its result; only that from the second page on."""
    item = state.subtasks[result.subtask_id]
    if page.start:
        return SubtaskReply(
            run_id=state.run_id,
            subtask_id=result.subtask_id,
            worker=result.worker,
            status=result.status,
            objective=one_line(item.subtask.objective, 160),
            result=page.text,
            next_offset=page.next_offset,
            result_chars=page.total,
            next=next_after_subtask(state, result, page),
        )
    as_value = result.value is not None and page.whole
    return SubtaskReply(
        run_id=state.run_id,
        subtask_id=result.subtask_id,
        worker=result.worker,
        status=result.status,
        objective=one_line(item.subtask.objective, detail.objective),
        result="" if as_value else page.text,
        next_offset=page.next_offset,
        result_chars=None if page.whole else page.total,
        value=result.value if as_value else None,
        seconds=_subtask_seconds(item),
        usage=usage_lines({result.usage.model: result.usage}),
        sources=shortened(result.sources, detail.sources, detail.sentence),
        more_sources=max(len(result.sources) - detail.sources, 0),
        notes=_sentences(result.notes, detail),
        errors=_sentences(result.errors, detail),
        notice=one_line(state.notice, 400),
        next=next_after_subtask(state, result, page),
        links={"subtask": f"runs://{state.run_id}/subtasks/{result.subtask_id}"},
    )


def result_text(result: SubtaskResult) -> str:
    """Return the text of a result that may need several pages."""
    if result.value is not None:
        return json.dumps(result.value, ensure_ascii=False, indent=2)
    return result.text


def runs_reply(recent: RecentRuns, *, notice: str) -> RunsReply:
    """Return the latest runs, a line each."""
    return RunsReply(
        runs=tuple(_run_line(state) for state in recent.states),
        unreadable=tuple(one_line(sentence, 300) for sentence in recent.unreadable),
        notice=one_line(notice, 400),
        next=(
            "Call get_run with a run_id to see that run."
            if recent.states
            else "There are no runs yet. Call run_orchestration with a task to start one."
        ),
    )


def _run_line(state: RunState) -> RunLine:
    return RunLine(
        run_id=state.run_id,
        kind=state.request.kind,
        status=state.displayed_status,
        task=one_line(state.request.task, 100),
        started_at=datetime.fromtimestamp(state.started_at, UTC).isoformat(timespec="seconds"),
        seconds=_elapsed(state.started_at, state.stopped_at) if state.still else None,
    )


def _elapsed(start: float, end: float | None) -> float:
    return round(max((time.time() if end is None else end) - start, 0.0), 1)


def _subtask_seconds(item: SubtaskState) -> float | None:
    return None if item.started_at is None else _elapsed(item.started_at, item.ended_at)


def _sentences(sentences: Sequence[str], detail: Detail) -> tuple[str, ...]:
    shown = [one_line(sentence, detail.sentence) for sentence in sentences[: detail.sentences]]
    if len(sentences) > len(shown):
        shown.append(f"… and {len(sentences) - len(shown)} more.")
    return tuple(shown)
