"""What becomes of 40 runs on one Postgres when processes that work on them come and go.

One is killed, one is stopped for a while and woken, one is told to end. Calls are counted
outside of the processes, by the scripted endpoint. This file can be run by itself.
"""

import os
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import anyio
from anyio.abc import Process

from concertmaster.cli.bootstrap import open_runs
from concertmaster.engine.events import (
    CallFinished,
    Event,
    RunEnded,
    RunResumed,
    RunStarted,
    SubtaskFinished,
    SubtaskStarted,
)
from concertmaster.engine.plan.plan import Plan
from concertmaster.engine.request import RunRequest
from concertmaster.fake_api import Behaviour, serve_fake_api
from concertmaster.fake_api.usage import Ledger
from concertmaster.runs.orders import RunOrder
from concertmaster.runs.service import RunService
from concertmaster.settings.load import Settings
from concertmaster.store.journal import Journal
from concertmaster.store.postgres.migrate import migrate
from concertmaster.store.postgres.store import open_postgres
from concertmaster.store.sqlite.store import open_sqlite
from measure import Figure
from servers import running_postgres

RUNS = 40
BEHAVIOUR = Behaviour(first_token_seconds=1.0, reply_tokens=100)
DEPTH, WIDTH = 6, 2
PLAN = Plan.model_validate(
    {
        "subtasks": [
            {
                "id": f"s{level}-{number}",
                "worker": "analyst",
                "objective": f"Do part {level}.{number}.",
                "depends_on": [f"s{level - 1}-{other}" for other in range(WIDTH)] if level else [],
            }
            for level in range(DEPTH)
            for number in range(WIDTH)
        ]
    }
)
CALLS = DEPTH * WIDTH + 1
EVENTS = 20_000


@dataclass(slots=True)
class Trial:
    """What happened to the runs."""

    journals: dict[str, Sequence[Event]] = field(default_factory=dict[str, Sequence[Event]])
    struck: list[tuple[str, str, float]] = field(default_factory=list[tuple[str, str, float]])
    """What was done to which process, and when."""
    seconds: float = 0.0
    repeated: int = 0
    """Calls that were made more than once."""

    @property
    def unended(self) -> int:
        """Return how many runs did not succeed."""
        return sum(
            [event.status for event in events if isinstance(event, RunEnded)] != ["succeeded"]
            for events in self.journals.values()
        )

    @property
    def twice(self) -> int:
        """Return how many subtasks or runs came to their end more than once."""
        names = [
            (run_id, event.name)
            for run_id, events in self.journals.items()
            for event in events
            if isinstance(event, SubtaskFinished | RunEnded)
        ]
        return len(names) - len(set(names))

    @property
    def shares(self) -> Counter[str]:
        """Return how many calls each process made."""
        shares: Counter[str] = Counter()
        for events in self.journals.values():
            owner = ""
            for event in events:
                match event:
                    case RunResumed():
                        owner = event.by
                    case CallFinished():
                        shares[owner] += 1
                    case _:
                        pass
        return shares

    def hand_offs(self, what: str) -> list[float]:
        """Return how long the runs of a process lay still after it was struck."""
        ((process, at),) = [(process, at) for name, process, at in self.struck if name == what]
        found: list[float] = []
        for events in self.journals.values():
            lives = [event for event in events if isinstance(event, RunResumed)]
            for before, after in pairwise(lives):
                if before.by == process and before.at < at <= after.at:
                    found.append(after.at - at)
        return found


@dataclass(slots=True)
class Workers:
    """The processes that work, by how they sign."""

    processes: dict[str, Process]
    trial: Trial

    def strike(self, what: str, number: int, sent: signal.Signals) -> None:
        """Send a signal to one of them."""
        name, process = list(self.processes.items())[number]
        self.trial.struck.append((what, name, time.time()))
        process.send_signal(sent)


@asynccontextmanager
async def workers(number: int, url: str, address: str, trial: Trial) -> AsyncGenerator[Workers]:
    """Run so many processes that work."""
    environment = {
        **os.environ,
        "CONCERTMASTER_STORE": url,
        "CONCERTMASTER_API_KEY": "none",
        "CONCERTMASTER_BASE_URL": address,
        "CONCERTMASTER_RUNS_AT_ONCE": str(RUNS),
    }
    command = [sys.executable, "-m", "concertmaster", "work"]
    async with AsyncExitStack() as stack:
        processes: dict[str, Process] = {}
        for _ in range(number):
            opened = await anyio.open_process(command, env=environment)
            process = await stack.enter_async_context(opened)
            stack.callback(_end, process)
            assert process.stderr is not None
            while b"Working on" not in await process.stderr.receive():
                pass
            processes[f"process {process.pid} on {os.uname().nodename}"] = process
        yield Workers(processes, trial)


def _end(process: Process) -> None:
    if process.returncode is None:
        process.kill()


async def nothing(_workers: Workers) -> None:
    """Let all processes be."""


async def kill_one(workers: Workers) -> None:
    """Kill one of two."""
    await anyio.sleep(3)
    workers.strike("kill", 0, signal.SIGKILL)


