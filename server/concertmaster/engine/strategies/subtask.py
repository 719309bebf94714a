"""One subtask from its start to its result, by whatever strategy."""

import logging
from dataclasses import replace

from concertmaster.engine.conversation import Verdict
from concertmaster.engine.events import SubtaskResult
from concertmaster.engine.plan.plan import Map, Revise, Subtask, Vote
from concertmaster.engine.strategies.condensing import with_condensed_dependencies
from concertmaster.engine.strategies.map import do_in_parts
from concertmaster.engine.strategies.result_cache import offered
from concertmaster.engine.strategies.revise import do_with_revisions
from concertmaster.engine.strategies.vote import do_by_vote
from concertmaster.engine.strategies.work import Work, do
from concertmaster.errors import StoreError
from concertmaster.llm.usage import Usage

log = logging.getLogger(__name__)


async def do_subtask(work: Work, identity: str) -> SubtaskResult:
    """Return how the subtask ended, whose fingerprint is `identity`, whatever goes wrong in it.

    Raises:
        StoreError: the journal cannot be written any more, or not be read.
    """
    steps, subtask = work.run.steps, work.subtask
    started = steps.elapsed()
    try:
        if (known := await offered(work, identity)) is not None:
            return known
        verdict = await _verdict(work)
    except StoreError:
        raise
    except Exception as exc:
        # A fault in a tool or in this program fails one subtask and not its siblings.
        log.exception("subtask broke", extra={"subtask": subtask.id})
        verdict = Verdict(
            status="failed", problem=f"An internal error ended it: {type(exc).__name__}."
        )
    if steps.spending.turned_away(subtask.id) and not steps.usage(subtask.id).calls:
        verdict = replace(verdict, status="skipped")
    result = result_of(work, verdict, seconds=steps.elapsed() - started)
    if result.status != "succeeded":
        return result
    return result.model_copy(update={"fingerprint": identity})


def result_of(work: Work, verdict: Verdict, *, seconds: float) -> SubtaskResult:
    """Return the result that a verdict on the work comes to."""
    return SubtaskResult(
        subtask_id=work.subtask.id,
        worker=work.subtask.worker,
        status=verdict.status,
        text=verdict.text,
        value=verdict.value,
        parts=verdict.parts,
        errors=(verdict.problem,) if verdict.problem else (),
        notes=verdict.notes,
        sources=verdict.sources,
        usage=work.run.steps.usage(work.subtask.id),
        seconds=seconds,
    )


def _refusal(work: Work) -> str:
    """Return why no call of the subtask's worker can be made, or nothing if one may."""
    steps = work.run.steps
    if (refusal := steps.refusal(work.model())) is not None:
        return str(refusal)
    spending, subtask_id = steps.spending, work.subtask.id
    if (usd := work.budget_usd) is not None:
        spending.limit_subtask(subtask_id, usd, steps.usage(subtask_id))
    return spending.check(
        work.setup.llm, work.model(), max_tokens=work.max_tokens(), subtask_id=subtask_id
    )


def not_done(subtask: Subtask, why: str) -> SubtaskResult:
    """Return the result of a subtask that does not start, and why."""
    return SubtaskResult(
        subtask_id=subtask.id, worker=subtask.worker, status="skipped", errors=(why,)
    )


def not_finished(subtask: Subtask, usage: Usage, *, unneeded: bool) -> SubtaskResult:
    """Return the result of a subtask that was stopped, as `unneeded` or as not in the plan."""
    enough = "The orchestrator stopped it, having enough without it."
    dropped = "It was stopped, because the finished plan does without it."
    return SubtaskResult(
        subtask_id=subtask.id,
        worker=subtask.worker,
        status="cancelled",
        errors=(enough if unneeded else dropped,),
        usage=usage,
    )


async def _verdict(work: Work) -> Verdict:
    if refusal := _refusal(work):
        return Verdict(status="skipped", problem=refusal)
    work = await with_condensed_dependencies(work)
    match work.subtask.strategy:
        case Revise() as strategy:
            return await do_with_revisions(work, strategy)
        case Vote() as strategy:
            return await do_by_vote(work, strategy)
        case Map() as strategy:
            return await do_in_parts(work, strategy)
        case _:
            return await do(work)
