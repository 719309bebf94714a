"""What it costs to keep a journal: runs of 52 calls that take 100 ms each, alone and many at once.

By itself: `uv run benchmarks/journal.py`.
"""

import json
import secrets
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio

from concertmaster.catalog.catalog import Catalog, builtin_folder
from concertmaster.catalog.definitions import WorkerDefinition
from concertmaster.catalog.prompts import load_prompts
from concertmaster.cli.app import collect_rarely
from concertmaster.engine.events import CallFinished, RunStarted
from concertmaster.engine.request import Limits, RunRequest
from concertmaster.engine.run import Setup
from concertmaster.llm.messages import Draft, Models, Reply, Request
from concertmaster.llm.usage import Usage
from concertmaster.runs.intake import RunPolicy
from concertmaster.runs.orders import RunOrder
from concertmaster.runs.service import RunService, open_service
from concertmaster.store.journal import Journal
from concertmaster.store.postgres.store import open_postgres
from concertmaster.store.sqlite.store import open_sqlite
from concertmaster.tools.registry import ToolRegistry
from measure import Figure
from servers import running_postgres

CALL_SECONDS = 0.1
LEVELS, WIDTH = 5, 10
CALLS = LEVELS * WIDTH + 2
IDEAL = (LEVELS + 2) * CALL_SECONDS
"""The plan, one level after the other, and the synthesis."""
AT_ONCE = 100
TIMES = 5
"""How often to measure one run, whose time a single slow commit would decide."""
USAGE = Usage(model="timed", calls=1, attempts=1, tokens_in=1000, tokens_out=200, usd=0.0)
PLAN = json.dumps(
    {
        "analysis": "Layers, each subtask with two of the layer before.",
        "direct_answer": None,
        "mode": "static",
        "subtasks": [
            {
                "id": f"s{level}-{number}",
                "worker": "analyst",
                "objective": f"Do part {level}.{number}.",
                "depends_on": [f"s{level - 1}-{(number + step) % WIDTH}" for step in (0, 1)]
                if level
                else [],
            }
            for level in range(LEVELS)
            for number in range(WIDTH)
        ],
    }
)


class EvenLLM:
    """A model whose calls all take the same time."""

    notice = ""

    def model_name(self, model: str, /) -> str:
        """Return the model's name."""
        return model

    def expected(self, _model: str, usage: Usage, /) -> Usage:
        """Return `usage`, at no cost."""
        return usage

    async def complete(self, request: Request, draft: Draft, /) -> Reply:
        """Answer with the plan, or with words."""
        del draft
        await anyio.sleep(CALL_SECONDS)
        text = PLAN if request.caller == "planner" else "a result of some length " * 40
        return Reply(text=text, stop_reason="end", usage=USAGE)


@dataclass(frozen=True, slots=True)
class Cost:
    """What runs took."""

    seconds: float
    cpu: float
    """Of this process: for Postgres, that of the server comes on top."""
    events: int


@asynccontextmanager
async def _opened(journal: Journal) -> AsyncGenerator[RunService]:
    setup = Setup(
        llm=EvenLLM(),
        models=Models(),
        catalog=Catalog(
            [WorkerDefinition(name="analyst", description="a", instructions="Do.", file=Path("-"))]
        ),
        prompts=load_prompts(builtin_folder("prompts")),
        tools=ToolRegistry(),
    )
    limits = Limits(max_subtasks=LEVELS * WIDTH, slots=WIDTH, budget_tokens=10**9)
    policy = RunPolicy(limits=limits)
    async with open_service(journal=journal, setup=setup, policy=policy) as service:
        yield service


