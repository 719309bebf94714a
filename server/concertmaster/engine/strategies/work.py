"""One subtask at work: what it works with, and the slots that the pieces of its work take."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field

import anyio

from concertmaster.catalog.catalog import Catalog
from concertmaster.catalog.definitions import WorkerDefinition
from concertmaster.engine.approvals import Wish
from concertmaster.engine.conversation import Conversation, TimeLimit, Verdict
from concertmaster.engine.events import ToolsMissing
from concertmaster.engine.plan.plan import Subtask
from concertmaster.engine.run import Run, Setup, bullets, fenced_inputs, fenced_results, input_names
from concertmaster.errors import ToolDeniedError
from concertmaster.llm.messages import (
    Document,
    Request,
    ServerTool,
    ToolCall,
    ToolOutcome,
    ToolSpec,
    UserMessage,
    WorkBrief,
    WorkResult,
)
from concertmaster.tools.images import Illustrated
from concertmaster.tools.registry import Toolbox
from concertmaster.tools.scope import ToolScope

TakeSlot = Callable[[str], AbstractAsyncContextManager[None]]
"""Waits for a slot for a piece of the subtask with this id, and has it for a while."""

LeaveSlot = Callable[[str], AbstractAsyncContextManager[None]]
"""Does without the slot of such a piece for a while, and then waits for one again."""


def keep_slot(_: str) -> AbstractAsyncContextManager[None]:
    """Keep the slot of a piece."""
    return nullcontext()


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What one worker does of a subtask, in one conversation."""

    step: str = ""
    """What sets its steps apart from those of other pieces: `answer/2`; nothing for the whole."""
    worker: str = ""
    """The subtask's own where this is empty."""
    model: str = ""
    """The worker's own where this is empty."""
    documents: tuple[Document, ...] | None = None
    """The subtask's inputs where this is None."""
    context: Mapping[str, str] = field(default_factory=dict[str, str])
    """What sets it apart from pieces with the same documents."""


WHOLE = Piece()


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A subtask that is being carried out."""

    run: Run
    setup: Setup
    workers: Catalog
    """The catalog, and the workers that the plan brought along."""
    subtask: Subtask
    dependencies: Sequence[WorkResult] = ()
    until: float
    """When the run's time for work is over, by anyio's clock."""
    take_slot: TakeSlot
    leave_slot: LeaveSlot = keep_slot

    def slot(self) -> AbstractAsyncContextManager[None]:
        """Wait for a slot for one more piece of the work, and have it for a while."""
        return self.take_slot(self.subtask.id)

    def aside(self) -> AbstractAsyncContextManager[None]:
        """Leave the slot of a piece to others for a while, and then wait for one again."""
        return self.leave_slot(self.subtask.id)

    def step(self, name: str) -> str:
        """Return the name of a step of this subtask."""
        return "/".join(filter(None, ["subtask", self.subtask.id, name]))

    @property
    def inputs(self) -> tuple[Document, ...]:
        """Return the inputs that the subtask gets."""
        return self.run.inputs_of(self.subtask)

    def chosen_model(self, piece: Piece = WHOLE) -> str:
        """Return the model that does a piece of the work, as it was named."""
        worker = self.workers.get(piece.worker or self.subtask.worker)
        asked_for = piece.model or self.run.request.model
        return asked_for or worker.model or self.setup.models.worker

    def model(self, piece: Piece = WHOLE) -> str:
        """Return the id of the model that does a piece of the work."""
        return self.setup.llm.model_name(self.chosen_model(piece))

    def max_tokens(self, worker: str = "") -> int:
        """Return the upper bound of a reply in a piece of the work."""
        definition = self.workers.get(worker or self.subtask.worker)
        limits = self.run.request.limits
        return self.subtask.max_tokens or definition.max_tokens or limits.max_tokens

    @property
    def budget_usd(self) -> float | None:
        """Return what all calls for the subtask may cost, if it has a limit of its own."""
        return self.subtask.budget_usd or self.workers.get(self.subtask.worker).budget_usd

    def seconds(self, worker: str = "") -> float:
        """Return how long a piece may take from now: its own limit, or what the run has left."""
        definition = self.workers.get(worker or self.subtask.worker)
        default = definition.timeout_seconds or self.run.request.limits.subtask_seconds
        own = self.subtask.timeout_seconds or default
        return max(0.0, min(own, self.until - anyio.current_time()))


async def do(work: Work, piece: Piece = WHOLE) -> Verdict:
    """Return what a worker's answer to a piece of the work is worth."""
    async with work.slot():
        return await conversation(work, piece).verdict(seconds=work.seconds(piece.worker))


