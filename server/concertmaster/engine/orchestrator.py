"""A run from its request to its end: plan, delegate, synthesize."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import anyio
from pydantic import JsonValue

from concertmaster.engine.approvals import waits_for_approval
from concertmaster.engine.budget import LEAST_REPLY, NOTHING, SHORT_REPLY, Amount, amount_of
from concertmaster.engine.delegation import Delegated, Delegation, open_delegation
from concertmaster.engine.estimate import HIGH, USUAL, estimate, synthesis_usage, usual_amount
from concertmaster.engine.events import EndStatus, Estimate, PlanAccepted, RunEnded, SubtaskResult
from concertmaster.engine.guard import guarded
from concertmaster.engine.plan.plan import Plan
from concertmaster.engine.plan.repair import RepairedPlan
from concertmaster.engine.plan.streaming import Drafts, settle
from concertmaster.engine.planner import make_plan
from concertmaster.engine.run import Run, Setup, work_result
from concertmaster.engine.synthesis import TOO_DEAR, synthesize
from concertmaster.engine.verification import verify
from concertmaster.errors import BudgetError, InvalidPlanError, ModelError
from concertmaster.llm.messages import WorkResult
from concertmaster.llm.token_count import most_tokens

SYNTHESIS_SHARE = 0.2
"""Part of a run's time that is held back for its synthesis."""

MOST_HELD_BACK = 0.5
"""Part of a run's budget that is held back for its synthesis, at most."""


NOTHING_RETRIED = (
    "The run was resumed and nothing could be tried again, so no call was made and the answer is "
    "the same. To get further, raise the budget, re-run a subtask or edit the plan."
)


