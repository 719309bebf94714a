"""How the results of a run become its answer."""

import math
from collections.abc import Sequence
from dataclasses import replace

import anyio

from concertmaster.catalog.prompts import RenderedPrompt
from concertmaster.engine.concurrency import at_once
from concertmaster.engine.conversation import Conversation
from concertmaster.engine.events import SynthesisStarted
from concertmaster.engine.replies import Verdict
from concertmaster.engine.run import Run, Setup, bullets, fenced_results
from concertmaster.llm.protocol import Request, SynthesisBrief, UserMessage, WorkResult

SYNTHESIS_CHARS = 400_000
"""How much of the results one synthesis reads; more is condensed in groups first."""

CONDENSING_ROUNDS = 3

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
    started = SynthesisStarted(name="synthesis/start", at=run.steps.now())
    await run.steps.record(started, wait=False)
    until = anyio.current_time() + seconds
    condensed = await _condense(run, setup, results, seconds=seconds / 2)
    # From here on, what was held back for the answer is there to be spent.
    run.steps.spending.hold_back()
    request = _synthesis_request(run, setup, condensed, gaps)
    too_long = run.steps.spending.unaffordable_bytes(setup.llm, request)
    if too_long:
        too_long += NOTE_CHARS * len(condensed)
        condensed = _shortened(condensed, max(_length(condensed) - too_long, 0))
        request = _synthesis_request(run, setup, condensed, gaps)
    conversation = Conversation(run, setup, request, step="synthesis")
    verdict = await conversation.verdict(seconds=until - anyio.current_time())
    if not verdict.text:
        return _side_by_side(results, verdict.problem)
    return verdict.with_problem(TOO_DEAR) if too_long else verdict


def _synthesis_request(
    run: Run, setup: Setup, results: Sequence[WorkResult], gaps: Sequence[str]
) -> Request:
    prompt = setup.prompts.render(
        "synthesize",
        task=run.request.task,
        results=fenced_results(results),
        gaps=bullets(gaps),
        form=SCHEMA_FORM if run.request.output_schema else PLAIN_FORM,
    )
    return replace(
        _request(run, setup, "synthesizer", prompt, results),
        output_schema=run.request.output_schema,
    )


def _request(
    run: Run, setup: Setup, caller: str, prompt: RenderedPrompt, results: Sequence[WorkResult]
) -> Request:
    return Request(
        caller=caller,
        model=setup.models.synthesizer,
        system=prompt.system,
        messages=(UserMessage(text=prompt.user),),
        brief=SynthesisBrief(task=run.request.task, results=tuple(results)),
        max_tokens=run.request.limits.max_tokens,
    )


def _side_by_side(results: Sequence[WorkResult], problem: str) -> Verdict:
    parts = [f"No synthesis could be made ({problem}) The results follow as they are."]
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


async def _condense(
    run: Run, setup: Setup, results: Sequence[WorkResult], *, seconds: float
) -> Sequence[WorkResult]:
    """Return results short enough for one synthesis, made of groups condensed in parallel."""
    slots = anyio.CapacityLimiter(run.request.limits.slots)
    for round_number in range(1, CONDENSING_ROUNDS + 1):
        if _length(results) <= SYNTHESIS_CHARS:
            return results

        async def condense(
            numbered: tuple[int, Sequence[WorkResult]], prefix: str = f"condense/{round_number}"
        ) -> WorkResult:
            number, group = numbered
            async with slots:
                return await _condense_group(
                    run, setup, group, step=f"{prefix}.{number}", seconds=seconds
                )

        results = await at_once(condense, enumerate(_groups(results), start=1))
    return _shortened(results, SYNTHESIS_CHARS)


async def _condense_group(
    run: Run, setup: Setup, group: Sequence[WorkResult], *, step: str, seconds: float
) -> WorkResult:
    prompt = setup.prompts.render("condense", task=run.request.task, results=fenced_results(group))
    request = _request(run, setup, "condenser", prompt, group)
    verdict = await Conversation(run, setup, request, step=step).verdict(seconds=seconds)
    whole = all(result.status == "succeeded" for result in group)
    return WorkResult(
        subtask_id="+".join(dict.fromkeys(result.subtask_id for result in group)),
        worker=", ".join(dict.fromkeys(result.worker for result in group)),
        objective="; ".join(dict.fromkeys(result.objective for result in group)),
        status=verdict.status if whole else "partial",
        text=verdict.text or "\n\n".join(result.text for result in group),
        problem=" ".join(filter(None, [*(result.problem for result in group), verdict.problem])),
    )


def _length(results: Sequence[WorkResult]) -> int:
    return sum(len(result.text) for result in results)


def _groups(results: Sequence[WorkResult]) -> list[list[WorkResult]]:
    """Return the results, those too long in pieces, in groups that a model can read."""
    groups: list[list[WorkResult]] = []
    room = 0
    for result in results:
        for start in range(0, max(len(result.text), 1), SYNTHESIS_CHARS):
            piece = replace(result, text=result.text[start : start + SYNTHESIS_CHARS])
            if len(piece.text) > room:
                groups.append([])
                room = SYNTHESIS_CHARS
            groups[-1].append(piece)
            room -= len(piece.text)
    return groups


def _shortened(results: Sequence[WorkResult], chars: int) -> list[WorkResult]:
    """Return the results cut to fit: the last resort, which says so."""
    share = math.floor(chars / len(results))
    return [
        replace(
            result,
            text=result.text[:share],
            problem=f"{result.problem} Cut to {share} characters for the synthesis.".strip(),
        )
        if len(result.text) > share
        else result
        for result in results
    ]
