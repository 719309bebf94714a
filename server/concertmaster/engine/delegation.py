"""The plan's subtasks on their workers, as many at once as slots and dependencies allow."""

import math
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from concertmaster.engine.budget import beyond
from concertmaster.engine.concurrency import together
from concertmaster.engine.estimate import CAREFUL, subtask_amounts
from concertmaster.engine.events import (
    PlanRevised,
    SubtaskDrafted,
    SubtaskFinished,
    SubtaskKept,
    SubtaskResult,
    SubtaskStarted,
    SubtaskStatus,
    consumed,
)
from concertmaster.engine.plan.plan import Plan, Subtask
from concertmaster.engine.replanning import Advice, Consultation, Situation
from concertmaster.engine.run import Run, Setup, work_result, workers_of
from concertmaster.engine.scheduler import Decision, Grant, Scheduler, Skip
from concertmaster.engine.strategies.result_cache import fingerprint
from concertmaster.engine.strategies.subtask import do_subtask, not_done, not_finished
from concertmaster.engine.strategies.work import Work
from concertmaster.llm.messages import WorkResult
from concertmaster.llm.token_count import size


@dataclass(frozen=True, slots=True, kw_only=True)
class Delegated:
    """What became of a plan."""

    plan: Plan
    """As it was in the end."""
    results: tuple[SubtaskResult, ...]
    """One for each subtask, in the order of the plan."""
    gaps: tuple[str, ...] = ()
    """What is missing besides, a sentence each."""
    undirected: bool = False
    """Whether the orchestrator could not be asked what to do next."""
    unneeded: frozenset[str] = frozenset()
    """Subtasks that were not done, or not to the end, because the orchestrator had enough."""


@asynccontextmanager
async def open_delegation(run: Run, setup: Setup, *, until: float) -> AsyncGenerator["Delegation"]:
    """Open a delegation; a plan that is not carried out by then is given up.

    At the time `until` of anyio's clock nothing new starts, and what runs ends with what
    it has.

    Raises:
        StoreError: the journal cannot be written any more.
    """
    send, receive = anyio.create_memory_object_stream[_Message](math.inf)
    with send, receive:
        async with together() as tasks:
            delegation = Delegation(run, setup, tasks, send, until=until)
            tasks.start_soon(delegation.attend, receive)
            yield delegation
            # Once it is over, there may still be something to write down.
            if not delegation.over:
                tasks.cancel_scope.cancel()


@dataclass(frozen=True, slots=True)
class _Whole:
    """The plan is finished."""


_Message = SubtaskResult | Advice | _Whole