async def strike_all(workers: Workers) -> None:
    """Kill one of three, stop another and wake it, then have the third end."""
    await anyio.sleep(3)
    workers.strike("kill", 0, signal.SIGKILL)
    workers.strike("stop", 1, signal.SIGSTOP)
    await anyio.sleep(8)
    workers.strike("wake", 1, signal.SIGCONT)
    await anyio.sleep(2)
    workers.strike("drain", 2, signal.SIGTERM)


async def one_trial(
    url: str, number: int, strike: Callable[[Workers], Coroutine[None, None, None]]
) -> Trial:
    """Give 40 runs to so many processes, and return what became of them."""
    trial = Trial()
    async with serve_fake_api(BEHAVIOUR) as api, workers(number, url, api.address, trial) as those:
        flags = {"api_key": "none", "base_url": api.address, "store": url, "max_subtasks": 40}
        async with open_runs(Settings.load(flags), roots=(), part="accepts") as service:
            began = time.perf_counter()
            order = RunOrder(task="all of it", mode="static", plan=PLAN)
            started = [(await service.start(order)).run_id for _ in range(RUNS)]
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(strike, those)
                for run_id in started:
                    tasks.start_soon(_wait, service, run_id)
            trial.seconds = time.perf_counter() - began
        trial.repeated = _calls(api.ledger) - RUNS * CALLS
    async with open_postgres(url) as journal:
        trial.journals = {run_id: await journal.events(run_id) for run_id in started}
    return trial


async def _wait(service: RunService, run_id: str) -> None:
    with anyio.fail_after(120):
        while not (await service.wait(run_id, seconds=30)).over:
            pass


def _calls(ledger: Ledger) -> int:
    return len(ledger.entries)


async def journal_cost(journal: Journal) -> tuple[float, float]:
    """Return what an event costs that 100 runs at once wait for: milliseconds, and of CPU."""
    request = RunRequest(task="all of it")

    async def one_run(number: int) -> None:
        run_id = f"r-{number}"
        await journal.create(run_id, RunStarted(name="run/start", at=0, request=request), {})
        for place in range(EVENTS // 100):
            event = SubtaskStarted(name=f"subtask/s{place}/start", at=0, subtask_id=f"s{place}")
            await journal.append(run_id, event, epoch=1)

    began, cpu = time.perf_counter(), time.process_time()
    await anyio.amap(one_run, range(100))
    elapsed, spent = time.perf_counter() - began, time.process_time() - cpu
    return elapsed / EVENTS * 1e3, spent / EVENTS * 1e3


async def _costs(url: str) -> list[Figure]:
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder:
        stores = {"Postgres": open_postgres(url), "SQLite": open_sqlite(Path(folder))}
        for name, store in stores.items():
            async with store as journal:
                elapsed, cpu = await journal_cost(journal)
            detail = f"{cpu:.3f} ms of them CPU of this process"
            figures.append(
                Figure(f"journal on {name}, per event", elapsed, 1.0, unit="ms", detail=detail)
            )
    return figures


def _figures(name: str, trial: Trial) -> list[Figure]:
    detail = f"{trial.seconds:.1f} s; calls by process: {sorted(trial.shares.values())}"
    figures = [
        Figure(f"{name}: runs without a right end", trial.unended, 0, unit="runs", detail=detail),
        Figure(f"{name}: ended twice", trial.twice, 0, unit="runs and subtasks"),
    ]
    if not trial.struck:
        shares = trial.shares.values()
        uneven = max(shares) / statistics.mean(shares) - 1
        figures.append(Figure(f"{name}: most work over the mean", 100 * uneven, 10, unit="%"))
    for what in [what for what, *_ in trial.struck if what != "wake"]:
        times = trial.hand_offs(what) or [0.0]
        figures.append(
            Figure(
                f"{name}: longest hand-off after {what}",
                max(times),
                10,
                unit="s",
                detail=f"{len(times)} runs, median {statistics.median(times):.2f} s",
            )
        )
    if trial.struck:
        figures.append(
            Figure(f"{name}: calls made again", trial.repeated, RUNS * CALLS / 4, unit="calls")
        )
    return figures


def hand_off_figures() -> list[Figure]:
    """Measure what processes that come and go do to runs, and what the journal costs."""
    trials = {
        "two processes": (2, nothing),
        "three processes": (3, nothing),
        "one of two killed": (2, kill_one),
        "killed, stopped, drained": (3, strike_all),
    }
    figures: list[Figure] = []
    with running_postgres() as server:
        for name, (number, strike) in trials.items():
            figures += _figures(name, anyio.run(one_trial, server.store(), number, strike))
        migrate(server.create("costs"))
        figures += anyio.run(_costs, server.url("costs"))
    return figures


if __name__ == "__main__":
    for figure in hand_off_figures():
        print(f"{figure.name}: {figure.value:.3g} {figure.unit} (goal {figure.goal:g}).")
        print(f"    {figure.detail}")
