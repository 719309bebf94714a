"""What `--json` prints: the shapes that MCP clients get, with nothing cut."""

from collections.abc import Mapping
from datetime import UTC, datetime

from pydantic import JsonValue

from concertmaster.engine.events import SubtaskResult
from concertmaster.llm.usage import Frozen, Usage
from concertmaster.replies.build import (
    budget,
    reused_line,
    sources_of,
    strategy_phrase,
    written_workers,
)
from concertmaster.replies.models import (
    ModelUsage,
    PlanReply,
    RunLine,
    RunReply,
    SubtaskLine,
    SubtaskReply,
)
from concertmaster.replies.next_steps import question_lines
from concertmaster.runs.state import RunState, SubtaskState


def run_data(state: RunState) -> JsonValue:
    """Return a run, or the plan that it was for, as plain data."""
    if state.request.kind == "plan":
        return _plain(_plan(state))
    return _plain(
        RunReply(
            notice=state.notice,
            run_id=state.run_id,
            status=state.displayed_status,
            task=state.request.task,
            context=state.request.context,
            constraints=state.request.constraints,
            answer=state.answer,
            value=state.value,
            subtasks=tuple(_line(item) for item in state.subtasks.values()),
            seconds=_seconds(state.started_at, state.stopped_at),
            usd=state.usage.usd,
            estimate=state.estimate,
            budget=budget(state),
            rest=state.rest,
            usage=_usage(state.by_model),
            reused=reused_line(state),
            reasons=state.reasons,
            questions=question_lines(state),
            sources=sources_of(state),
            guard=state.guard,
            decisions=state.decisions,
            findings=tuple(finding.what for finding in state.findings),
            custom_workers=tuple(written_workers(state)),
            warnings=state.warnings,
        )
    )


def run_line(state: RunState) -> JsonValue:
    """Return a run in short, as plain data."""
    return _plain(
        RunLine(
            run_id=state.run_id,
            kind=state.request.kind,
            status=state.displayed_status,
            task=state.request.task,
            started_at=datetime.fromtimestamp(state.started_at, UTC).isoformat(),
            seconds=_seconds(state.started_at, state.stopped_at),
        )
    )


def subtask_data(run_id: str, objective: str, result: SubtaskResult) -> JsonValue:
    """Return one subtask with its whole result, as plain data."""
    return _plain(
        SubtaskReply(
            run_id=run_id,
            subtask_id=result.subtask_id,
            worker=result.worker,
            status=result.status,
            objective=objective,
            result=result.text,
            value=result.value,
            seconds=result.seconds,
            usage=_usage({result.usage.model: result.usage}),
            sources=result.sources,
            notes=result.notes,
            errors=result.errors,
        )
    )


def _plain(reply: Frozen) -> JsonValue:
    return reply.model_dump(mode="json", exclude_unset=True)


def _plan(state: RunState) -> PlanReply:
    plan = state.plan
    return PlanReply(
        notice=state.notice,
        plan_id=state.run_id,
        status=state.displayed_status,
        analysis=plan.analysis if plan else "",
        direct_answer=plan.direct_answer if plan else None,
        mode=plan.mode if plan else "static",
        why=plan.why if plan else "",
        verify=plan.verify if plan else "none",
        subtasks=plan.subtasks if plan else (),
        estimate=state.estimate,
        custom_workers=plan.custom_workers if plan else (),
        usd=state.usage.usd,
        usage=_usage(state.by_model),
        reasons=state.reasons,
        warnings=state.warnings,
    )


def _line(item: SubtaskState) -> SubtaskLine:
    return SubtaskLine(
        subtask_id=item.subtask.id,
        worker=item.subtask.worker,
        status=item.status,
        objective=item.subtask.objective,
        strategy=strategy_phrase(item.subtask),
        notes=" ".join(item.result.notes) if item.result else "",
        seconds=_seconds(item.started_at, item.ended_at),
        usd=item.usage.usd,
        error=" ".join(item.result.errors) if item.result else "",
    )


def _seconds(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else round(end - start, 3)


def _usage(by_model: Mapping[str, Usage]) -> tuple[ModelUsage, ...]:
    return tuple(
        ModelUsage.model_validate(
            usage.model_dump(exclude={"seconds"}) | {"cache_hit_rate": usage.cache_hit_rate}
        )
        for usage in by_model.values()
        if usage.calls
    )
