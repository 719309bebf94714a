"""How close runs come to their critical path, and what scheduling costs."""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import anyio

from concertmaster.catalog.catalog import Catalog, builtin_folder
from concertmaster.catalog.definitions import WorkerDefinition
from concertmaster.catalog.prompts import load_prompts
from concertmaster.engine.plan.plan import Plan, Subtask
from concertmaster.engine.request import Limits
from concertmaster.engine.run import Setup
from concertmaster.engine.scheduler import Decision, Scheduler, Start
from concertmaster.llm.messages import Draft, Models, Reply, Request
from concertmaster.llm.usage import Usage
from concertmaster.runs.intake import RunPolicy
from concertmaster.runs.orders import RunOrder
from concertmaster.runs.service import open_service
from concertmaster.store.sqlite.store import open_sqlite
from concertmaster.tools.registry import ToolRegistry
from measure import Figure
from shapes import Shape, all_shapes, random_graph

USAGE = Usage(model="timed", calls=1, attempts=1, tokens_in=1000, tokens_out=200, usd=0.0)
SLOTS = 8


class TimedLLM:
    """A model that takes as long as its shape says, and notes when work begins and ends."""

    notice = ""

    def __init__(self, shape: Shape) -> None:
        self._seconds = shape.seconds
        self.first = 0.0
        self.last = 0.0

    def model_name(self, model: str, /) -> str:
        """Return the model's name."""
        return model

    def expected(self, _model: str, usage: Usage, /) -> Usage:
        """Return `usage`, at no cost."""
        return usage

    async def complete(self, request: Request, draft: Draft, /) -> Reply:
        """Answer after the time that the shape gives to the caller."""
        del draft
        worker = request.caller.removeprefix("worker:")
        if worker in self._seconds:
            self.first = self.first or time.perf_counter()
            await anyio.sleep(self._seconds[worker])
            self.last = time.perf_counter()
        return Reply(text="a result of some length " * 40, stop_reason="end", usage=USAGE)


async def makespan(shape: Shape, slots: int) -> float:
    """Return how long the work of a whole run took, journal on disk and all, in seconds."""
    llm = TimedLLM(shape)
    workers = [
        WorkerDefinition(name=item.id, description=item.id, instructions="Do.", file=Path("-"))
        for item in shape.subtasks
    ]
    setup = Setup(
        llm=llm,
        models=Models(),
        catalog=Catalog(workers),
        prompts=load_prompts(builtin_folder("prompts")),
        tools=ToolRegistry(),
    )
    policy = RunPolicy(limits=Limits(slots=slots))
    with tempfile.TemporaryDirectory() as folder:
        async with (
            open_sqlite(Path(folder)) as journal,
            open_service(journal=journal, setup=setup, policy=policy) as service,
        ):
            state = await service.start(RunOrder(task="t", plan=Plan(subtasks=shape.subtasks)))
            state = await service.wait(state.run_id, seconds=60)
            assert state.status == "succeeded", state
    return llm.last - llm.first


def makespan_figures() -> list[Figure]:
    """Measure each shape without a slot limit and with one."""
    figures: list[Figure] = []
    for shape in all_shapes():
        free = anyio.run(makespan, shape, len(shape.subtasks))
        figures.append(
            Figure(
                f"makespan / critical path, {shape.name}",
                free / shape.critical_path,
                1.02,
                detail=f"{free:.3f} s / {shape.critical_path:.3f} s",
            )
        )
        if len(shape.subtasks) <= SLOTS:
            continue
        bound = anyio.run(makespan, shape, SLOTS)
        figures.append(
            Figure(
                f"makespan / ideal on {SLOTS} slots, {shape.name}",
                bound / shape.ideal(SLOTS),
                1.05,
                detail=f"{bound:.3f} s; no schedule beats {shape.bound(SLOTS):.3f} s",
            )
        )
    return figures


def scheduler_figures() -> list[Figure]:
    """Measure the CPU time of the scheduler itself, per subtask."""
    return [_scheduler_cpu(size) for size in (32, 1000)]


def _scheduler_cpu(size: int) -> Figure:
    shape = random_graph(size, seed=5)
    rounds = max(1, 5000 // size)
    started = time.process_time()
    for _ in range(rounds):
        _run_through(shape.subtasks)
    spent = (time.process_time() - started) / rounds / size * 1000
    return Figure(f"scheduler CPU per subtask, graph of {size}", spent, 0.3, unit="ms")


def _run_through(subtasks: Sequence[Subtask]) -> None:
    scheduler = Scheduler(slots=SLOTS)
    running: list[Decision] = scheduler.revise(subtasks)
    while running:
        decision = running.pop()
        if isinstance(decision, Start):
            running += scheduler.ended(decision.subtask.id, "succeeded")
