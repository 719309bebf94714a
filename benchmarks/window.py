"""How long a reply takes from its last byte to the disk: what a kill in between costs.

By itself: `uv run benchmarks/window.py`. With arguments, this file is the process whose calls
are timed; the endpoint is in the one that starts it, and both go by the clock of the machine.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
from anyio import to_thread

from concertmaster.cli.bootstrap import build_catalog, build_prompts, models_of, open_llm
from concertmaster.engine.events import CallFinished
from concertmaster.engine.plan.plan import Plan, Subtask
from concertmaster.engine.run import Setup
from concertmaster.fake_api import Behaviour, serve_fake_api
from concertmaster.fake_api.usage import Entry
from concertmaster.llm.usage import Usage
from concertmaster.runs.intake import RunPolicy
from concertmaster.runs.orders import RunOrder
from concertmaster.runs.service import open_service
from concertmaster.settings.load import LoadedSettings, Settings
from concertmaster.store.postgres.connection import Address
from concertmaster.store.postgres.store import PostgresJournal
from concertmaster.store.sqlite.store import SqliteJournal
from concertmaster.store.writer import GroupCommit, Pending
from concertmaster.tools.registry import ToolRegistry
from measure import Figure
from servers import running_postgres

RUNS = 4
"""Runs at once, each with eight calls under way."""
SUBTASKS = 50
BEHAVIOUR = Behaviour(first_token_seconds=0.5, tokens_per_second=150, reply_tokens=150, spread=0.5)
MEDIAN, P95 = 0.005, 0.02
"""Goals, in seconds. At a mean of 0.01, a process that is killed every five seconds repeats one
finished call in five hundred."""

Marks = tuple[int, int, int, int]
"""The tokens of a call: as good as a name, for replies differ in length."""


def marks(call: Entry | Usage) -> Marks:
    """Return what a request in the ledger and its call in the journal have in common."""
    return call.tokens_in, call.tokens_out, call.cache_read, call.cache_write


class Noting(GroupCommit):
    """A part of a journal: notes when it had committed the end of a call."""

    noted: list[tuple[Marks, float]]

    def _commit(self, batch: Sequence[Pending]) -> None:
        super()._commit(batch)
        now = time.monotonic()
        for event in (pending.write.event for pending in batch):
            if isinstance(event, CallFinished):
                self.noted.append((marks(event.reply.usage), now))


class NotingSqlite(Noting, SqliteJournal):
    """Such a journal in a file."""


class NotingPostgres(Noting, PostgresJournal):
    """Such a journal in a Postgres."""


@asynccontextmanager
async def _opened(
    settings: LoadedSettings, store: str
) -> AsyncGenerator[NotingPostgres | NotingSqlite]:
    if store:
        journal = NotingPostgres(Address(store), works=False)
        async with journal.committing() as tasks:
            tasks.start_soon(journal.keep_in_touch)
            yield journal
    else:
        journal = NotingSqlite(settings.settings.data_folder)
        async with journal.committing():
            yield journal


async def timed(address: str, store: str = "") -> None:
    """Run, and print when the end of each call had been committed."""
    with tempfile.TemporaryDirectory() as folder:
        flags = {"api_key": "none", "base_url": address, "data_folder": Path(folder)}
        loaded = Settings.load(flags | {"max_subtasks": SUBTASKS, "budget_usd": 100})
        async with open_llm(loaded) as llm, _opened(loaded, store) as journal:
            journal.noted = []
            setup = Setup(
                llm=llm,
                models=models_of(loaded.settings),
                catalog=build_catalog(loaded.settings),
                prompts=build_prompts(loaded.settings),
                tools=ToolRegistry(),
            )
            policy = RunPolicy(limits=loaded.settings.limits)
            async with open_service(journal=journal, setup=setup, policy=policy) as service:

                async def run(subtasks: int) -> None:
                    plan = Plan(
                        subtasks=tuple(
                            Subtask(id=f"s{number}", worker="analyst", objective=f"Part {number}.")
                            for number in range(subtasks)
                        )
                    )
                    state = await service.start(RunOrder(task="t", plan=plan))
                    state = await service.wait(state.run_id, seconds=200)
                    assert state.status == "succeeded", state.reasons

                await run(1)
                journal.noted.clear()
                async with anyio.create_task_group() as tasks:
                    for _ in range(RUNS):
                        tasks.start_soon(run, SUBTASKS)
        sys.stdout.write(json.dumps(journal.noted))


async def windows(store: str) -> list[float]:
    """Return for each call how long it took from its last byte to the disk, in seconds."""
    async with serve_fake_api(BEHAVIOUR) as api:
        command = [sys.executable, __file__, api.address, *filter(None, [store])]
        run = partial(subprocess.run, command, check=True, stdout=subprocess.PIPE)
        done = await to_thread.run_sync(run)
        clock = time.monotonic() - api.now()
    sent: defaultdict[Marks, list[float]] = defaultdict(list)
    for entry in api.ledger.entries[1:]:
        assert entry.sent is not None
        sent[marks(entry)].append(clock + entry.sent)
    return [moment - sent[tuple(what)].pop(0) for what, moment in json.loads(done.stdout)]


def _figures(name: str, store: str) -> list[Figure]:
    found = anyio.run(windows, store)
    p95 = statistics.quantiles(found, n=20)[-1]
    mean, longest = 1000 * statistics.mean(found), 1000 * max(found)
    detail = f"{len(found)} calls; {mean:.1f} ms on average, {longest:.1f} ms at most"
    return [
        Figure(
            f"from a reply's last byte to the disk, median, {name}",
            1000 * statistics.median(found),
            1000 * MEDIAN,
            unit="ms",
            detail=detail,
        ),
        Figure(f"the same, 95 %, {name}", 1000 * p95, 1000 * P95, unit="ms"),
    ]


def window_figures() -> list[Figure]:
    """Measure both stores."""
    figures = _figures("SQLite", "")
    with running_postgres() as server:
        figures += _figures("Postgres", server.store())
    return figures


if __name__ == "__main__":
    if sys.argv[1:]:
        anyio.run(partial(timed, *sys.argv[1:]))
    else:
        for figure in window_figures():
            print(f"{figure.name}: {figure.value:.2f} ms (≤ {figure.goal:g}). {figure.detail}")
