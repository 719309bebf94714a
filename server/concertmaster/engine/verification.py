"""Checking the results of a run against one another, and having workers mend what is found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import anyio

from concertmaster.engine.concurrency import at_once
from concertmaster.engine.delegation import Delegated
from concertmaster.engine.events import (
    Finding,
    ResultsVerified,
    SubtaskFinished,
    SubtaskResult,
)
from concertmaster.engine.judgement import NoJudgementError, judge
from concertmaster.engine.plan import Subtask
from concertmaster.engine.run import (
    Run,
    Setup,
    bullets,
    fenced_results,
    work_result,
    workers_of,
)
from concertmaster.engine.subtask import result_of
from concertmaster.engine.work import Piece, Work
from concertmaster.engine.worker import conversation
from concertmaster.llm.protocol import Frozen, JsonSchema, closed_object

MEND = Piece(step="mend")

REVISED = "Its worker revised it after the check of all results."


class Verification(Frozen):
    """What results of several workers do not agree on."""

    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """Results after verification, and what is still to be told about them."""

    results: tuple[SubtaskResult, ...]
    notes: tuple[str, ...] = ()
    """A sentence for each finding, for whoever writes the answer."""
    problem: str = ""
    """Why there was no verification."""


async def verify(
    run: Run, setup: Setup, delegated: Delegated, *, mend: bool, until: float
) -> Verified:
    """Return the results, checked against one another; to `mend`, workers revise them once."""
    texts = [result for result in delegated.results if result.text]
    if len(texts) < 2:
        return Verified(results=delegated.results)
    subtasks = {subtask.id: subtask for subtask in delegated.plan.subtasks}
    try:
        findings = await _find(run, setup, subtasks, texts, until=until)
    except NoJudgementError as exc:
        problem = f"The results were not checked against one another: {exc}"
        return Verified(results=delegated.results, problem=problem)
    verified = ResultsVerified(name="verification", at=run.steps.now(), findings=findings)
    await run.steps.record(verified, wait=False)
    notes = tuple(_note(finding, mend=mend) for finding in findings)
    if not mend or not findings:
        return Verified(results=delegated.results, notes=notes)
    results = await _mended(run, setup, delegated, findings, until=until)
    return Verified(results=results, notes=notes)


async def _find(
    run: Run,
    setup: Setup,
    subtasks: Mapping[str, Subtask],
    results: Sequence[SubtaskResult],
    *,
    until: float,
) -> tuple[Finding, ...]:
    prompt = setup.prompts.render(
        "verify",
        task=run.request.task,
        results=fenced_results(
            work_result(subtasks[result.subtask_id], result) for result in results
        ),
    )
    verification = await judge(
        Verification,
        _schema([result.subtask_id for result in results]),
        run=run,
        setup=setup,
        caller="verifier",
        act="check results against one another",
        step="verify",
        prompt=prompt,
        seconds=min(run.request.limits.subtask_seconds, until - anyio.current_time()),
    )
    return verification.findings


def _schema(subtask_ids: Sequence[str]) -> JsonSchema:
    finding = closed_object(
        {
            "what": {"type": "string"},
            "mend": {"type": "string"},
            "severity": {"enum": ["high", "medium", "low"]},
            "subtasks": {"type": "array", "items": {"enum": list(subtask_ids)}},
        }
    )
    return closed_object({"findings": {"type": "array", "items": finding}})


def _note(finding: Finding, *, mend: bool) -> str:
    where = ", ".join(finding.subtasks) or "the results"
    back = " It was sent back." if mend and finding.subtasks else ""
    return (
        f"Checking the results against one another ({where}, {finding.severity}): "
        f"{finding.what}{back}"
    )


async def _mended(
    run: Run, setup: Setup, delegated: Delegated, findings: Sequence[Finding], *, until: float
) -> tuple[SubtaskResult, ...]:
    """Return the results, where each that a finding concerns has been revised by its worker."""
    results = {result.subtask_id: result for result in delegated.results}
    subtasks = {subtask.id: subtask for subtask in delegated.plan.subtasks}
    workers = workers_of(delegated.plan, setup.catalog)
    slots = anyio.CapacityLimiter(run.request.limits.slots)

    async def mend(subtask: Subtask) -> SubtaskResult:
        result = results[subtask.id]
        points = [
            f"{finding.what} {finding.mend}"
            for finding in findings
            if subtask.id in finding.subtasks
        ]
        if not points:
            return result
        work = Work(
            run=run,
            setup=setup,
            workers=workers,
            subtask=subtask,
            dependencies=[
                work_result(subtasks[name], results[name]) for name in subtask.depends_on
            ],
            until=until,
            take_slot=lambda _: slots,
        )
        return await _revised(work, result, points)

    return tuple(await at_once(mend, delegated.plan.subtasks))


async def _revised(work: Work, result: SubtaskResult, points: Sequence[str]) -> SubtaskResult:
    wish = work.setup.prompts.render("revise", points=bullets(points))
    talk = conversation(work, MEND)
    async with work.slot():
        verdict = await talk.revise(result.text, wish.user, seconds=work.seconds())
    if verdict.status != "succeeded":
        problem = f"It was not revised after the check of all results: {verdict.problem}"
        revised = result.model_copy(
            update={"status": "partial", "errors": (*result.errors, problem)}
        )
    else:
        verdict = verdict.with_notes(*result.notes, REVISED)
        # A revision mends what was found, and not what had been missing before.
        if result.errors:
            verdict = verdict.with_problem(" ".join(result.errors))
        revised = result_of(work, verdict, seconds=result.seconds)
    steps = work.run.steps
    await steps.record(
        SubtaskFinished(
            name=f"subtask/{result.subtask_id}/result/mended", at=steps.now(), result=revised
        )
    )
    return revised
