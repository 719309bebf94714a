"""Builders of what engine and run tests work with: real definitions, a fake model."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

from concertmaster.catalog.catalog import Catalog
from concertmaster.catalog.definitions import WorkerDefinition
from concertmaster.catalog.prompts import load_prompts
from concertmaster.engine.events import (
    CallFinished,
    Event,
    RunEnded,
    SubtaskFinished,
    SubtaskResult,
)
from concertmaster.engine.orchestrator import Orchestrator
from concertmaster.engine.replay import NO_EARLIER_RUN, EarlierRun, FindOffers, no_offers
from concertmaster.engine.request import InputRef, RunRequest
from concertmaster.engine.run import Run, Setup
from concertmaster.engine.steps import Steps
from concertmaster.llm.messages import LLM, Document, Models
from concertmaster.llm.wrapper import Brake
from concertmaster.tools.redaction import NO_MASKING, Masking
from concertmaster.tools.registry import (
    NOTHING_SERVED,
    Decision,
    ServedTools,
    ToolPolicy,
    ToolRegistry,
    ToolSource,
    WorkerTool,
)
from fakes import FakeLLM, Script

EventT = TypeVar("EventT")

ROOT = Path(__file__).resolve().parents[2]


def worker(name: str, **fields: object) -> WorkerDefinition:
    """Return a worker definition."""
    values = {
        "name": name,
        "description": f"does what an {name} does",
        "instructions": f"You are the {name}.",
        "file": Path(f"{name}.md"),
    }
    return WorkerDefinition(**(values | fields))  # pyright: ignore[reportArgumentType]


def setup(
    llm: LLM,
    *,
    workers: Iterable[WorkerDefinition] = (),
    tools: Iterable[WorkerTool] = (),
    sources: Mapping[str, ToolSource] | None = None,
    policy: Mapping[str, Decision] | None = None,
    masking: Masking = NO_MASKING,
    served: ServedTools = NOTHING_SERVED,
) -> Setup:
    """Return what runs work with: the workers analyst, critic and writer, and real prompts."""
    given = list(workers)
    names = {item.name for item in given}
    usual = [worker(name) for name in ("analyst", "critic", "writer") if name not in names]
    return Setup(
        llm=llm,
        models=Models(planner="big", worker="small", synthesizer="big"),
        catalog=Catalog([*given, *usual]),
        prompts=load_prompts(ROOT / "prompts"),
        tools=ToolRegistry(
            tools, sources=sources, policy=ToolPolicy(policy), masking=masking, served=served
        ),
    )


class RecordedRun:
    """A run whose journal is a list."""

    def __init__(
        self,
        request: RunRequest,
        *,
        inputs: Mapping[str, str] | None = None,
        recorded: Iterable[Event] = (),
        before: Callable[[Event], Awaitable[None]] | None = None,
        earlier: EarlierRun = NO_EARLIER_RUN,
        offers: FindOffers = no_offers,
        brake: Brake | None = None,
    ) -> None:
        """`before` is awaited before an event is written, and may raise."""
        inputs = inputs or {}
        refs = tuple(
            InputRef(name=name, digest=sha256(text.encode()).hexdigest(), chars=len(text))
            for name, text in inputs.items()
        )
        self.events: list[Event] = []
        self._before = before
        self.run = Run(
            request=request.model_copy(update={"inputs": refs}),
            documents={name: Document(name=name, text=text) for name, text in inputs.items()},
            steps=Steps(self._append, limits=request.limits, recorded=recorded, brake=brake),
            earlier=earlier,
            offers=offers,
        )

    async def _append(self, event: Event, /, *, wait: bool = True) -> None:
        del wait
        if self._before is not None:
            await self._before(event)
        self.events.append(event)

    async def drive(self, setup: Setup) -> RunEnded:
        """Take the run to its end."""
        await Orchestrator(setup).drive(self.run)
        return self.end

    @property
    def end(self) -> RunEnded:
        """Return the run's last event."""
        last = self.events[-1]
        assert isinstance(last, RunEnded)
        return last

    @property
    def calls(self) -> list[CallFinished]:
        """Return the calls that brought a reply, in the order of their ends."""
        return [event for event in self.events if isinstance(event, CallFinished)]

    def first(self, kind: type[EventT]) -> EventT:
        """Return the first event of a kind."""
        return next(event for event in self.events if isinstance(event, kind))

    @property
    def results(self) -> dict[str, SubtaskResult]:
        """Return the results by subtask."""
        finished = [event for event in self.events if isinstance(event, SubtaskFinished)]
        return {event.result.subtask_id: event.result for event in finished}


async def drive(
    request: RunRequest,
    scripts: Mapping[str, Script],
    *,
    inputs: Mapping[str, str] | None = None,
    workers: Iterable[WorkerDefinition] = (),
    tools: Iterable[WorkerTool] = (),
) -> tuple[RecordedRun, FakeLLM]:
    """Take a run of `request` to its end with a model that follows `scripts`."""
    llm = FakeLLM(scripts)
    recorded = RecordedRun(request, inputs=inputs)
    await recorded.drive(setup(llm, workers=workers, tools=tools))
    return recorded, llm