class Orchestrator:
    """Drives runs. Holds no state of theirs, so one serves all runs of a process."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup

    async def drive(self, run: Run) -> None:
        """Take a run to its end, whatever end, and leave everything in its journal.

        A run that was interrupted is taken up where its journal stops. When this is
        cancelled, the journal gets no end.

        Raises:
            StoreError: the journal cannot be written any more.
        """
        async with run.steps.recording_usage():
            if run.request.guard:
                end = await guarded(run, self._setup, lambda: self._ending(run))
            else:
                run.passed.set()
                end = await self._ending(run)
        await run.steps.record(end)

    async def _ending(self, run: Run) -> RunEnded:
        seconds = run.request.limits.run_seconds
        held_back = 0 if run.request.kind == "worker" else SYNTHESIS_SHARE * seconds
        deadline = anyio.current_time() + seconds
        until = deadline - held_back
        async with open_delegation(run, self._setup, until=until) as delegation:
            self._hold_back(run, delegation, subtasks=run.request.limits.max_subtasks)
            try:
                accepted = await self._plan(run, delegation, seconds=seconds - held_back)
            except (InvalidPlanError, ModelError) as exc:
                return _end(run, "failed", reasons=[f"No plan could be made. {_told(exc, run)}"])
            if run.request.kind == "plan":
                return _planned(run, accepted)
            if (direct := accepted.plan.direct_answer) is not None:
                return await self._direct_answer(run, direct, deadline=deadline)
            if _waits(run, accepted):
                return _end(run, "needs_approval", reasons=["The plan waits for approval."])
            if accepted.plan.mode == "static":
                self._hold_back(run, delegation, subtasks=len(accepted.plan.subtasks))
            delegated = await delegation.carry_out(accepted.plan)
        end = await self._answer(run, accepted, delegated, deadline=deadline)
        return _retried_in_vain(run, self._with_rest(run, delegated, end))

    def _hold_back(self, run: Run, delegation: Delegation, *, subtasks: int) -> None:
        """Hold back what the synthesis of so many results takes, if there will be one."""
        request, spending = run.request, run.steps.spending
        if request.kind != "orchestration" or (subtasks < 2 and request.output_schema is None):
            spending.hold_back(NOTHING)
            return
        most_reply = request.limits.max_tokens
        least_reply = SHORT_REPLY if request.output_schema is None else LEAST_REPLY

        def held(result_tokens: int, reply: int) -> Amount:
            usage = synthesis_usage(result_tokens, min(reply, most_reply))
            expected = self._setup.llm.expected(self._setup.models.synthesizer, usage)
            return amount_of(expected).at_most(spending.limit.share(MOST_HELD_BACK))

        def least() -> Amount:
            known = delegation.result_bytes
            missing = max(subtasks - len(known), 0)
            return held(most_tokens(sum(known)) + missing * USUAL.reply, least_reply)

        spending.hold_back(held(subtasks * HIGH.reply, most_reply), least=least)

    def _with_rest(self, run: Run, delegated: Delegated, end: RunEnded) -> RunEnded:
        """Return the end with what the rest would take, where the budget did not suffice."""
        if end.status == "succeeded" or not run.steps.spending.fell_short:
            return end
        done = {item.subtask_id for item in delegated.results if item.status == "succeeded"}
        rest = estimate(delegated.plan, run, self._setup, done=done | delegated.unneeded)
        bill = f"The budget did not suffice. To do the rest would take {rest.words}."
        return end.model_copy(update={"reasons": (*end.reasons, bill), "rest": rest})

    async def _plan(self, run: Run, delegation: Delegation, *, seconds: float) -> PlanAccepted:
        if run.steps.recorded.plan is not None:
            return run.steps.recorded.plan
        try:
            with anyio.move_on_after(seconds):
                made = await make_plan(run, self._setup, watch=self._watch(run, delegation))
                return await self._accept(run, delegation, made)
            raise InvalidPlanError([f"Planning took longer than {seconds:.0f} s."])
        except (InvalidPlanError, ModelError) as exc:
            if not delegation.drafted:
                raise
            # What was started of an unfinished plan is worth an answer of its own.
            what = "not finished" if isinstance(exc, ModelError) else "not one that can be run"
            made = RepairedPlan(
                plan=Plan(subtasks=tuple(delegation.drafted.values())),
                left_out=(
                    f"The plan was {what}, so only what had been started of it was done, and there "
                    f"may be more to it. {exc}",
                ),
            )
            return await self._accept(run, delegation, made)

    def _watch(self, run: Run, delegation: Delegation) -> Callable[[str], None] | None:
        """Return what starts subtasks while their plan is being written, where that may be."""
        # After a restart the plan is waited for, since its subtasks may be others than those
        # that were started before. Of one that may have to be approved nothing is done before.
        request = run.request
        if request.kind == "plan" or request.approve != "never" or run.steps.recorded.drafted:
            return None
        return Drafts(run.rules(self._setup.catalog), delegation.draft).read

    async def _accept(self, run: Run, delegation: Delegation, made: RepairedPlan) -> PlanAccepted:
        plan = settle(made.plan, delegation.drafted)
        likely = estimate(plan, run, self._setup) if plan.subtasks else None
        accepted = PlanAccepted(
            name="plan/1",
            at=run.steps.now(),
            plan=plan,
            warnings=(*made.warnings, *self._too_dear(plan, run, likely)),
            left_out=made.left_out,
            estimate=likely,
        )
        await run.steps.record(accepted)
        return accepted

    def _too_dear(self, plan: Plan, run: Run, likely: Estimate | None) -> list[str]:
        """Return a warning if the run's budget is not likely to suffice for a plan."""
        if likely is None:
            return []
        limits = run.request.limits
        tokens, usd = usual_amount(plan, run, self._setup)
        if usd is None:
            enough, budget = tokens <= limits.budget_tokens, f"{limits.budget_tokens} tokens"
        else:
            enough, budget = usd <= limits.budget_usd, f"{limits.budget_usd:g} USD"
        if enough:
            return []
        return [
            f"The budget of {budget} is not likely to suffice: to carry out the plan takes about "
            f"{likely.words}."
        ]

    async def _direct_answer(self, run: Run, direct: str, *, deadline: float) -> RunEnded:
        if run.request.output_schema is None:
            return _end(run, "succeeded", answer=direct)
        work = WorkResult(
            subtask_id="direct",
            worker="planner",
            objective=run.request.task,
            status="succeeded",
            text=direct,
        )
        return await self._synthesis(run, [work], (), deadline=deadline)

    async def _answer(
        self, run: Run, accepted: PlanAccepted, delegated: Delegated, *, deadline: float
    ) -> RunEnded:
        gaps = [*accepted.left_out, *delegated.gaps]
        whole = run.request.output_schema is None or run.request.kind == "worker"
        if whole and len(delegated.results) == 1:
            end = _end_like(run, delegated.results[0], [*gaps, *_gaps(delegated.results)])
            return _with_what_is_left(end, delegated, is_answered=True)
        told: list[str] = []
        is_answered = True
        verify_as = run.request.verify or accepted.plan.verify
        if verify_as != "none":
            # The synthesis keeps half of the time that was held back for it.
            until = deadline - SYNTHESIS_SHARE / 2 * run.request.limits.run_seconds
            verified = await verify(
                run, self._setup, delegated, mend=verify_as == "mend", until=until
            )
            delegated = replace(delegated, results=verified.results)
            told += verified.notes
            gaps += filter(None, [verified.problem])
            is_answered = not verified.problem
        done = [item for item in delegated.results if item.subtask_id not in delegated.unneeded]
        gaps += _gaps(done)
        if not any(result.text for result in delegated.results):
            return _end(run, "failed", reasons=gaps)
        told += _unneeded(delegated)
        work = [
            work_result(subtask, result)
            for subtask, result in zip(delegated.plan.subtasks, delegated.results, strict=True)
        ]
        end = await self._synthesis(run, work, gaps, told, deadline=deadline)
        if done and all(result.status == "failed" for result in done):
            # What the workers could establish makes an answer, but none of the work was done.
            end = end.model_copy(update={"status": "failed"})
        return _with_what_is_left(end, delegated, is_answered=is_answered and end.synthesized)

    async def _synthesis(
        self,
        run: Run,
        work: Sequence[WorkResult],
        gaps: Sequence[str],
        told: Sequence[str] = (),
        *,
        deadline: float,
    ) -> RunEnded:
        """Return the end with the answer made of `work`; `told` tells of more than gaps."""
        seconds = deadline - anyio.current_time()
        verdict = await synthesize(run, self._setup, work, [*gaps, *told], seconds=seconds)
        reasons = [*gaps, *filter(None, [verdict.problem])]
        status = "partial" if reasons else "succeeded"
        end = _end(run, status, answer=verdict.text, value=verdict.value, reasons=reasons)
        return end.model_copy(update={"synthesized": verdict.problem in ("", TOO_DEAR)})


