"""How much sooner a run ends whose workers start while its plan is being written."""

import statistics
from pathlib import Path

import anyio

from concertmaster.catalog.catalog import builtin_folder, load_catalog
from concertmaster.catalog.prompts import load_prompts
from concertmaster.engine.events import Event
from concertmaster.engine.orchestrator import Orchestrator
from concertmaster.engine.plan.plan import Plan, Subtask
from concertmaster.engine.plan.streaming import PlanReader
from concertmaster.engine.request import RunRequest
from concertmaster.engine.run import Run, Setup
from concertmaster.engine.steps import Steps
from concertmaster.llm.messages import LLM, Draft, Models, Reply, Request
from concertmaster.llm.usage import Usage
from concertmaster.tools.builtin.defaults import default_tools
from measure import Figure

TOKENS_PER_SECOND = 60
TOKEN_CHARS = 4
WORK_SECONDS = 3.0
SUBTASKS = 8


class WritingLLM:
    """A planner that writes at the speed of a model, and workers that take their time."""

    notice = ""

    def __init__(self, *, draft: bool) -> None:
        self._drafts = draft
        self.arrived: dict[str, float] = {}
        """When the last character of each subtask was written."""
        self.begun: dict[str, float] = {}
        """When each worker was asked."""

    def model_name(self, model: str, /) -> str:
        return model

    def expected(self, _model: str, usage: Usage, /) -> Usage:
        """Return `usage`, at no cost."""
        return usage

    async def complete(self, request: Request, draft: Draft, /) -> Reply:
        if request.caller == "planner":
            return await self._plan(draft)
        if request.caller.startswith("worker:"):
            objective = getattr(request.brief, "objective", "")
            self.begun[objective] = anyio.current_time()
            await anyio.sleep(WORK_SECONDS)
        return _reply("done")

    async def _plan(self, draft: Draft) -> Reply:
        text, reader = plan_text(), PlanReader()
        for end in range(TOKEN_CHARS, len(text) + TOKEN_CHARS, TOKEN_CHARS):
            await anyio.sleep(1 / TOKENS_PER_SECOND)
            if plan := reader.read(text[:end]):
                self.arrived[plan.subtasks[-1].objective] = anyio.current_time()
            if self._drafts:
                draft.update(text=text[:end])
        return _reply(text)


def _reply(text: str) -> Reply:
    return Reply(text=text, stop_reason="end", usage=Usage(model="m", calls=1))


def plan_text() -> str:
    """Return a plan of two chains of subtasks, worded at the length that planners take."""
    sentence = "Look at this part of the matter with care and leave the others to the others. "
    subtasks = [
        Subtask(
            id=f"s{number}",
            worker="analyst",
            objective=f"Part {number}. {sentence * 2}",
            why=sentence,
            depends_on=(f"s{number - 2}",) if number > 2 else (),
        )
        for number in range(1, SUBTASKS + 1)
    ]
    return Plan(analysis=sentence, subtasks=tuple(subtasks)).model_dump_json()


async def seconds(llm: LLM) -> float:
    """Return how long a run takes with this model."""

    async def append(_event: Event, /, *, wait: bool = True) -> None:
        del wait

    tools = default_tools()
    setup = Setup(
        llm=llm,
        models=Models(),
        catalog=load_catalog(builtin_folder("workers"), tools=tools.names),
        prompts=load_prompts(builtin_folder("prompts")),
        tools=tools,
        roots=(Path.cwd(),),
    )
    run = Run(request=RunRequest(task="t"), documents={}, steps=Steps(append))
    started = anyio.current_time()
    await Orchestrator(setup).drive(run)
    return anyio.current_time() - started


def planning_figures() -> list[Figure]:
    """Measure the same run with a plan that is read as it is written, and one that is not."""
    streamed, whole = WritingLLM(draft=True), WritingLLM(draft=False)
    with_draft = anyio.run(seconds, streamed)
    without = anyio.run(seconds, whole)
    waits = [
        1000 * (streamed.begun[objective] - streamed.arrived[objective])
        for objective in streamed.arrived
    ]
    return [
        Figure(
            "makespan with a plan read as it is written / read when it is whole",
            with_draft / without,
            1.0,
            detail=f"{with_draft:.1f} s / {without:.1f} s at {TOKENS_PER_SECOND} tokens/s",
        ),
        Figure(
            "from a subtask's last character to its worker's request, the longest",
            max(waits),
            10.0,
            unit="ms",
            detail=f"median {statistics.median(waits):.1f} ms of {len(waits)}",
        ),
    ]
