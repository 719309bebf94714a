"""What runs of every kind lose when their process is killed at random moments.

Their calls are counted outside of that process, by the scripted endpoint, which knows when it
had sent the last byte of a reply. A reply that had been sent and is not in the journal after
the kill is lost, and its call is made again. By itself, for at least 2,000 calls that were
finished before a kill or in a process that was not killed: `uv run benchmarks/crashes.py 2000`;
on Postgres, `uv run benchmarks/crashes.py 2000 postgres`; with a seed as a third argument.

What share of the calls is lost depends on two times alone: how long it takes from the last
byte of a reply to the disk, and how long a process lives until it is killed. A process that
lives L seconds finishes some calls in each of them, and loses those of its last W seconds: W / L
of them, however many there are at once. Here a process lives some seconds, so that there are
many kills; in real life a kill is rare and the share is smaller by as much.
"""

import os
import random
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import anyio
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream

from concertmaster.engine.events import (
    CallFailed,
    CallFinished,
    Event,
    RunEnded,
    SubtaskFinished,
    SubtaskStarted,
)
from concertmaster.fake_api import Behaviour, ServedApi, serve_fake_api
from concertmaster.fake_api.usage import Entry
from concertmaster.llm.usage import Usage
from concertmaster.runs.state import fold
from concertmaster.store.journal import Journal
from concertmaster.store.postgres.store import open_postgres
from concertmaster.store.sqlite.store import open_sqlite
from crash_runs import ORDERS
from measure import Figure
from servers import running_postgres

PROGRAM = Path(__file__).with_name("crash_runs.py")
CALLS = 400
LANES = {"sqlite": 4, "postgres": 6}
"""Runs at once, each in a process of its own: on Postgres, some wait until a dead one is missed."""
MOST_KILLS = 3
"""How often one run is killed."""
LIFE_SECONDS = 12.0
"""How long after its first call a process may live that is to be killed."""
EARLY = 0.1
"""The share of the processes whose life may end before their first call."""
WINDOW_SECONDS = 0.1
"""How long a reply may take from the endpoint to the disk."""
MOST_UNCOUNTED = 5.0
"""Tokens that may be in no usage of a run whose processes were killed, in percent."""
BEHAVIOUR = Behaviour(
    # Calls of one to two seconds: short ones of small models. Longer ones would not change the
    # share that is lost, only how long it takes to count enough of them.
    first_token_seconds=0.5,
    tokens_per_second=150,
    reply_tokens=150,
    spread=0.5,
    subtasks=30,
    values={"allowed": True},
)

Marks = tuple[int, int, int, int]
"""The tokens of a call: as good as a name, for replies differ in length."""


def _marks(call: Entry | Usage) -> Marks:
    return call.tokens_in, call.tokens_out, call.cache_read, call.cache_write


@dataclass(slots=True)
class Outcome:
    """What became of the runs, summed over them."""

    runs: Counter[str] = field(default_factory=Counter[str])
    """By kind and status."""
    lives: list[float] = field(default_factory=list[float])
    """How long processes lived from their first call until they were killed, in seconds."""
    unended: int = 0
    undone: int = 0
    """Subtasks that had succeeded and were done again."""
    finished: int = 0
    """Calls whose whole reply had been sent while the process lived."""
    in_flight: int = 0
    """Calls that were under way at a kill."""
    repeated: list[float] = field(default_factory=list[float])
    """For each finished call whose reply was lost, how long before the kill it had been sent."""
    charged: int = 0
    """Tokens that the endpoint charged for runs that were killed at least once."""
    uncounted: int = 0
    """Of these, how many are in no usage of their runs."""
    unreported: int = 0
    """How many would be in none if only calls that ended had a usage."""
    unexplained: list[str] = field(default_factory=list[str])
    """Replies that are not in the journal of a process that was not killed, and calls that are
    in a journal more than once."""