class Delegation:
    """Carries out a plan: the part of it that is there so far, then the whole."""

    def __init__(
        self,
        run: Run,
        setup: Setup,
        tasks: TaskGroup,
        messages: MemoryObjectSendStream["_Message"],
        *,
        until: float,
    ) -> None:
        self._run = run
        self._setup = setup
        self._start_soon = tasks.start_soon
        self._until = until
        self._plan = Plan()
        self._workers = setup.catalog
        # Until the plan is whole, it may still turn out to be an adaptive one.
        self._scheduler = Scheduler(
            slots=run.request.limits.slots, holds_for_decisions=run.request.mode != "static"
        )
        self._results: dict[str, SubtaskResult] = {}
        self._running: dict[str, anyio.CancelScope] = {}
        self._drafted: dict[str, Subtask] = {}
        """Subtasks that came before the plan was finished."""
        self._unneeded: set[str] = set()
        self._consultation = Consultation(run, setup)
        self._messages = messages
        self._whole = False
        """Whether the plan is finished."""
        self._over = anyio.Event()

    @property
    def over(self) -> bool:
        """Tell whether the plan has been carried out."""
        return self._over.is_set()

    @property
    def result_bytes(self) -> Sequence[int]:
        """Return the lengths of the results that there are so far."""
        return [size(result.text) for result in self._results.values()]

    @property
    def drafted(self) -> Mapping[str, Subtask]:
        """Return the subtasks that were started, or will be, before the plan was finished."""
        return self._run.steps.recorded.drafted | self._drafted

    def draft(self, plan: Plan) -> None:
        """Start what can be of a plan that is still being written, and goes on from there."""
        new = [subtask for subtask in plan.subtasks if subtask.id not in self._drafted]
        self._drafted |= {subtask.id: subtask for subtask in new}
        self._plan = plan
        # What is written first need not be what matters most. Where slots are scarce, one is
        # kept for that until all is known.
        limits = self._run.request.limits
        self._scheduler.reserved = 1 if limits.slots < limits.max_subtasks else 0
        self._follow(self._scheduler.revise(plan.subtasks))

    async def carry_out(self, plan: Plan) -> Delegated:
        """Return what becomes of a plan; after a restart, of what it had become by then."""
        self._plan = plan
        self._consultation.begin(adaptive=plan.mode == "adaptive")
        for revision in self._run.steps.recorded.revisions:
            self._take_in(revision)
        self._workers = workers_of(self._plan, self._setup)
        self._whole = True
        self._recall()
        self._begin()
        self._messages.send_nowait(_Whole())
        await self._over.wait()
        return Delegated(
            plan=self._plan,
            results=tuple(self._results[subtask.id] for subtask in self._plan.subtasks),
            gaps=tuple(self._consultation.gaps),
            undirected=self._consultation.failed,
            # What ended by itself while it was being stopped is there after all.
            unneeded=frozenset(
                name
                for name in self._unneeded
                if self._results[name].status in ("skipped", "cancelled")
            ),
        )

    def _begin(self) -> None:
        """Start what can be of the whole plan, and stop what was drafted and is not in it."""
        leftovers = self._leftovers()
        for subtask in leftovers:
            if subtask.id in self._running:
                self._running[subtask.id].cancel()
        subtasks = (*self._plan.subtasks, *leftovers)
        ended: dict[str, SubtaskStatus] = {
            name: result.status for name, result in self._results.items()
        }
        self._economize()
        self._scheduler.reserved = 0
        if not self._consultation.open:
            self._follow(self._scheduler.stop_holding())
        known = self._run.steps.recorded.told
        undecided = [
            item.id for item in subtasks if item.decisive and item.id in ended.keys() - known
        ]
        self._follow(self._scheduler.revise(subtasks, ended=ended, undecided=undecided))

    def _economize(self) -> None:
        """Where the budget is short, ask for short replies, and defer the least important work."""
        started = self._results.keys() | self._running.keys()
        todo = [item for item in self._plan.subtasks if item.id not in started]
        amounts = subtask_amounts(todo, self._plan, self._run, self._setup, CAREFUL)
        spending = self._run.steps.spending
        deferred = beyond(todo, amounts, spending.available)
        if deferred:
            spending.economize()
        self._follow(self._scheduler.defer(deferred))

    def _leftovers(self) -> list[Subtask]:
        """Return the drafted subtasks that have been started and are not in the plan."""
        planned = {subtask.id for subtask in self._plan.subtasks}
        started = self._running.keys() | self._results.keys()
        return [item for name, item in self._drafted.items() if name in started - planned]

    async def attend(self, messages: MemoryObjectReceiveStream["_Message"]) -> None:
        """Go on from each thing that happens, until the whole plan is done."""
        async for message in messages:
            match message:
                case SubtaskResult() as result:
                    del self._running[result.subtask_id]
                    self._results[result.subtask_id] = result
                    self._follow(self._scheduler.ended(result.subtask_id, result.status))
                    if self._consultation.knows(result.subtask_id):
                        # It was kept as it was, and has been decided on already.
                        self._follow(self._scheduler.decided([result.subtask_id]))
                    if self._scheduler.stalled:
                        # What was deferred may have what the others have left.
                        self._economize()
                case Advice() as advice:
                    await self._heed(advice)
                case _:
                    pass
            if self._whole:
                self._consult()
                self._release_held()
                if self._scheduler.over and not self._consultation.asking:
                    self._over.set()
                    return

    def _release_held(self) -> None:
        """Start what is held for a decision, where none will come."""
        is_idle = not (self._running or self._consultation.asking or self._scheduler.over)
        if is_idle or not self._consultation.open:
            self._follow(self._scheduler.stop_holding())

    def _recall(self) -> None:
        """Take in how subtasks had ended before the run was resumed, if that is to stand."""
        recorded = self._run.steps.recorded
        settled = recorded.settled(self._plan)
        for subtask in self._plan.subtasks:
            if (result := settled.get(subtask.id)) is not None:
                self._results[subtask.id] = result
                if result.status != "succeeded":
                    self._unneeded.add(subtask.id)
            elif recorded.enough and subtask.id not in recorded.results:
                self._unneeded.add(subtask.id)
                self._leave_out(subtask, _enough(recorded.revisions[-1].reason))

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
                    self._start_soon(self._see_through, decision.subtask, scope)

    def _leave_out(self, subtask: Subtask, why: str) -> None:
        result = self._run.steps.recorded.reconcile(not_done(subtask, why))
        self._results[subtask.id] = result
        self._start_soon(self._record_skip, subtask, result)

    async def _record_skip(self, subtask: Subtask, result: SubtaskResult) -> None:
        await self._introduce(subtask)
        await self._record(result)

    async def _introduce(self, subtask: Subtask) -> None:
        """Tell the journal of a subtask that is in no plan yet."""
        if not self._whole:
            steps = self._run.steps
            name = f"subtask/{subtask.id}/draft"
            event = SubtaskDrafted(name=name, at=steps.now(), subtask=subtask)
            await steps.record(event, wait=False)

    async def _see_through(self, subtask: Subtask, scope: anyio.CancelScope) -> None:
        if (kept := self._run.steps.recorded.unchanged(subtask, self._results)) is not None:
            await self._keep(kept)
            return
        result: SubtaskResult | None = None
        with scope:
            result = await self._result(subtask)
        if result is None:
            usage = self._run.steps.usage(subtask.id)
            result = not_finished(subtask, usage, unneeded=subtask.id in self._unneeded)
        result = self._run.steps.recorded.reconcile(result)
        await self._record(result)
        self._messages.send_nowait(result)

    async def _keep(self, result: SubtaskResult) -> None:
        """End a subtask with the result that it had, now that its dependencies are the same."""
        steps, name = self._run.steps, f"subtask/{result.subtask_id}/kept"
        event = SubtaskKept(name=name, at=steps.now(), subtask_id=result.subtask_id)
        await steps.record(event, wait=False)
        self._messages.send_nowait(result)

    async def _result(self, subtask: Subtask) -> SubtaskResult:
        # It may have been stopped between its slot and here.
        await anyio.lowlevel.checkpoint_if_cancelled()
        if anyio.current_time() >= self._until:
            return not_done(subtask, "The run's time was up before it could start.")
        steps = self._run.steps
        await self._introduce(subtask)
        work = Work(
            run=self._run,
            setup=self._setup,
            workers=self._workers,
            subtask=subtask,
            dependencies=self._dependencies(subtask),
            until=self._until,
            take_slot=self._slot,
            leave_slot=self._aside,
        )
        built_on = {name: consumed(self._results[name]) for name in subtask.depends_on}
        steps.recorded.begin(subtask.id, built_on)
        self._consultation.begun(subtask.id)
        started = SubtaskStarted(
            name=f"subtask/{subtask.id}/start",
            at=steps.now(),
            subtask_id=subtask.id,
            fingerprint=fingerprint(work),
            built_on=built_on,
        )
        await steps.record(started, wait=False)
        result = self._run.earlier.result_of(subtask, started.fingerprint)
        if result is None:
            result = await do_subtask(work, started.fingerprint)
        return result.model_copy(update={"built_on": built_on})

    @asynccontextmanager
    async def _slot(self, subtask_id: str) -> AsyncGenerator[None]:
        await self._take_slot(subtask_id)
        try:
            yield
        finally:
            self._follow(self._scheduler.give_back(subtask_id))

    @asynccontextmanager
    async def _aside(self, subtask_id: str) -> AsyncGenerator[None]:
        self._follow(self._scheduler.step_aside(subtask_id))
        try:
            yield
            await self._take_slot(subtask_id)
        except BaseException:
            self._scheduler.return_to(subtask_id)
            raise

    async def _take_slot(self, subtask_id: str) -> None:
        """Return once the subtask has one more slot; if this is cancelled, it has none more."""
        piece = anyio.Event()
        self._follow(self._scheduler.ask(subtask_id, piece))
        try:
            with self._run.steps.noticing_the_end():
                await piece.wait()
        except anyio.get_cancelled_exc_class():
            self._follow(self._scheduler.withdraw(subtask_id, piece))
            raise

    def _dependencies(self, subtask: Subtask) -> list[WorkResult]:
        needed = {item.id: item for item in self._plan.subtasks if item.id in subtask.depends_on}
        return [work_result(needed[name], self._results[name]) for name in subtask.depends_on]

    async def _record(self, result: SubtaskResult) -> None:
        # Not waited for: it follows from calls that are committed, and the journal has it before
        # whatever comes of it.
        steps, name = self._run.steps, f"subtask/{result.subtask_id}/result"
        event = SubtaskFinished(name=name, at=steps.now(), result=result)
        await steps.record(event, wait=False)

    def _consult(self) -> None:
        """Ask the orchestrator what to do next, if what is known has changed enough."""
        situation = self._consultation.due(
            self._plan,
            self._results,
            self._scheduler,
            running=self._running,
            seconds=max(0.0, self._until - anyio.current_time()),
        )
        if situation is not None:
            self._start_soon(self._ask, situation)

    async def _ask(self, situation: Situation) -> None:
        self._messages.send_nowait(await self._consultation.ask(situation))

    async def _heed(self, advice: Advice) -> None:
        known = self._running.keys() | self._results.keys()
        revision = self._consultation.heed(advice, self._plan, known)
        if revision is None:
            return
        if not revision.done:
            # A slot that comes free meanwhile is not to start what the decision drops.
            started = [subtask for subtask in self._plan.subtasks if subtask.id in known]
            self._follow(self._scheduler.revise(started))
        await self._run.steps.record(revision)
        self._take_in(revision)
        if revision.done:
            self._stop(revision.reason)
        else:
            self._workers = workers_of(revision.plan, self._setup)
            self._economize()
            self._follow(self._scheduler.revise(revision.plan.subtasks))
            self._follow(self._scheduler.decided(advice.shown))

    def _take_in(self, revision: PlanRevised) -> None:
        self._consultation.take_in(revision, self._plan)
        self._plan = revision.plan

    def _stop(self, reason: str) -> None:
        """Start nothing more, and end what runs."""
        for subtask in self._scheduler.stop():
            self._unneeded.add(subtask.id)
            self._leave_out(subtask, _enough(reason))
        for name, scope in self._running.items():
            self._unneeded.add(name)
            scope.cancel()


def _enough(reason: str) -> str:
    return f"The orchestrator had enough without it: {reason}"
