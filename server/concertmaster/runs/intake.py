"""Orders checked and made into requests, before anything is started or spent."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from concertmaster.catalog.catalog import Catalog
from concertmaster.engine.events import Event, SubtaskResult
from concertmaster.engine.plan.plan import Plan, Subtask
from concertmaster.engine.plan.validation import PlanRules, plan_problems
from concertmaster.engine.replay import NO_EARLIER_RUN, EarlierRun, and_dependants, earlier_results
from concertmaster.engine.request import (
    Approve,
    Decomposition,
    InputRef,
    Limits,
    RunKind,
    RunRequest,
    stricter,
)
from concertmaster.errors import (
    BusyRunError,
    InputError,
    InvalidPlanError,
    RequestError,
    UnknownRunError,
    UnknownSubtaskError,
    UnreadableRunError,
)
from concertmaster.llm.messages import Document, JsonSchema
from concertmaster.llm.structured import schema_problem
from concertmaster.runs.orders import Order, PlanOrder, RunOrder, WorkerOrder
from concertmaster.runs.state import RunState, fold
from concertmaster.store.codec import digest
from concertmaster.store.journal import Journal, RunRow
from concertmaster.tools.inputs import InlineInput, Inputs, InputSpec, read_inputs

TASK_CHARS = 100_000
"""The longest task, context or constraint; longer texts are inputs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPolicy:
    """What the operator allows and prefers."""

    limits: Limits = field(default_factory=Limits)
    """Limits of a run that asks for no others."""
    most_subtasks: int = 50
    """How many subtasks a run may ask for."""
    most_seconds: float = 4 * 3600
    """How much time a run may ask for."""
    most_usd: float = 20.0
    """What a run may ask to spend, unless the usual budget is more."""
    decomposition: Decomposition = "hybrid"
    """Whether planners may write workers of their own, in a run that does not say so."""
    approve: Approve = "never"
    """Whether plans are approved by a person; a run may ask for more, and not for less."""
    roots: tuple[Path, ...] = ()
    """Folders that inputs may come from."""
    runs_here: int | None = None
    """How many runs this process drives at the same time; further ones are queued."""
    runs_in_all: int | None = None
    """How many runs all processes on a store drive at the same time."""
    reuse_hours: float | None = None
    """How old results of other runs may be that one takes over; None for taking over none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedOrder:
    """A request that can be run, and the texts it refers to."""

    request: RunRequest
    documents: Mapping[str, Document]
    """By name."""

    @property
    def texts(self) -> dict[str, str]:
        """Return the inputs' texts by digest."""
        return {digest(document.text): document.text for document in self.documents.values()}


def check_order(order: Order, inputs: Inputs, catalog: Catalog, policy: RunPolicy) -> CheckedOrder:
    """Return the request that `order` stands for.

    Raises:
        RequestError: it cannot be done as asked; the message says what to change.
    """
    refs = tuple(
        InputRef(name=item.name, digest=digest(item.text), chars=len(item.text))
        for item in inputs.documents
    )
    match order:
        case PlanOrder():
            request = _plan_request(order, catalog, policy)
        case RunOrder():
            request = _run_request(order, catalog, policy)
        case _:
            request = _worker_request(order, catalog, policy, inputs.documents)
    request = request.model_copy(update={"inputs": refs, "left_out": inputs.left_out})
    _check_plan(request, catalog)
    return CheckedOrder(
        request=request, documents={document.name: document for document in inputs.documents}
    )


def check_rerun(
    state: RunState,
    documents: Sequence[Document],
    catalog: Catalog,
    policy: RunPolicy,
    *,
    plan: Plan | None,
    redo: Sequence[str],
    budget_usd: float | None,
) -> CheckedOrder:
    """Return the request for a run like the one of `state`, with its plan or another.

    Raises:
        RequestError: it cannot be done as asked; the message says what to change.
    """
    run_id, request = state.run_id, state.request
    if not state.still:
        raise BusyRunError(run_id)
    if request.kind == "worker":
        raise RequestError(
            f"Run {run_id} is of one worker and has no plan to edit. To have that done anew, "
            "order it again."
        )
    if (plan := plan or state.plan) is None:
        raise RequestError(
            f"Run {run_id} has no plan. Give one, or resume it without plan and from_subtask."
        )
    for name in redo:
        if name not in {subtask.id for subtask in plan.subtasks}:
            raise UnknownSubtaskError(run_id, name, [subtask.id for subtask in plan.subtasks])
    check_budget(budget_usd, policy)
    request = request.with_budget(budget_usd)
    request = request.model_copy(
        update={
            "kind": "orchestration",
            "plan": plan,
            "plan_gaps": _gaps(state) if plan == state.plan else (),
            "rerun_of": run_id,
            "approve": stricter(policy.approve, request.approve),
            "redo": tuple(sorted(and_dependants(redo, plan.subtasks))),
            "limits": request.limits.model_copy(update={"max_subtasks": policy.most_subtasks}),
        }
    )
    _check_plan(request, catalog)
    return CheckedOrder(
        request=request, documents={document.name: document for document in documents}
    )


def _gaps(state: RunState) -> tuple[str, ...]:
    """Return what the plan of a run lacks of its task, a sentence each."""
    return state.reasons if state.request.kind == "plan" else state.request.plan_gaps


