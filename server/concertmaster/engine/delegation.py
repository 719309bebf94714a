"""The plan's subtasks on their workers, as many at once as slots and dependencies allow."""

import math
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast

import anyio

from concertmaster.engine.concurrency import together
from concertmaster.engine.events import PlanRevised, SubtaskFinished, SubtaskResult, SubtaskStarted
from concertmaster.engine.judgement import NoJudgementError
from concertmaster.engine.next_step import (
    NextStep,
    Occasions,
    Situation,
    ask_what_next,
    revise_plan,
)
from concertmaster.engine.plan import Plan, Subtask
from concertmaster.engine.recorded import Recorded
from concertmaster.engine.run import Run, Setup, work_result, workers_of
from concertmaster.engine.scheduler import Decision, Grant, Scheduler, Skip
from concertmaster.engine.subtask import carry_out
from concertmaster.engine.work import Work
from concertmaster.llm.protocol import WorkResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Delegated:
    """What became of a plan."""

    plan: Plan
    """As it was in the end."""
    results: tuple[SubtaskResult, ...]
    """One for each subtask, in the order of the plan."""
    gaps: tuple[str, ...] = ()
    """What is missing besides, a sentence each."""
    unneeded: frozenset[str] = frozenset()
    """Subtasks that were not done, or not to the end, because the orchestrator had enough."""


async def delegate(run: Run, setup: Setup, plan: Plan, *, until: float) -> Delegated:
    """Return how each subtask ended.

    At the time `until` of anyio's clock nothing new starts, and what runs ends with what
    it has.

    Raises:
        StoreError: the journal cannot be written any more.
    """
    if run.steps.recorded.revision is not None:
        plan = run.steps.recorded.revision.plan
    delegation = _Delegation(run, setup, plan, until)
    await delegation.finish()
    return delegation.outcome


@dataclass(frozen=True, slots=True)
class _Advice:
    """What the orchestrator wants done next, or why it could not be asked."""

    step: NextStep | None
    problem: str = ""
    at_end: bool = False
    """Whether all subtasks had ended when it was asked."""