async def cost(store: str, runs: int) -> Cost:
    """Return what so many runs took that began at once, after one to warm up."""
    with tempfile.TemporaryDirectory() as folder:
        async with (
            open_postgres(store) if store else open_sqlite(Path(folder)) as journal,
            _opened(journal) as service,
        ):
            events: list[int] = []

            async def run() -> None:
                state = await service.start(RunOrder(task="t"))
                state = await service.wait(state.run_id, seconds=120)
                assert (state.status, state.usage.calls) == ("succeeded", CALLS), state.reasons
                events.append(state.events)

            await run()
            events.clear()
            began, cpu = time.perf_counter(), time.process_time()
            async with anyio.create_task_group() as tasks:
                for _ in range(runs):
                    tasks.start_soon(run)
            seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
            return Cost(seconds, cpu, sum(events))


async def bare(store: str, runs: int) -> float:
    """Return the seconds that so many runs take of which nothing is done but to write them down.

    Their calls take as long and follow one another as in the others.
    """
    started = RunStarted(name="run", at=time.time(), request=RunRequest(task="t"))
    reply = Reply(text="a result of some length " * 40, stop_reason="end", usage=USAGE)

    async def call(run_id: str, name: str, journal: Journal) -> None:
        await anyio.sleep(CALL_SECONDS)
        event = CallFinished(name=name, at=time.time(), caller="worker", reply=reply)
        await journal.append(run_id, event, epoch=1)

    async def run(journal: Journal) -> None:
        run_id = f"r-{secrets.token_hex(8)}"
        await journal.create(run_id, started, {})
        await call(run_id, "plan", journal)
        for level in range(LEVELS):
            async with anyio.create_task_group() as tasks:
                for place in range(WIDTH):
                    tasks.start_soon(call, run_id, f"{level}-{place}", journal)
        await call(run_id, "synthesis", journal)

    with tempfile.TemporaryDirectory() as folder:
        async with open_postgres(store) if store else open_sqlite(Path(folder)) as journal:
            await run(journal)
            began = time.perf_counter()
            async with anyio.create_task_group() as tasks:
                for _ in range(runs):
                    tasks.start_soon(run, journal)
            return time.perf_counter() - began


def _median(costs: Sequence[Cost]) -> Cost:
    return sorted(costs, key=lambda cost: cost.seconds)[len(costs) // 2]


def _figures(name: str, store: str) -> list[Figure]:
    written_alone = statistics.median(anyio.run(bare, store, 1) for _ in range(TIMES))
    written = anyio.run(bare, store, AT_ONCE)
    alone = _median([anyio.run(cost, store, 1) for _ in range(TIMES)])
    crowd = anyio.run(cost, store, AT_ONCE)
    return [
        Figure(
            f"a run of {CALLS} calls / ideal, the journal alone, {name}",
            written_alone / IDEAL,
            1.05,
            detail=f"{written_alone:.3f} s",
        ),
        Figure(
            f"{AT_ONCE} such runs at once / ideal, the journal alone, {name}",
            written / IDEAL,
            1.6,
            detail=f"{written:.2f} s",
        ),
        Figure(
            f"a run of {CALLS} calls / ideal, {name}",
            alone.seconds / IDEAL,
            1.05,
            detail=f"{alone.seconds:.3f} s / {IDEAL:.3f} s",
        ),
        Figure(
            f"{AT_ONCE} such runs at once / ideal, {name}",
            crowd.seconds / IDEAL,
            1.6,
            detail=f"{crowd.seconds:.2f} s, {1000 * crowd.cpu / AT_ONCE / CALLS:.2f} ms CPU a call",
        ),
        Figure(
            f"CPU per event, {AT_ONCE} runs, {name}",
            1000 * crowd.cpu / crowd.events,
            1,
            unit="ms",
            detail=f"{crowd.events:,} events; {1000 * alone.cpu / alone.events:.3f} ms in one run",
        ),
    ]


def journal_figures() -> list[Figure]:
    """Measure both stores, in a process like those of the command."""
    collect_rarely()
    figures = _figures("SQLite", "")
    with running_postgres() as server:
        figures += _figures("Postgres", server.store())
    return figures


if __name__ == "__main__":
    for figure in journal_figures():
        print(
            f"{figure.name}: {figure.value:.3f} {figure.unit} (≤ {figure.goal:g}). {figure.detail}"
        )