def _with_what_is_left(end: RunEnded, delegated: Delegated, *, is_answered: bool) -> RunEnded:
    """Return the end, which tells whether another attempt could lead to more."""
    is_done = all(
        item.status == "succeeded" or item.subtask_id in delegated.unneeded
        for item in delegated.results
    )
    nothing_left = end.status != "succeeded" and is_answered and is_done
    return end.model_copy(update={"nothing_left": nothing_left and not delegated.undirected})


def _retried_in_vain(run: Run, end: RunEnded) -> RunEnded:
    """Return the end, which says so if the run was resumed and nothing could be tried again."""
    if end.status == "succeeded" or not run.steps.recorded.retries or run.steps.calls_made:
        return end
    return end.model_copy(update={"reasons": (*end.reasons, NOTHING_RETRIED)})


def _planned(run: Run, accepted: PlanAccepted) -> RunEnded:
    """Return the end of a run that was only to make a plan."""
    status = "partial" if accepted.left_out else "succeeded"
    answer = accepted.plan.direct_answer or ""
    return _end(run, status, answer=answer, reasons=accepted.left_out)


def _waits(run: Run, accepted: PlanAccepted) -> bool:
    """Tell whether nothing more of a plan may be done, because nobody has approved it so."""
    approved_usd = run.steps.recorded.approved_usd
    return waits_for_approval(
        run.request, accepted.plan, accepted.estimate, approved_usd=approved_usd
    )


def _told(exc: InvalidPlanError | ModelError, run: Run) -> str:
    """Return why there is no plan; where the budget is too small, what it should at least be."""
    if not isinstance(exc, BudgetError) or not exc.least_usd:
        return str(exc)
    part = 1 - MOST_HELD_BACK if run.request.kind == "orchestration" else 1
    cents = math.ceil(100 * exc.least_usd / part)
    return f"{exc} Allow {cents / 100:.2f} USD at least, and what the work itself costs."


def _gaps(results: Iterable[SubtaskResult]) -> list[str]:
    """Return a sentence for all subtasks that lack something for the same reason."""
    by_reason: dict[str, list[SubtaskResult]] = {}
    for result in results:
        if result.status != "succeeded":
            by_reason.setdefault(" ".join(result.errors), []).append(result)
    return [f"{_fates(group)}: {reason}" for reason, group in by_reason.items()]


def _fates(results: Sequence[SubtaskResult]) -> str:
    """Return what became of subtasks: `Subtask s1 (analyst) failed`."""
    clauses: list[str] = []
    for status, (of_one, of_many) in _OUTCOMES.items():
        names = [f"{item.subtask_id} ({item.worker})" for item in results if item.status == status]
        if names:
            outcome = of_one if len(names) == 1 else of_many
            clauses.append(f"{', '.join(names)} {outcome}")
    return f"Subtask{'s' if len(results) > 1 else ''} {' and '.join(clauses)}"


_OUTCOMES = {
    "partial": ("is incomplete", "are incomplete"),
    "failed": ("failed", "failed"),
    "skipped": ("was skipped", "were skipped"),
}


def _unneeded(delegated: Delegated) -> list[str]:
    """Return a sentence for each subtask that the orchestrator did without."""
    return [
        f"Not done, because there was enough without it: {subtask.objective}"
        for subtask in delegated.plan.subtasks
        if subtask.id in delegated.unneeded
    ]


def _end_like(run: Run, result: SubtaskResult, gaps: Sequence[str]) -> RunEnded:
    """Return the end of a run whose only subtask ended with `result`."""
    if not result.text:
        return _end(run, "failed", reasons=gaps)
    status = "partial" if gaps else "succeeded"
    if result.status == "failed":
        status = "failed"
    return _end(run, status, answer=result.text, value=result.value, reasons=gaps)


def _end(
    run: Run,
    status: EndStatus,
    *,
    answer: str = "",
    value: JsonValue = None,
    reasons: Sequence[str] = (),
) -> RunEnded:
    return RunEnded(
        name="run/end",
        at=run.steps.now(),
        status=status,
        answer=answer,
        value=value,
        reasons=tuple(reasons),
    )
