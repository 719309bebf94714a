"""What one run works on, and what every run works with."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import anyio

from concertmaster.catalog.catalog import Catalog
from concertmaster.catalog.definitions import WorkerDefinition
from concertmaster.catalog.prompts import Prompts
from concertmaster.engine.approvals import Consents
from concertmaster.engine.events import SubtaskResult
from concertmaster.engine.plan.plan import Plan, Subtask
from concertmaster.engine.plan.validation import PlanRules
from concertmaster.engine.replay import NO_EARLIER_RUN, EarlierRun, FindOffers, no_offers
from concertmaster.engine.request import Decomposition, RunRequest
from concertmaster.engine.steps import Steps
from concertmaster.llm.fencing import fence, quoted
from concertmaster.llm.messages import LLM, Document, Models, WorkResult
from concertmaster.llm.wrapper import Brake
from concertmaster.tools.registry import ToolRegistry

_CUSTOM_WORKERS: Mapping[Decomposition, int] = {"constrained": 0, "hybrid": 1, "dynamic": 50}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What every run of a process works with."""

    llm: LLM
    models: Models
    catalog: Catalog
    prompts: Prompts
    tools: ToolRegistry
    roots: tuple[Path, ...] = ()
    """Folders whose files worker tools may read."""
    custom_worker_tools: tuple[str, ...] = ()
    """The tools of workers that a plan brings along."""
    brake: Brake = field(default_factory=Brake)
    """What keeps calls from beginning when the process is to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One execution of one task."""

    request: RunRequest
    documents: Mapping[str, Document]
    """The run's inputs by name."""
    steps: Steps
    passed: anyio.Event = field(default_factory=anyio.Event)
    """Set once its guard has let it pass, which is from the start if it has none."""
    earlier: EarlierRun = NO_EARLIER_RUN
    """The run that this one is to repeat."""
    offers: FindOffers = no_offers
    """What all other runs have for it."""
    consents: Consents = field(default_factory=Consents)
    """What people say to tool calls that somebody has to agree to."""

    async def may_be_told_of(self) -> None:
        """Return once others may learn of the run."""
        with self.steps.noticing_the_end():
            await self.passed.wait()

    def inputs_of(self, subtask: Subtask) -> tuple[Document, ...]:
        """Return the inputs that a subtask gets, in the run's order."""
        return tuple(self.documents[name] for name in self.documents if name in subtask.inputs)

    def rules(self, catalog: Catalog) -> PlanRules:
        """Return what a plan of this run may refer to."""
        return PlanRules(
            workers=self.request.workers or catalog.names,
            inputs=tuple(self.documents),
            max_subtasks=self.request.limits.max_subtasks,
            custom_workers=_CUSTOM_WORKERS[self.request.decomposition],
            taken=catalog.names,
            mode=None if self.request.mode == "auto" else self.request.mode,
        )


def workers_of(plan: Plan, setup: Setup) -> Catalog:
    """Return the workers of the catalog and those that the plan brings along."""
    return setup.catalog.joined(
        WorkerDefinition(
            name=worker.name,
            description=worker.description,
            instructions=worker.instructions,
            file=Path("(written for this run)"),
            tools=setup.custom_worker_tools,
        )
        for worker in plan.custom_workers
    )


def fenced_inputs(documents: Iterable[Document]) -> str:
    """Return documents as data for a prompt, each marked with its name."""
    return "\n\n".join(fence("document", document.name, document.text) for document in documents)


def input_names(documents: Iterable[Document]) -> str:
    """Return a line for each document: its name, as a JSON string, and its size."""
    lines = [
        f"- {quoted(document.name)} ({len(document.text):,} characters)" for document in documents
    ]
    return "\n".join(lines) or "None."


def bullets(lines: Iterable[str]) -> str:
    """Return lines as a Markdown list, or `None.` where there are none."""
    return "\n".join(f"- {line}" for line in lines) or "None."


def work_result(subtask: Subtask, result: SubtaskResult) -> WorkResult:
    """Return how a subtask ended, as later steps of the run are told."""
    return WorkResult(
        subtask_id=subtask.id,
        worker=subtask.worker,
        objective=subtask.objective,
        status=result.status,
        text=result.text,
        problem=" ".join(result.errors),
        sources=tuple(source.line for source in result.sources),
    )


def fenced_answer(name: str, text: str) -> str:
    """Return an answer as data for a prompt, marked with a name."""
    return fence("answer", name, text)


def fenced_results(results: Iterable[WorkResult]) -> str:
    """Return results as data for a prompt, each marked with its subtask, worker and status."""
    blocks: list[str] = []
    for result in results:
        name = f"{result.subtask_id} by {result.worker}: {result.status}"
        text = result.text or "(no result)"
        if result.problem:
            text += f"\n\n(What is wrong with it: {result.problem})"
        if result.sources:
            text += f"\n\nIt cites:\n{bullets(result.sources)}"
        blocks.append(f"Objective: {result.objective}\n{fence('result', name, text)}")
    return "\n\n".join(blocks) or "None."
