"""What orders refer to: files, results of earlier runs, and plans made before."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from concertmaster.catalog.catalog import Catalog
from concertmaster.engine.plans.plan import Plan, Subtask
from concertmaster.engine.record.earlier import NO_EARLIER_RUN, EarlierRun, earlier_results
from concertmaster.engine.record.events import Event, SubtaskResult
from concertmaster.engine.record.request import RunKind, RunRequest, stricter
from concertmaster.errors import (
    InputError,
    RequestError,
    UnknownRunError,
    UnknownSubtaskError,
    UnreadableRunError,
)
from concertmaster.llm.protocol import Document
from concertmaster.runs.intake import CheckedOrder, RunPolicy, check_order, check_rerun
from concertmaster.runs.orders import Order, PlanOrder, RunOrder, WorkerOrder
from concertmaster.runs.state import RunState, fold
from concertmaster.store.journal import Journal, RunRow
from concertmaster.tools.inputs import InlineInput, Inputs, InputSpec, read_inputs

RUNS = "runs://"
"""How the address of something in a run begins."""


def check_same(state: RunState, order: Order) -> None:
    """Check that a run is what `order` asks for, as far as that is told by its words.

    Raises:
        RequestError: it is another task or worker, or another kind of run.
    """
    request = state.request
    task = "" if isinstance(order, RunOrder) and order.plan_id else order.task.strip()
    worker = order.worker if isinstance(order, WorkerOrder) else ""
    differing = {
        "task": task not in ("", request.task),
        "worker": worker not in ("", *(item.worker for item in _given(request))),
        "tool": _KINDS[type(order)] != request.kind,
    }
    for what, differs in differing.items():
        if differs:
            raise RequestError(
                f"The idempotency key {order.idempotency_key!r} belongs to run {state.run_id}, "
                f"which is for another {what}. Use a key of its own for each order."
            )


def _given(request: RunRequest) -> Sequence[Subtask]:
    return request.plan.subtasks if request.plan is not None else ()


_KINDS: Mapping[type[Order], RunKind] = {
    PlanOrder: "plan",
    RunOrder: "orchestration",
    WorkerOrder: "worker",
}


def folded(row: RunRow, events: Sequence[Event]) -> RunState:
    """Return where a run stands that this process does not drive."""
    alive = row.alive and not row.mine
    attended = row.attended and not row.alive
    return fold(row.run_id, events, alive=alive, handed_over=row.queued, attended=attended)


def subtask_result(state: RunState, subtask_id: str) -> SubtaskResult:
    """Return how a subtask ended, or where it stands if it has not.

    Raises:
        UnknownSubtaskError: the run has no such subtask.
    """
    if (subtask := state.subtasks.get(subtask_id)) is None:
        raise UnknownSubtaskError(state.run_id, subtask_id, tuple(state.subtasks))
    return subtask.result or SubtaskResult(
        subtask_id=subtask_id,
        worker=subtask.subtask.worker,
        status=subtask.status,
        usage=subtask.usage,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderReader:
    """Reads what an order refers to, and checks it."""

    journal: Journal
    policy: RunPolicy
    catalog: Catalog
    find: Callable[[str], Awaitable[RunState]]
    """Returns where a run stands."""

    async def checked(self, order: Order) -> CheckedOrder:
        """Return the request that `order` stands for, and its texts.

        Raises:
            RequestError: it cannot be done as asked.
            InputError: an input cannot be read.
        """
        if isinstance(order, RunOrder) and order.plan_id is not None:
            order, inputs = await self._planned(order, order.plan_id)
        else:
            inputs = await self.inputs(order.inputs)
        return check_order(order, inputs, self.catalog, self.policy)

    async def again(
        self,
        state: RunState,
        *,
        plan: Plan | None,
        redo: Sequence[str],
        budget_usd: float | None,
    ) -> CheckedOrder:
        """Return the request for a run like the one of `state`, with its plan or another.

        Raises:
            RequestError: it cannot be done as asked.
        """
        documents = await self.documents_of(state.request)
        return check_rerun(
            state,
            documents,
            self.catalog,
            self.policy,
            plan=plan,
            redo=redo,
            budget_usd=budget_usd,
        )

    async def earlier(self, request: RunRequest) -> EarlierRun:
        """Return what the run that `request` is to repeat has for it, if that is still there."""
        if not request.rerun_of:
            return NO_EARLIER_RUN
        try:
            events = await self.journal.events(request.rerun_of)
        except (UnknownRunError, UnreadableRunError):
            return NO_EARLIER_RUN
        return EarlierRun(
            run_id=request.rerun_of,
            results=earlier_results(events),
            redo=frozenset(request.redo),
        )

    async def inputs(self, specs: Sequence[InputSpec]) -> Inputs:
        """Return what inputs stand for.

        Raises:
            InputError: an input cannot be read.
        """
        resolved = [await self._resolved(spec) for spec in specs]
        return await read_inputs(resolved, roots=self.policy.roots)

    async def _resolved(self, spec: InputSpec) -> InputSpec:
        """Return an input with the text of an earlier run in place of its URI."""
        if not isinstance(spec, str) or not spec.startswith(RUNS):
            return spec
        match spec.removeprefix(RUNS).split("/"):
            case [run_id, "answer"]:
                text = (await self.find(run_id)).answer
            case [run_id, "subtasks", subtask_id]:
                text = subtask_result(await self.find(run_id), subtask_id).text
            case _:
                raise InputError(
                    spec,
                    "of a run, runs://RUN/answer and runs://RUN/subtasks/ID can be inputs.",
                )
        if not text:
            raise InputError(spec, "there is no text yet. Wait for it with get_run.")
        return InlineInput(name=spec.removeprefix(RUNS), text=text)

    async def _planned(self, order: RunOrder, plan_id: str) -> tuple[RunOrder, Inputs]:
        """Return the order with what was planned filled in, and the inputs it was planned for."""
        if order.task or order.plan or order.inputs:
            raise RequestError(
                "plan_id stands for a task, its inputs and its plan: leave out task, plan and "
                "inputs, or leave out plan_id."
            )
        planned = await self.find(plan_id)
        if planned.plan is None:
            raise RequestError(
                f"{plan_id} has no plan ({planned.status}). Call plan_task again, or call "
                "run_orchestration with the task."
            )
        filled = replace(
            order,
            task=planned.request.task,
            context="\n\n".join(filter(None, [planned.request.context, order.context])),
            constraints=tuple(dict.fromkeys([*planned.request.constraints, *order.constraints])),
            plan=planned.plan,
            plan_gaps=() if planned.status == "needs_approval" else planned.reasons,
            plan_id=None,
            approve=stricter(planned.request.approve, order.approve),
            budget_usd=order.budget_usd or planned.request.limits.budget_usd,
        )
        documents = await self.documents_of(planned.request)
        return filled, Inputs(documents=documents, left_out=planned.request.left_out)

    async def documents_of(self, request: RunRequest) -> tuple[Document, ...]:
        """Return the inputs of a run that has begun."""
        documents = [
            Document(name=item.name, text=await self.journal.text(item.digest))
            for item in request.inputs
        ]
        return tuple(documents)
