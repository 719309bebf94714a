"""How the results of a run become its answer."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from hashlib import sha256

import anyio

from concertmaster.engine.conversation import Conversation, Verdict
from concertmaster.engine.events import ResultsShortened, SynthesisStarted
from concertmaster.engine.run import Run, Setup, bullets, fenced_results
from concertmaster.engine.strategies.condensing import condensed, cut, length
from concertmaster.llm.messages import Request, SynthesisBrief, UserMessage, WorkResult

NOTE_CHARS = 200
"""What is said beside a result that was shortened, at most."""

TOO_DEAR = "The answer was made of shortened results, because the run's budget allowed no more."

PLAIN_FORM = "Plain Markdown, as long as the content needs and no longer."
SCHEMA_FORM = "One JSON value of the output schema, and nothing else."


async def synthesize(
    run: Run, setup: Setup, results: Sequence[WorkResult], gaps: Sequence[str], *, seconds: float
) -> Verdict:
    """Return the answer made of `results`, which tells of the `gaps`, within `seconds`.

    Where no synthesis can be made, the answer is `partial`: the results as they are, one
    after another. What workers have done is never lost to a failure of this last step.
    """
    made_from = _digest(results, gaps)
    run.steps.recorded.begin_synthesis(made_from)
    started = SynthesisStarted(name="synthesis/start", at=run.steps.now(), made_from=made_from)
    await run.steps.record(started, wait=False)
    now = anyio.current_time()
    short = await condensed(run, setup, results, until=now + seconds / 2)
    # From here on, what was held back for the answer is there to be spent.
    run.steps.spending.hold_back()
    request = _request(run, setup, short, gaps)
    # What is left now that it is paid for does not tell what an answer that there is was made of.
    is_made = run.steps.recorded.was_made("synthesis")
    too_long = 0 if is_made else run.steps.spending.unaffordable_bytes(setup.llm, request)
    if too_long:
        too_long += NOTE_CHARS * len(short)
        short = cut(short, max(length(short) - too_long, 0))
        request = _request(run, setup, short, gaps)
        shortened = ResultsShortened(
            name="synthesis/shortened", at=run.steps.now(), chars=length(short)
        )
        await run.steps.record(shortened, wait=False)
    is_shortened = bool(too_long) or (is_made and run.steps.recorded.shortened)
    conversation = Conversation(run, setup, request, step="synthesis")
    verdict = await conversation.verdict(seconds=now + seconds - anyio.current_time())
    if not verdict.text:
        return _side_by_side(results, gaps, verdict.problem)
    return verdict.with_problem(TOO_DEAR) if is_shortened else verdict


def _digest(results: Sequence[WorkResult], gaps: Sequence[str]) -> str:
    """Return a digest of what an answer is made from."""
    plain = json.dumps([[asdict(result) for result in results], list(gaps)])
    return sha256(plain.encode()).hexdigest()[:16]


def _request(run: Run, setup: Setup, results: Sequence[WorkResult], gaps: Sequence[str]) -> Request:
    prompt = setup.prompts.render(
        "synthesize",
        task=run.request.task,
        context=run.request.context or "None.",
        constraints=bullets(run.request.constraints),
        results=fenced_results(results),
        gaps=bullets(gaps),
        form=SCHEMA_FORM if run.request.output_schema else PLAIN_FORM,
    )
    return Request(
        caller="synthesizer",
        model=setup.models.synthesizer,
        system=prompt.system,
        messages=(UserMessage(text=prompt.user),),
        brief=SynthesisBrief(task=run.request.task, results=tuple(results)),
        max_tokens=run.request.limits.max_tokens,
        output_schema=run.request.output_schema,
    )


def _side_by_side(results: Sequence[WorkResult], gaps: Sequence[str], problem: str) -> Verdict:
    parts = [f"No synthesis could be made ({problem}) The results follow as they are."]
    if gaps:
        parts.append(f"What else there is to know:\n\n{bullets(gaps)}")
    parts += [
        f"## {result.subtask_id}: {result.objective}\n\n{result.text}"
        for result in results
        if result.text
    ]
    return Verdict(
        status="partial",
        text="\n\n".join(parts),
        problem=f"No synthesis could be made: {problem}",
    )
