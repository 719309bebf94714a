"""What runs of every kind lose when their process is killed at random moments.

Their calls are counted outside of that process, by the scripted endpoint. To kill a hundred:
`uv run benchmarks/crashes.py 100`, with a seed as the next argument. With `drive`, this file is
the process that is killed.
"""

import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import anyio
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream

from concertmaster.cli.wiring import open_runs
from concertmaster.engine.plans.plan import Plan
from concertmaster.engine.record.events import CallFinished, Event, SubtaskFinished, SubtaskStarted
from concertmaster.fake_api import Behaviour, serve_fake_api
from concertmaster.fake_api.ledger import Ledger
from concertmaster.runs.orders import Order, RunOrder, WorkerOrder
from concertmaster.runs.sqlite_store import open_sqlite
from concertmaster.settings import Settings
from measure import Figure

KILLS = 10
COMMIT_SECONDS = 0.1
"""How long the reply of a call may take from the endpoint to the disk."""
LIFE_SECONDS = 10.0
"""How long after its first call a process may live that is to be killed."""
EARLY = 0.1
"""The share of the processes whose life may end before their first call."""
MOST_KILLS = 3
"""How often one run is killed."""
BEHAVIOUR = Behaviour(first_token_seconds=0.2, tokens_per_second=400, reply_tokens=400, subtasks=40)


def _subtask(number: int, *depends_on: str, **strategy: object) -> dict[str, object]:
    return {
        "id": f"s{number}",
        "worker": "analyst",
        "objective": f"Do part {number}.",
        "depends_on": depends_on,
        "decisive": number == 1,
        "strategy": {"kind": "single"} | strategy,
    }


STRATEGIES = Plan.model_validate(
    {
        "subtasks": [
            _subtask(1, kind="revise", critic="reviewer", rounds=2),
            _subtask(2, kind="vote", decide="judge", answers=3),
            _subtask(3, "s1", kind="vote", decide="rubric", answers=2, criteria=[{"name": "x"}]),
            _subtask(4, "s2", kind="vote", decide="consensus", answers=2),
            _subtask(5, kind="map", over="contexts", contexts=[{"in": "de"}, {"in": "fr"}]),
        ]
    }
)
ORDERS: dict[str, Order] = {
    "static": RunOrder(task="all of it", mode="static"),
    "adaptive": RunOrder(task="all of it", mode="adaptive"),
    "auto": RunOrder(task="all of it"),
    "strategies": RunOrder(task="all of it", plan=STRATEGIES),
    "verified": RunOrder(task="all of it", plan=STRATEGIES, verify="mend"),
    "worker": WorkerOrder(worker="analyst", task="part of it"),
}


async def drive(folder: str, address: str, name: str, run_id: str = "") -> None:
    """Begin a run, or go on with one, and take it to its end."""
    flags = {
        "api_key": "none",
        "base_url": address,
        "data_folder": Path(folder),
        "max_subtasks": 40,
    }
    async with open_runs(Settings.load(flags), roots=()) as service:
        if run_id:
            state = await service.resume(run_id, by="the next process")
        else:
            state = await service.start(ORDERS[name])
        _say(state.run_id)
        state = await service.wait(state.run_id, seconds=600)
        _say(state.status)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


@dataclass(slots=True)
class Outcome:
    """What became of the runs, summed over them."""

    runs: int = 0
    kills: int = 0
    unended: int = 0
    lost: int = 0
    """Subtasks that had succeeded, and were done again or are not there."""
    finished: int = 0
    """Calls whose whole reply had been sent before a kill."""
    recent: int = 0
    """How many of them so shortly before that their reply may not have been committed."""
    in_flight: int = 0
    """Calls that were under way at a kill."""
    repeated: int = 0
    """Finished calls that were made again."""
    beyond: int = 0
    """How many of them more than could be by the time that a commit takes."""
    by_kind: dict[str, int] = field(default_factory=dict[str, int])