def _plan_request(order: PlanOrder, catalog: Catalog, policy: RunPolicy) -> RunRequest:
    return RunRequest(
        kind="plan",
        task=_text(order.task, "task"),
        context=_context(order),
        constraints=_constraints(order),
        workers=_workers(order.workers, catalog),
        mode=order.mode,
        decomposition=order.decomposition or policy.decomposition,
        limits=_limits(policy, order, order.max_subtasks),
    )


def _run_request(order: RunOrder, catalog: Catalog, policy: RunPolicy) -> RunRequest:
    most = order.max_subtasks
    if most is None and order.plan is not None:
        most = policy.most_subtasks
    return RunRequest(
        kind="orchestration",
        task=_text(order.task, "task"),
        context=_context(order),
        constraints=_constraints(order),
        workers=_workers(order.workers, catalog),
        plan=order.plan,
        plan_gaps=order.plan_gaps,
        mode=order.mode,
        decomposition=order.decomposition or policy.decomposition,
        guard=catalog.get(order.guard).name if order.guard else "",
        verify=order.verify,
        approve=stricter(policy.approve, order.approve),
        output_schema=_schema(order.output_schema),
        limits=_limits(policy, order, most),
    )


def _worker_request(
    order: WorkerOrder, catalog: Catalog, policy: RunPolicy, documents: Sequence[Document]
) -> RunRequest:
    worker = catalog.get(order.worker)
    task = _text(order.task, "task")
    limits = _limits(policy, order, None)
    seconds = order.deadline_seconds or worker.timeout_seconds or policy.limits.subtask_seconds
    subtask = Subtask(
        id="s1",
        worker=worker.name,
        objective=task,
        inputs=tuple(document.name for document in documents),
        timeout_seconds=seconds,
    )
    return RunRequest(
        kind="worker",
        task=task,
        context=_context(order),
        constraints=_constraints(order),
        model=_text(order.model, "model", empty=True),
        plan=Plan(subtasks=(subtask,)),
        approve=policy.approve,
        output_schema=_schema(order.output_schema),
        limits=limits,
    )


def _context(order: Order) -> str:
    return _text(order.context, "context", empty=True)


def _constraints(order: Order) -> tuple[str, ...]:
    return tuple(_text(item, "constraints") for item in order.constraints)


def _text(text: str, name: str, *, empty: bool = False) -> str:
    text = text.strip()
    if not text and not empty:
        raise RequestError(f"{name} is empty. Say what is to be done, in a sentence or more.")
    if len(text) > TASK_CHARS:
        raise RequestError(
            f"{name} has {len(text):,} characters; at most {TASK_CHARS:,}. Put long material "
            'into inputs, as a file or as {"name": …, "text": …}, and say in the task what '
            "to do with it."
        )
    return text


def _workers(names: tuple[str, ...], catalog: Catalog) -> tuple[str, ...]:
    return tuple(catalog.get(name).name for name in dict.fromkeys(names))


def _limits(policy: RunPolicy, order: Order, max_subtasks: int | None) -> Limits:
    limits = policy.limits
    deadline = order.deadline_seconds
    if max_subtasks is not None and not 1 <= max_subtasks <= policy.most_subtasks:
        raise RequestError(
            f"max_subtasks is {max_subtasks}; it must be from 1 to {policy.most_subtasks}."
        )
    if deadline is not None and not 0 < deadline <= policy.most_seconds:
        raise RequestError(
            f"deadline_seconds is {deadline:g}; it must be over 0 and at most "
            f"{policy.most_seconds:g}."
        )
    check_budget(order.budget_usd, policy)
    return limits.model_copy(
        update={
            "max_subtasks": max_subtasks or limits.max_subtasks,
            "run_seconds": deadline or limits.run_seconds,
            "budget_usd": order.budget_usd or limits.budget_usd,
        }
    )


def check_budget(usd: float | None, policy: RunPolicy) -> None:
    """Check that a run may ask for this budget, if it asks for any.

    Raises:
        RequestError: it may not.
    """
    most_usd = max(policy.most_usd, policy.limits.budget_usd)
    if usd is not None and not 0 < usd <= most_usd:
        raise RequestError(
            f"budget_usd is {usd:g}; it must be over 0 and at most {most_usd:g}. The setting "
            "most_usd allows more."
        )


def _schema(schema: JsonSchema | None) -> JsonSchema | None:
    if schema is None:
        return None
    if problem := schema_problem(schema):
        raise RequestError(f"output_schema {problem.text}.")
    return schema


def _check_plan(request: RunRequest, catalog: Catalog) -> None:
    if request.plan is None:
        return
    # Whoever writes a plan may bring along as many workers as they like, where any are allowed.
    constrained = request.decomposition == "constrained"
    rules = PlanRules(
        workers=request.workers or catalog.names,
        inputs=tuple(item.name for item in request.inputs),
        max_subtasks=request.limits.max_subtasks,
        custom_workers=0 if constrained else len(request.plan.custom_workers),
        taken=catalog.names,
    )
    if problems := plan_problems(request.plan, rules):
        raise InvalidPlanError(problems)


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