class Counting:
    """Compares what one run was sent with what its journal has, one process after the other."""

    def __init__(self, api: ServedApi, outcome: Outcome) -> None:
        self._api = api
        self._outcome = outcome
        self._first = self._entries = len(api.ledger.entries)
        self._events = 0
        self._killed = False

    def take_in(self, events: Sequence[Event], *, killed_at: float | None) -> None:
        """Take in what there is after a process has ended, or was killed at a time."""
        entries = self._api.ledger.entries[self._entries :]
        until = self._api.now() if killed_at is None else killed_at
        sent = [entry for entry in entries if entry.sent is not None and entry.sent <= until]
        self._outcome.finished += len(sent)
        lost = _lost(sent, events[self._events :])
        self._killed |= killed_at is not None
        if killed_at is None:
            self._outcome.unexplained += [f"lost {until - moment:.3f} s before" for moment in lost]
        else:
            self._outcome.in_flight += len(entries) - len(sent)
            self._outcome.repeated += [killed_at - moment for moment in lost]
            if entries:
                self._outcome.lives.append(killed_at - entries[0].began)
        self._entries += len(entries)
        self._events = len(events)

    def sum_up(self, run_id: str, events: Sequence[Event]) -> None:
        """Compare, at the end of a run, what was charged with what the run says it has taken."""
        if not self._killed:
            return
        charged = sum(sum(_marks(entry)) for entry in self._api.ledger.entries[self._first :])
        ended = sum(sum(_marks(usage)) for usage in _usages(events))
        counted = sum(_marks(fold(run_id, events, alive=False).usage))
        self._outcome.charged += charged
        self._outcome.uncounted += max(charged - counted, 0)
        self._outcome.unreported += max(charged - ended, 0)


def _usages(events: Sequence[Event]) -> list[Usage]:
    """Return what each call that ended has taken."""
    return [
        event.reply.usage if isinstance(event, CallFinished) else event.usage
        for event in events
        if isinstance(event, CallFinished | CallFailed)
    ]


def _lost(sent: Sequence[Entry], events: Sequence[Event]) -> list[float]:
    """Return when the replies had been sent that are not among the events."""
    had = Counter(map(_marks, _usages(events)))
    lost: list[float] = []
    for entry in sent:
        if had[_marks(entry)]:
            had[_marks(entry)] -= 1
        elif entry.sent is not None:
            lost.append(entry.sent)
    return lost


def _done_again(events: Sequence[Event]) -> set[str]:
    """Return the subtasks that were begun anew although they had succeeded."""
    succeeded: set[str] = set()
    again: set[str] = set()
    for event in events:
        match event:
            case SubtaskFinished(result=result) if result.status == "succeeded":
                succeeded.add(result.subtask_id)
            case SubtaskStarted(subtask_id=name) if name in succeeded:
                again.add(name)
            case _:
                pass
    return again


class Lane:
    """Takes one run after another to its end, through as many processes as it takes."""

    def __init__(self, store: str, api: ServedApi, outcome: Outcome, seed: str) -> None:
        self._store = store
        self._api = api
        self._outcome = outcome
        self._numbers = random.Random(seed)

    async def one_run(self, kind: str) -> None:
        """Take a run of some kind to its end."""
        counting = Counting(self._api, self._outcome)
        run_id, status = "", ""
        events: Sequence[Event] = ()
        with tempfile.TemporaryDirectory() as folder:
            for life in range(MOST_KILLS + 1):
                command = [sys.executable, str(PROGRAM), folder, self._store]
                command += [self._api.address, kind, run_id]
                killed_at = None
                async with await anyio.open_process(
                    command, stderr=None, env=_environment()
                ) as process:
                    assert process.stdout is not None
                    lines = _lines(TextReceiveStream(process.stdout))
                    run_id = await anext(lines)
                    if life < MOST_KILLS:
                        killed_at = await self._kill(process)
                    async for _ in lines:
                        pass
                async with _opened(self._store, folder) as journal:
                    events = await journal.events(run_id)
                counting.take_in(events, killed_at=killed_at)
                if isinstance(events[-1], RunEnded):
                    # To resume one that has ended short of success is to try it again.
                    status = events[-1].status
                    break
        counting.sum_up(run_id, events)
        self._sum_up(kind, status, events)

    async def _kill(self, process: Process) -> float | None:
        """Kill a process and return when that was, unless it ends by itself before."""
        calls = len(self._api.ledger.entries)
        early = self._numbers.random() < EARLY
        after = self._numbers.uniform(0, LIFE_SECONDS)
        while True:
            await anyio.sleep(0.001)
            if early or len(self._api.ledger.entries) > calls or process.returncode is not None:
                break
        with anyio.move_on_after(after):
            await process.wait()
            return None
        process.kill()
        return self._api.now()

    def _sum_up(self, kind: str, status: str, events: Sequence[Event]) -> None:
        calls = Counter(event.name for event in events if isinstance(event, CallFinished))
        self._outcome.runs[f"{kind} {status}"] += 1
        self._outcome.unended += status not in ("succeeded", "partial")
        self._outcome.unexplained += [
            f"{name} of a run {kind} {count} times" for name, count in calls.items() if count > 1
        ]
        self._outcome.undone += len(_done_again(events))