class Killing:
    """Kills the processes of one run, and counts what was paid for."""

    def __init__(self, ledger: Ledger, outcome: Outcome) -> None:
        self._ledger = ledger
        self._outcome = outcome
        self._begins_at = len(ledger.entries)
        self._finished: set[str] = set()
        self._in_flight: set[str] = set()
        self._recent = 0

    def _whole(self) -> set[str]:
        entries = self._ledger.entries[self._begins_at :]
        return {entry.request_id for entry in entries if entry.whole}

    async def kill(self, process: Process, *, early: bool, after: float) -> None:
        """Kill a process after some seconds, unless it has ended by itself.

        They begin with its first call; with `early`, with the process.
        """
        calls = len(self._ledger.entries)
        while True:
            await anyio.sleep(0.001)
            if early or len(self._ledger.entries) > calls or process.returncode is not None:
                break
        await anyio.sleep(after)
        settled = self._whole()
        await anyio.sleep(COMMIT_SECONDS)
        if process.returncode is not None:
            return
        process.kill()
        whole = self._whole()
        begun = {entry.request_id for entry in self._ledger.entries[self._begins_at :]}
        self._outcome.kills += 1
        self._outcome.finished += len(whole - self._finished)
        self._outcome.in_flight += len(begun - whole - self._in_flight)
        self._finished = whole
        self._in_flight |= begun - whole
        self._recent += len(whole - settled)

    def take_in(self, events: Sequence[Event]) -> None:
        """Compare what was paid for with what the journal has."""
        committed = sum(isinstance(event, CallFinished) for event in events)
        repeated = len(self._whole() - self._in_flight) - committed
        # What was in flight at a kill may have come to its end as well, and be committed.
        self._outcome.repeated += max(0, repeated)
        self._outcome.beyond += max(0, repeated - self._recent)
        self._outcome.recent += self._recent
        self._outcome.lost += len(_done_again(events))


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


async def one_run(
    name: str, address: str, ledger: Ledger, outcome: Outcome, numbers: random.Random
) -> None:
    """Take one run to its end, through as many processes as it takes."""
    killing = Killing(ledger, outcome)
    with tempfile.TemporaryDirectory() as folder:
        run_id, status = "", ""
        for life in range(MOST_KILLS + 1):
            command = [sys.executable, __file__, "drive", folder, address, name, run_id]
            async with await anyio.open_process(command, stderr=None) as process:
                assert process.stdout is not None
                lines = _lines(TextReceiveStream(process.stdout))
                run_id = await anext(lines)
                if life < MOST_KILLS:
                    early, after = numbers.random() < EARLY, numbers.uniform(0, LIFE_SECONDS)
                    await killing.kill(process, early=early, after=after)
                async for line in lines:
                    status = line
            if status:
                break
        async with open_sqlite(Path(folder)) as journal:
            killing.take_in(await journal.events(run_id))
    outcome.runs += 1
    outcome.unended += status not in ("succeeded", "partial")
    outcome.by_kind[f"{name} {status}"] = outcome.by_kind.get(f"{name} {status}", 0) + 1


async def _lines(stream: TextReceiveStream):
    rest = ""
    async for text in stream:
        *lines, rest = (rest + text).split("\n")
        for line in lines:
            yield line


async def all_runs(outcome: Outcome, kills: int, seed: int) -> None:
    """Begin one run after another, of each kind in turn, until there were so many kills."""
    numbers = random.Random(seed)
    names = list(ORDERS)
    async with serve_fake_api(BEHAVIOUR) as api:
        while outcome.kills < kills:
            name = names[outcome.runs % len(names)]
            await one_run(name, api.address, api.ledger, outcome, numbers)


def crash_figures(kills: int = KILLS, seed: int = 1) -> list[Figure]:
    """Measure what kills lose, and what they cost."""
    outcome = Outcome()
    anyio.run(all_runs, outcome, kills, seed)
    detail = (
        f"{outcome.runs} runs, {outcome.kills} kills, {outcome.finished} calls finished before, "
        f"{outcome.recent} of them just before, {outcome.in_flight} in flight"
    )
    most = max(1, outcome.finished / 500)
    return [
        Figure("killed runs without an end", outcome.unended, 0, unit="runs", detail=detail),
        Figure("results lost to kills", outcome.lost, 0, unit="results"),
        Figure("finished calls repeated", outcome.repeated, most, unit="calls"),
        Figure("repeated though not just finished", outcome.beyond, 0, unit="calls"),
    ]


if __name__ == "__main__":
    if sys.argv[1:2] == ["drive"]:
        anyio.run(partial(drive, *sys.argv[2:]))
    else:
        for figure in crash_figures(*map(int, sys.argv[1:])):
            print(f"{figure.name}: {figure.value:g} {figure.unit}. {figure.detail}")
