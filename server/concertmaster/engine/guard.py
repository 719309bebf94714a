"""A worker that screens a run's task and inputs while the work on them has already begun."""

from collections.abc import Awaitable, Callable

from concertmaster.engine.concurrency import together
from concertmaster.engine.events import GuardDecided, RunEnded
from concertmaster.engine.judgement import NoJudgementError, Question, judge
from concertmaster.engine.run import Run, Setup, bullets, input_names
from concertmaster.engine.strategies.condensing import READABLE_CHARS
from concertmaster.llm.messages import closed_object
from concertmaster.llm.usage import Frozen

SCREENING = closed_object({"reason": {"type": "string"}, "allowed": {"type": "boolean"}})


class Screening(Frozen):
    """What a guard says of a task and its inputs."""

    allowed: bool
    reason: str


async def guarded(run: Run, setup: Setup, work: Callable[[], Awaitable[RunEnded]]) -> RunEnded:
    """Return the end of `work`; or, as soon as the guard objects, a failure with its reason.

    The work ends only when the guard has let the task pass. A guard that gives no judgement
    lets nothing pass.
    """
    ended: list[RunEnded] = []
    decision = run.steps.recorded.guard or await _unreadable(run)
    if decision is None:
        async with together() as tasks:

            async def do() -> None:
                ended.append(await work())

            tasks.start_soon(do)
            decision = await _screen(run, setup)
            if decision.passed:
                run.passed.set()
            else:
                tasks.cancel_scope.cancel()
    if decision.passed:
        run.passed.set()
        return ended[0] if ended else await work()
    return RunEnded(
        name="run/end",
        at=run.steps.now(),
        status="failed",
        reasons=(f"The guard {run.request.guard} did not let it pass: {decision.reason}",),
    )


async def _unreadable(run: Run) -> GuardDecided | None:
    """Return the decision on inputs that are too long to be screened whole, if they are."""
    chars = sum(len(document.text) for document in run.documents.values())
    if chars <= READABLE_CHARS:
        return None
    reason = (
        f"Its inputs have {chars:,} characters, of which a guard reads {READABLE_CHARS:,} at most."
    )
    return await _decided(run, Screening(allowed=False, reason=reason))


async def _screen(run: Run, setup: Setup) -> GuardDecided:
    worker = setup.catalog.get(run.request.guard)
    documents = tuple(run.documents.values())
    prompt = setup.prompts.render(
        "guard",
        role=worker.instructions,
        task=run.request.task,
        context=run.request.context or "None.",
        constraints=bullets(run.request.constraints),
        input_names=input_names(documents),
    )
    question = Question(
        caller="guard",
        act="screen a task",
        step="guard",
        prompt=prompt,
        schema=SCREENING,
        model=worker.model or setup.models.worker,
        documents=documents,
    )
    limits = run.request.limits
    seconds = min(worker.timeout_seconds or limits.subtask_seconds, limits.run_seconds)
    try:
        screening = await judge(Screening, question, run=run, setup=setup, seconds=seconds)
    except NoJudgementError as exc:
        screening = Screening(allowed=False, reason=f"It could not be screened. {exc}")
    return await _decided(run, screening)


async def _decided(run: Run, screening: Screening) -> GuardDecided:
    decision = GuardDecided(
        name="guard", at=run.steps.now(), passed=screening.allowed, reason=screening.reason
    )
    await run.steps.record(decision)
    return decision