def _environment() -> dict[str, str]:
    """Return the environment of a process that starts as it does for users."""
    return {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


async def _lines(stream: TextReceiveStream) -> AsyncGenerator[str]:
    rest = ""
    async for text in stream:
        *lines, rest = (rest + text).split("\n")
        for line in lines:
            yield line


@asynccontextmanager
async def _opened(store: str, folder: str) -> AsyncGenerator[Journal]:
    async with open_postgres(store) if store else open_sqlite(Path(folder)) as journal:
        yield journal


async def all_runs(outcome: Outcome, store: str, lanes: int, calls: int, seed: int) -> None:
    """Begin runs, of each kind in turn, until so many calls were finished."""
    kinds = list(ORDERS)

    async def fill(lane: Lane, first: int) -> None:
        number = first
        while outcome.finished < calls:
            await lane.one_run(kinds[number % len(kinds)])
            number += 1

    async with AsyncExitStack() as stack:
        apis = [await stack.enter_async_context(serve_fake_api(BEHAVIOUR)) for _ in range(lanes)]
        async with anyio.create_task_group() as tasks:
            for number, api in enumerate(apis):
                lane = Lane(store, api, outcome, f"{seed} {number}")
                tasks.start_soon(fill, lane, number * len(kinds) // lanes)


def crash_figures(calls: int = CALLS, store: str = "sqlite", seed: int = 1) -> list[Figure]:
    """Measure what kills lose, and what they cost."""
    outcome = Outcome()
    with running_postgres() if store == "postgres" else nullcontext() as server:
        address = server.store() if server else ""
        anyio.run(all_runs, outcome, address, LANES[store], calls, seed)
    lives = statistics.mean(outcome.lives)
    detail = (
        f"{outcome.runs.total()} runs, {len(outcome.lives)} kills after {lives:.1f} s on average, "
        f"{outcome.finished} calls finished, {outcome.in_flight} in flight"
    )
    most = max(1, outcome.finished / 500)
    farthest = max(outcome.repeated, default=0.0)
    on = f"on {store}"
    return [
        Figure(f"killed runs without an end, {on}", outcome.unended, 0, unit="runs", detail=detail),
        Figure(f"results lost to kills, {on}", outcome.undone, 0, unit="results"),
        Figure(f"finished calls repeated, {on}", len(outcome.repeated), most, unit="calls"),
        Figure(
            f"tokens of killed runs that are in no usage, {on}",
            100 * outcome.uncounted / max(outcome.charged, 1),
            MOST_UNCOUNTED,
            unit="%",
            detail=f"of {outcome.charged:,}; if only calls that ended had a usage: "
            f"{100 * outcome.unreported / max(outcome.charged, 1):.1f} %",
        ),
        Figure(
            f"calls repeated without a reason, {on}",
            len(outcome.unexplained),
            0,
            unit="calls",
            detail="; ".join(outcome.unexplained),
        ),
        Figure(
            f"longest from a reply to the kill that lost it, {on}",
            1000 * farthest,
            1000 * WINDOW_SECONDS,
            unit="ms",
            detail=", ".join(f"{1000 * gap:.1f}" for gap in sorted(outcome.repeated)),
        ),
    ]


def main(calls: str = str(CALLS), store: str = "sqlite", seed: str = "1") -> None:
    """Print the figures."""
    for figure in crash_figures(int(calls), store, int(seed)):
        print(f"{figure.name}: {figure.value:g} {figure.unit} (≤ {figure.goal:g}). {figure.detail}")


if __name__ == "__main__":
    main(*sys.argv[1:])
