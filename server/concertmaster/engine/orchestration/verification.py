"""Checking the results of a run against one another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import anyio

from concertmaster.engine.conversations.judgement import NoJudgementError, Question, judge
from concertmaster.engine.orchestration.delegation import Delegated
from concertmaster.engine.orchestration.mending import mended
from concertmaster.engine.plans.plan import Subtask
from concertmaster.engine.record.events import Finding, ResultsVerified, SubtaskResult
from concertmaster.engine.run import Run, Setup, fenced_results, work_result
from concertmaster.engine.subtasks.condensing import condensed
from concertmaster.llm.protocol import Frozen, JsonSchema, closed_object


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
    results = await mended(run, setup, delegated, findings, until=until)
    return Verified(results=results, notes=notes)


async def _find(
    run: Run,
    setup: Setup,
    subtasks: Mapping[str, Subtask],
    results: Sequence[SubtaskResult],
    *,
    until: float,
) -> tuple[Finding, ...]:
    work = [work_result(subtasks[result.subtask_id], result) for result in results]
    now = anyio.current_time()
    short = await condensed(run, setup, work, until=now + (until - now) / 2)
    prompt = setup.prompts.render("verify", task=run.request.task, results=fenced_results(short))
    question = Question(
        caller="verifier",
        act="check results against one another",
        step="verify",
        prompt=prompt,
        schema=_schema([result.subtask_id for result in results]),
    )
    seconds = min(run.request.limits.subtask_seconds, until - anyio.current_time())
    verification = await judge(Verification, question, run=run, setup=setup, seconds=seconds)
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