def conversation(work: Work, piece: Piece = WHOLE) -> Conversation:
    """Return the conversation in which a worker does a piece of the work."""
    worker = work.workers.get(piece.worker or work.subtask.worker)
    documents = work.inputs if piece.documents is None else piece.documents
    request = _request(work, piece, worker, documents)
    return Conversation(
        work.run,
        work.setup,
        request,
        step=work.step(piece.step),
        subtask_id=work.subtask.id,
        tools=WorkerTools(
            work,
            worker,
            ToolScope(inputs=documents, roots=work.setup.roots),
            step=work.step(piece.step),
        ),
        max_turns=worker.max_turns,
    )


class WorkerTools:
    """The tools of one worker in one conversation, as its definition names them.

    They are what they are when the conversation begins: nothing that is said in it adds one.
    """

    def __init__(
        self, work: Work, worker: WorkerDefinition, scope: ToolScope, *, step: str
    ) -> None:
        self._work = work
        self._worker = worker
        self._scope = scope
        self._step = step
        self._toolbox = Toolbox()

    async def offer(self) -> Sequence[ToolSpec]:
        """Return the tools that there are now, having noted why others are missing."""
        self._toolbox = await self._work.setup.tools.toolbox(
            self._worker.tools, refused=self._worker.refused_tools
        )
        if self._toolbox.missing:
            await self._note_missing(f"{self._step}/tools", self._toolbox.missing)
        if self._toolbox.served:
            # What the provider is asked to look for, others learn of.
            await self._work.run.may_be_told_of()
        return self._toolbox.specs

    @property
    def served(self) -> Sequence[ServerTool]:
        """Return what the provider may call itself."""
        return self._toolbox.served

    async def give_up_served(self, why: str, /) -> None:
        """Note that the provider calls nothing itself, and why."""
        await self._note_missing(f"{self._step}/tools/served", (why,))

    async def _note_missing(self, name: str, problems: tuple[str, ...]) -> None:
        steps = self._work.run.steps
        await steps.record(
            ToolsMissing(
                name=name,
                at=steps.now(),
                subtask_id=self._work.subtask.id,
                worker=self._worker.name,
                problems=problems,
            )
        )

    async def call(self, step: str, call: ToolCall, time: TimeLimit, /) -> ToolOutcome:
        """Return the outcome of a call, which is not made if it was before."""
        run = self._work.run
        tool = self._toolbox.tools.get(call.name)
        asks = self._toolbox.asks(call.name)
        if tool is not None and (tool.spec.outward or asks):
            await run.may_be_told_of()
        made_before = run.steps.recorded.was_called(step)
        refusal = ""
        if asks and not made_before:
            refusal = await self._refusal(step, call, time)

        async def make() -> str | Illustrated:
            if refusal:
                raise ToolDeniedError(refusal)
            return await self._toolbox.get(call.name).call(call.arguments, self._scope)

        outcome = await run.steps.tool(
            step,
            call,
            make,
            subtask_id=self._work.subtask.id,
            once=self._toolbox.may_change(call.name) and not refusal,
        )
        if made_before:
            self._scope.images.count(outcome.images)
        return outcome

    async def _refusal(self, step: str, call: ToolCall, time: TimeLimit) -> str:
        """Return why a call is not made that somebody has to agree to; nothing if it may be."""
        run, until = self._work.run, self._work.until
        wish = Wish(
            step=step,
            subtask_id=self._work.subtask.id,
            worker=self._worker.name,
            call=call,
            shown=self._toolbox.shown(call.arguments),
        )
        # Half of what the run has left is for making something of the answer.
        most = max(0.0, until - anyio.current_time()) / 2
        return await run.consents.refusal(
            wish,
            run.steps,
            seconds=min(run.request.limits.ask_seconds, most),
            waiting=time.stopped(self._work.aside(), until=until),
        )


def _request(
    work: Work, piece: Piece, worker: WorkerDefinition, documents: tuple[Document, ...]
) -> Request:
    request, subtask = work.run.request, work.subtask
    context = "\n".join(
        filter(None, [request.context, *(f"{key}: {text}" for key, text in piece.context.items())])
    )
    prompt = work.setup.prompts.render(
        "work",
        worker=worker.name,
        instructions=worker.instructions,
        task=request.task,
        objective=subtask.objective,
        expects=subtask.expects or "What the instructions say.",
        context=context or "None.",
        constraints=bullets(request.constraints),
        input_names=input_names(documents),
        dependencies=fenced_results(work.dependencies),
    )
    asked_for = request.output_schema if request.kind == "worker" else None
    return Request(
        caller=f"worker:{worker.name}",
        model=work.chosen_model(piece),
        system=prompt.system,
        shared=fenced_inputs(documents),
        messages=(UserMessage(text=prompt.user),),
        brief=WorkBrief(
            task=request.task,
            worker=worker.card(),
            objective=subtask.objective,
            expects=subtask.expects,
            context=context,
            constraints=request.constraints,
            inputs=documents,
            dependencies=tuple(work.dependencies),
        ),
        max_tokens=work.max_tokens(worker.name),
        output_schema=asked_for or worker.output_schema,
        reports_outcome=True,
    )
