"""The plan's subtasks on their workers, as many at once as slots and dependencies allow."""

from collections.abc import Iterable

import anyio
from anyio.abc import ObjectSendStream, TaskGroup

from concertmaster.engine.events import SubtaskFinished, SubtaskResult, SubtaskStarted
from concertmaster.engine.plan import Plan, Subtask
from concertmaster.engine.run import Run, Setup, work_result
from concertmaster.engine.scheduler import Decision, Scheduler, Skip
from concertmaster.engine.worker import carry_out
from concertmaster.errors import StoreError
from concertmaster.llm.protocol import WorkResult


async def delegate(run: Run, setup: Setup, plan: Plan, *, until: float) -> list[SubtaskResult]:
    """Return how each subtask ended, in the order of the plan.

    At the time `until` of anyio's clock nothing new starts, and what runs ends with what
    it has.

    Raises:
        StoreError: the journal cannot be written any more.
    """
    delegation = _Delegation(run, setup, plan, until)
    try:
        await delegation.finish()
    except* StoreError as group:
        raise group.exceptions[0] from None
    return delegation.results


class _Delegation:
    def __init__(self, run: Run, setup: Setup, plan: Plan, until: float) -> None:
        self._run = run
        self._setup = setup
        self._plan = plan
        self._until = until
        self._scheduler = Scheduler(plan.subtasks, slots=run.request.limits.slots)
        self._results: dict[str, SubtaskResult] = {}
        self._subtasks = {subtask.id: subtask for subtask in plan.subtasks}

    @property
    def results(self) -> list[SubtaskResult]:
        return [self._results[subtask.id] for subtask in self._plan.subtasks]

    async def finish(self) -> None:
        send, receive = anyio.create_memory_object_stream[SubtaskResult](len(self._plan.subtasks))
        async with send, receive, anyio.create_task_group() as tasks:
            await self._follow(self._scheduler.begin(), tasks, send)
            while not self._scheduler.over:
                result = await receive.receive()
                self._results[result.subtask_id] = result
                decisions = self._scheduler.ended(result.subtask_id, result.status)
                await self._follow(decisions, tasks, send)

    async def _follow(
        self,
        decisions: Iterable[Decision],
        tasks: TaskGroup,
        send: ObjectSendStream[SubtaskResult],
    ) -> None:
        for decision in decisions:
            if isinstance(decision, Skip):
                await self._skip(decision)
            else:
                tasks.start_soon(self._carry_out, decision.subtask, send)

    async def _skip(self, skip: Skip) -> None:
        missing = ", ".join(skip.missing)
        result = _not_done(skip.subtask, f"It needs the result of {missing}, which did not come.")
        self._results[skip.subtask.id] = result
        await self._record(result)

    async def _carry_out(self, subtask: Subtask, send: ObjectSendStream[SubtaskResult]) -> None:
        result = self._run.steps.finished(subtask.id) or await self._result(subtask)
        await send.send(result)

    async def _result(self, subtask: Subtask) -> SubtaskResult:
        seconds = self._seconds(subtask)
        if seconds <= 0:
            result = _not_done(subtask, "The run's time was up before it could start.")
        elif (refusal := self._run.steps.refusal(self._model(subtask))) is not None:
            result = _not_done(subtask, str(refusal))
        else:
            started = SubtaskStarted(
                name=f"subtask/{subtask.id}/start",
                at=self._run.steps.now(),
                subtask_id=subtask.id,
            )
            await self._run.steps.record(started, wait=False)
            result = await carry_out(
                self._run, self._setup, subtask, self._dependencies(subtask), seconds=seconds
            )
        await self._record(result)
        return result

    def _seconds(self, subtask: Subtask) -> float:
        """Return how long a subtask may take: its own limit, or what the run has left."""
        worker = self._setup.catalog.get(subtask.worker)
        default = worker.timeout_seconds or self._run.request.limits.subtask_seconds
        own = subtask.timeout_seconds or default
        return min(own, self._until - anyio.current_time())

    def _model(self, subtask: Subtask) -> str:
        """Return the id of the model that a subtask's worker uses."""
        worker = self._setup.catalog.get(subtask.worker)
        return self._setup.llm.model_name(worker.model or self._setup.models.worker)

    def _dependencies(self, subtask: Subtask) -> list[WorkResult]:
        return [
            work_result(self._subtasks[name], self._results[name]) for name in subtask.depends_on
        ]

    async def _record(self, result: SubtaskResult) -> None:
        await self._run.steps.record(
            SubtaskFinished(
                name=f"subtask/{result.subtask_id}/result",
                at=self._run.steps.now(),
                result=result,
            )
        )


def _not_done(subtask: Subtask, why: str) -> SubtaskResult:
    return SubtaskResult(
        subtask_id=subtask.id, worker=subtask.worker, status="skipped", errors=(why,)
    )
