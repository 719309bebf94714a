"""One subtask at work: what it works with, and the slots that the pieces of its work take."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field

import anyio

from concertmaster.catalog.catalog import Catalog
from concertmaster.engine.plans.plan import Subtask
from concertmaster.engine.run import Run, Setup
from concertmaster.llm.protocol import Document, WorkResult

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
