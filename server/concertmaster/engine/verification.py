"""Checking the results of a run against one another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import anyio

from concertmaster.engine.concurrency import at_once
from concertmaster.engine.conversation import Verdict
from concertmaster.engine.delegation import Delegated
from concertmaster.engine.events import (
    Finding,
    PartResult,
    ResultsVerified,
    SubtaskFinished,
    SubtaskResult,
    consumed,
)
from concertmaster.engine.judgement import NoJudgementError, Question, judge
from concertmaster.engine.plan.plan import Map, Subtask
from concertmaster.engine.run import Run, Setup, bullets, fenced_results, work_result, workers_of
from concertmaster.engine.strategies.condensing import condensed, with_condensed_dependencies
from concertmaster.engine.strategies.map import Part, combined, parts_of
from concertmaster.engine.strategies.subtask import result_of
from concertmaster.engine.strategies.work import Piece, Work, conversation
from concertmaster.llm.fencing import spelled
from concertmaster.llm.messages import JsonSchema, closed_object, distinct
from concertmaster.llm.usage import Frozen

REVISED = "Its worker revised it after the check of all results."

NOT_REVISED = "It was not revised after the check of all results"


async def mended(
    run: Run, setup: Setup, delegated: Delegated, findings: Sequence[Finding], *, until: float
) -> tuple[SubtaskResult, ...]:
    """Return the results, where each that a finding concerns has been revised by its worker.

    So has each that was made from one which has changed by that, directly or further down. One
    that could not be brought into line is `partial`, and says so.
    """
    results = {result.subtask_id: result for result in delegated.results}
    subtasks = {subtask.id: subtask for subtask in delegated.plan.subtasks}
    workers = workers_of(delegated.plan, setup)
    slots = anyio.CapacityLimiter(run.request.limits.slots)
    ready = {name: anyio.Event() for name in subtasks}

    async def mend_in_order(subtask: Subtask) -> SubtaskResult:
        for name in subtask.depends_on:
            await ready[name].wait()
        results[subtask.id] = await mend(subtask)
        ready[subtask.id].set()
        return results[subtask.id]

    async def mend(subtask: Subtask) -> SubtaskResult:
        result = results[subtask.id]
        concerning = [finding for finding in findings if subtask.id in finding.subtasks]
        built_on = {name: consumed(results[name]) for name in subtask.depends_on}
        if outdated := _outdated(result, built_on):
            concerning.append(outdated)
        if not concerning:
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
        work = await with_condensed_dependencies(work)
        return await _mended(work, result, concerning, built_on)

    return tuple(await at_once(mend_in_order, delegated.plan.subtasks))


def _outdated(result: SubtaskResult, built_on: Mapping[str, str]) -> Finding | None:
    """Return that a result was made from others than these, if it was."""
    if not result.text or result.built_on is None:
        return None
    changed = [name for name, digest in built_on.items() if result.built_on.get(name) != digest]
    if not changed:
        return None
    return Finding(
        subtasks=(result.subtask_id,),
        severity="medium",
        what=f"It was made from results that have been revised since: {', '.join(changed)}.",
        mend="Bring it into line with them as they are now.",
    )


async def _mended(
    work: Work,
    result: SubtaskResult,
    findings: Sequence[Finding],
    built_on: Mapping[str, str],
) -> SubtaskResult:
    before = Verdict(
        status=result.status,
        text=result.text,
        value=result.value,
        parts=result.parts,
        problem=" ".join(result.errors),
        notes=result.notes,
        sources=result.sources,
    )
    if isinstance(work.subtask.strategy, Map):
        verdict = await _mended_in_parts(work, work.subtask.strategy, before, findings)
    else:
        verdict = await _mended_whole(work, before, findings)
    revised = result_of(work, verdict, seconds=result.seconds)
    # One that could not be revised is still made from what it was made from.
    made_from = dict(built_on) if verdict.status == "succeeded" else result.built_on
    revised = revised.model_copy(update={"built_on": made_from})
    steps = work.run.steps
    await steps.record(
        SubtaskFinished(
            name=f"subtask/{result.subtask_id}/result/mended", at=steps.now(), result=revised
        )
    )
    return revised


async def _mended_whole(work: Work, before: Verdict, findings: Sequence[Finding]) -> Verdict:
    after = await _revision(work, Piece(step="mend"), before.text, findings)
    if not after.usable:
        return before.with_problem(f"{NOT_REVISED}: {after.problem}")
    # A revision mends what was found, and not what had been missing before.
    if before.problem:
        after = after.with_problem(before.problem)
    return _noted(before, after)


async def _mended_in_parts(
    work: Work, strategy: Map, before: Verdict, findings: Sequence[Finding]
) -> Verdict:
    """Return the results of all parts, each of which is revised by itself if it is concerned."""
    parts = await parts_of(work, strategy)
    names = [part.name for part in parts]
    if names != [done.name for done in before.parts]:
        return before.with_problem(f"{NOT_REVISED}: its parts are not the same any more.")

    async def mend(numbered: tuple[int, tuple[Part, PartResult]]) -> PartResult:
        number, (part, done) = numbered
        concerning = [finding for finding in findings if part.name in _concerned(finding, names)]
        if not concerning or not done.text:
            return done
        after = await _revision(work, part.piece(f"mend/part/{number}"), done.text, concerning)
        if not after.usable:
            problem = f"{done.problem} {NOT_REVISED}: {after.problem}".strip()
            return done.model_copy(update={"problem": problem})
        sources = distinct(done.sources, after.sources)
        return done.model_copy(
            update={
                "text": after.text,
                "value": after.value,
                "sources": sources,
                "problem": " ".join(filter(None, [done.problem, after.problem])),
            }
        )

    pairs = zip(parts, before.parts, strict=True)
    return _noted(before, combined(await at_once(mend, enumerate(pairs, start=1))))


def _noted(before: Verdict, after: Verdict) -> Verdict:
    """Return what there is after mending with the notes of before, and one if it has changed."""
    changed = () if after.text == before.text else (REVISED,)
    cited = replace(after, sources=distinct(before.sources, after.sources))
    return cited.with_notes(*before.notes, *changed)


def _concerned(finding: Finding, names: Sequence[str]) -> Sequence[str]:
    """Return the parts that a finding asks to be changed: those it names, or else all."""
    return [name for name in names if spelled(name) in finding.mend] or names


async def _revision(work: Work, piece: Piece, answer: str, findings: Sequence[Finding]) -> Verdict:
    points = bullets(f"{finding.what} {finding.mend}" for finding in findings)
    wish = work.setup.prompts.render("revise", points=points)
    talk = conversation(work, piece)
    async with work.slot():
        return await talk.revise(answer, wish.user, seconds=work.seconds())


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