class _Delegation:
    def __init__(self, run: Run, setup: Setup, plan: Plan, until: float) -> None:
        self._run = run
        self._setup = setup
        self._plan = plan
        self._until = until
        self._workers = workers_of(plan, setup.catalog)
        self._running: dict[str, anyio.CancelScope] = {}
        recorded = run.steps.recorded
        self._gaps = list(recorded.left_out)
        self._left = _left_out_already(plan, recorded)
        """What was decided not to do right before the run was cut off."""
        self._results = self._left | {
            subtask.id: result
            for subtask in plan.subtasks
            if (result := recorded.standing(subtask.id)) is not None
        }
        self._unneeded = {
            name for name, result in self._results.items() if result.status != "succeeded"
        }
        self._scheduler = Scheduler(
            plan.subtasks,
            slots=run.request.limits.slots,
            before={name: result.status for name, result in self._results.items()},
        )
        self._rounds = recorded.revisions
        self._occasions = Occasions(recorded.told & self._results.keys())
        self._asking = False
        self._decided = recorded.enough or plan.mode != "adaptive"
        """Whether there is nothing more to ask the orchestrator."""
        self._send, self._receive = anyio.create_memory_object_stream[SubtaskResult | _Advice](
            math.inf
        )

    @property
    def outcome(self) -> Delegated:
        return Delegated(
            plan=self._plan,
            results=tuple(self._results[subtask.id] for subtask in self._plan.subtasks),
            gaps=tuple(self._gaps),
            unneeded=frozenset(self._unneeded),
        )

    async def finish(self) -> None:
        async with self._send, self._receive, together() as tasks:
            self._start_soon = tasks.start_soon
            for result in self._left.values():
                tasks.start_soon(self._record, result)
            self._follow(self._scheduler.begin())
            if self._results:
                self._consult()
            while not self._scheduler.over or self._asking:
                match await self._receive.receive():
                    case SubtaskResult() as result:
                        del self._running[result.subtask_id]
                        self._results[result.subtask_id] = result
                        self._follow(self._scheduler.ended(result.subtask_id, result.status))
                    case _Advice() as advice:
                        await self._heed(advice)
                self._consult()

    def _follow(self, decisions: Iterable[Decision]) -> None:
        for decision in decisions:
            match decision:
                case Grant(piece):
                    cast("anyio.Event", piece).set()
                case Skip(subtask, missing):
                    needs = f"It needs the result of {', '.join(missing)}, which did not come."
                    self._leave_out(subtask, needs)
                case _:
                    scope = self._running[decision.subtask.id] = anyio.CancelScope()
                    self._start_soon(self._carry_out, decision.subtask, scope)

    def _leave_out(self, subtask: Subtask, why: str) -> None:
        result = self._run.steps.recorded.no_worse(_not_done(subtask, why))
        self._results[subtask.id] = result
        self._start_soon(self._record, result)

    async def _carry_out(self, subtask: Subtask, scope: anyio.CancelScope) -> None:
        result: SubtaskResult | None = None
        with scope:
            result = await self._result(subtask)
        if result is None:
            result = SubtaskResult(
                subtask_id=subtask.id,
                worker=subtask.worker,
                status="cancelled",
                errors=("The orchestrator stopped it, having enough without it.",),
                usage=self._run.steps.usage(subtask.id),
            )
        result = self._run.steps.recorded.no_worse(result)
        await self._record(result)
        self._send.send_nowait(result)

    async def _result(self, subtask: Subtask) -> SubtaskResult:
        if anyio.current_time() >= self._until:
            return _not_done(subtask, "The run's time was up before it could start.")
        if (refusal := self._run.steps.refusal(self._model(subtask))) is not None:
            return _not_done(subtask, str(refusal))
        started = SubtaskStarted(
            name=f"subtask/{subtask.id}/start", at=self._run.steps.now(), subtask_id=subtask.id
        )
        await self._run.steps.record(started, wait=False)
        return await carry_out(
            Work(
                run=self._run,
                setup=self._setup,
                workers=self._workers,
                subtask=subtask,
                dependencies=self._dependencies(subtask),
                until=self._until,
                take_slot=self._slot,
            )
        )

    @asynccontextmanager
    async def _slot(self, subtask_id: str) -> AsyncGenerator[None]:
        piece = anyio.Event()
        self._follow(self._scheduler.ask(subtask_id, piece))
        try:
            await piece.wait()
            yield
        finally:
            if piece.is_set():
                self._follow(self._scheduler.give_back(subtask_id))
            else:
                self._scheduler.withdraw(subtask_id, piece)

    def _model(self, subtask: Subtask) -> str:
        """Return the id of the model that a subtask's worker uses."""
        worker = self._workers.get(subtask.worker)
        return self._setup.llm.model_name(worker.model or self._setup.models.worker)

    def _dependencies(self, subtask: Subtask) -> list[WorkResult]:
        subtasks = {item.id: item for item in self._plan.subtasks}
        return [work_result(subtasks[name], self._results[name]) for name in subtask.depends_on]

    async def _record(self, result: SubtaskResult) -> None:
        await self._run.steps.record(
            SubtaskFinished(
                name=f"subtask/{result.subtask_id}/result",
                at=self._run.steps.now(),
                result=result,
            )
        )

    def _consult(self) -> None:
        """Ask the orchestrator what to do next, if what is known has changed enough."""
        if self._decided or self._asking:
            return
        occasion = self._occasions.of(self._plan, self._results, self._scheduler)
        if not occasion:
            return
        if self._rounds >= self._run.request.limits.rounds:
            self._decided = True
            self._gaps.append(
                f"The orchestrator was asked {self._rounds} times what to do next, which is the "
                "most that a run may, and had not finished."
            )
            return
        self._rounds += 1
        self._asking = True
        self._start_soon(self._ask, occasion, self._rounds)

    async def _ask(self, occasion: str, number: int) -> None:
        situation = Situation(
            plan=self._plan,
            results=dict(self._results),
            running=frozenset(self._running),
            occasion=occasion,
            number=number,
            seconds=max(0.0, self._until - anyio.current_time()),
        )
        try:
            step = await ask_what_next(self._run, self._setup, situation)
            advice = _Advice(step, at_end=situation.at_end)
        except NoJudgementError as exc:
            advice = _Advice(None, f"The orchestrator could not be asked what to do next: {exc}")
        self._send.send_nowait(advice)

    async def _heed(self, advice: _Advice) -> None:
        self._asking = False
        if advice.step is None:
            self._decided = True
            self._gaps.append(advice.problem)
            return
        started = self._running.keys() | self._results.keys()
        change = revise_plan(self._plan, advice.step, started, self._run, self._setup)
        await self._run.steps.record(
            PlanRevised(
                name=f"plan/{self._rounds + 1}",
                at=self._run.steps.now(),
                plan=change.plan,
                done=advice.step.done,
                reason=advice.step.reason,
                warnings=change.warnings,
                left_out=change.left_out,
            )
        )
        self._gaps += change.left_out
        if advice.step.done:
            await self._stop(advice.step.reason)
            return
        if advice.at_end and change.plan.subtasks == self._plan.subtasks:
            self._decided = True
            self._gaps.append(
                f"The orchestrator wanted more, but planned nothing: {advice.step.reason}"
            )
        self._plan = change.plan
        self._workers = workers_of(change.plan, self._setup.catalog)
        self._follow(self._scheduler.revise(change.plan.subtasks))

    async def _stop(self, reason: str) -> None:
        """Start nothing more, and end what runs."""
        self._decided = True
        for subtask in self._scheduler.stop():
            self._unneeded.add(subtask.id)
            self._leave_out(subtask, _ENOUGH.format(reason=reason))
        for name, scope in self._running.items():
            self._unneeded.add(name)
            scope.cancel()


_ENOUGH = "The orchestrator had enough without it: {reason}"


def _left_out_already(plan: Plan, recorded: Recorded) -> dict[str, SubtaskResult]:
    """Return what becomes of subtasks that the last decision on the plan did without."""
    if recorded.revision is None or not recorded.revision.done:
        return {}
    why = _ENOUGH.format(reason=recorded.revision.reason)
    return {
        subtask.id: _not_done(subtask, why)
        for subtask in plan.subtasks
        if subtask.id not in recorded.results
    }


def _not_done(subtask: Subtask, why: str) -> SubtaskResult:
    return SubtaskResult(
        subtask_id=subtask.id, worker=subtask.worker, status="skipped", errors=(why,)
    )
