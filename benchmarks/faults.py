"""What runs of fifty subtasks lose when their provider fails in every way at random.

And what several runs lose that are under way together, when single replies are odd.
"""

import tempfile
from collections import Counter
from pathlib import Path

import anyio

from concertmaster.cli.bootstrap import open_runs
from concertmaster.engine.conversation import judge_reply
from concertmaster.engine.events import CallFinished
from concertmaster.engine.plan.plan import Plan, Subtask
from concertmaster.fake_api import Behaviour, parse_faults, serve_fake_api
from concertmaster.runs.orders import RunOrder
from concertmaster.runs.state import RunState
from concertmaster.settings.load import Settings
from concertmaster.store.sqlite.store import open_sqlite
from measure import Figure

SUBTASKS = 50
SEEDS = (1, 2, 3)
COUNTS = ("tokens_in", "cache_read", "cache_write")
TOGETHER = 4
"""Runs under way at the same time, of SUBTASKS_TOGETHER subtasks each."""
SUBTASKS_TOGETHER = 16
ODD = "not_a_stream=0.04,redirect=0.04,forbidden=0.04"
PLAN = Plan(
    subtasks=tuple(
        Subtask(id=f"s{number}", worker="researcher", objective=f"Do part {number}.")
        for number in range(SUBTASKS_TOGETHER)
    )
)


class Outcome:
    """What became of runs, summed over them."""

    def __init__(self) -> None:
        self.lost = 0
        """Results that had come and are not there, and subtasks that have no end."""
        self.miscounted = 0
        """Tokens and requests by which usage and ledger differ, but for what is estimated."""
        self.dishonest = 0
        """Runs whose status is not what their results are."""
        self.requests = 0
        self.faults = 0


async def run_together(seed: int, spread: "Spread") -> None:
    """Have the endpoint send odd replies to single calls of several runs."""
    behaviour = Behaviour(
        faults=parse_faults(ODD), seed=seed, reply_tokens=40, first_token_seconds=0.05
    )
    with tempfile.TemporaryDirectory() as folder:
        async with serve_fake_api(behaviour) as api:
            flags = {"api_key": "none", "base_url": api.address, "data_folder": Path(folder)}
            flags |= {"max_subtasks": SUBTASKS_TOGETHER}
            async with open_runs(Settings.load(flags), roots=()) as service:
                orders = [RunOrder(task=f"part {n}", plan=PLAN) for n in range(TOGETHER)]
                begun = [await service.start(order) for order in orders]
                ended = [await service.wait(state.run_id, seconds=600) for state in begun]
        met = Counter(entry.fault for entry in api.ledger.entries)
    missing = sum(SUBTASKS_TOGETHER - len(succeeded(state)) for state in ended)
    spread.subtasks += SUBTASKS_TOGETHER * TOGETHER
    spread.missing += missing
    spread.forbidden += met["forbidden"]
    spread.odd += met.total() - met[None]


class Spread:
    """How far the odd replies of single calls reached, summed over runs."""

    def __init__(self) -> None:
        self.subtasks = 0
        self.missing = 0
        """Subtasks without a result."""
        self.forbidden = 0
        """Odd replies that end their own call."""
        self.odd = 0


async def run(seed: int, outcome: Outcome) -> None:
    """Have the endpoint plan a run and take it to its end, whatever happens."""
    behaviour = Behaviour(
        faults=parse_faults("all=0.3"), seed=seed, subtasks=SUBTASKS, silence_seconds=3600
    )
    with tempfile.TemporaryDirectory() as folder:
        async with serve_fake_api(behaviour) as api:
            flags = {
                "api_key": "none",
                "base_url": api.address,
                "data_folder": Path(folder),
                "idle_seconds": 2,
                "max_subtasks": SUBTASKS,
            }
            async with open_runs(Settings.load(flags), roots=()) as service:
                state = await service.start(RunOrder(task="all of it"))
                state = await service.wait(state.run_id, seconds=600)
        ledger = api.ledger
        outcome.requests += len(ledger.entries)
        outcome.faults += sum(entry.fault is not None for entry in ledger.entries)
        outcome.miscounted += abs(state.usage.attempts - ledger.totals.requests)
        outcome.miscounted += sum(
            abs(getattr(state.usage, name) - getattr(ledger.totals, name)) for name in COUNTS
        )
        too_many = state.usage.tokens_out - ledger.totals.tokens_out
        outcome.miscounted += max(-too_many, too_many - state.usage.estimated_out, 0)
        outcome.lost += len(await answered(Path(folder), state) ^ succeeded(state))
        outcome.dishonest += not honest(state)


async def answered(folder: Path, state: RunState) -> set[str]:
    """Return the subtasks that got a reply as it should be."""
    async with open_sqlite(folder) as journal:
        events = await journal.events(state.run_id)
    return {
        event.subtask_id
        for event in events
        if isinstance(event, CallFinished)
        and event.subtask_id is not None
        and judge_reply(event.reply, None).status == "succeeded"
    }


def succeeded(state: RunState) -> set[str]:
    """Return the subtasks that claim to have a whole result."""
    return {name for name, item in state.subtasks.items() if item.status == "succeeded"}


def honest(state: RunState) -> bool:
    """Tell whether the run is over and says no more and no less than is true."""
    missing = [name for name in state.subtasks if name not in succeeded(state)]
    named = all(any(f"{name} " in reason for reason in state.reasons) for name in missing)
    if not state.subtasks:
        return state.status == "failed"
    return named and state.status == ("partial" if state.reasons else "succeeded")


async def all_runs(outcome: Outcome, spread: Spread) -> None:
    """Run with one seed after another."""
    for seed in SEEDS:
        await run(seed, outcome)
        await run_together(seed, spread)


def fault_figures() -> list[Figure]:
    """Measure what is lost or miscounted."""
    outcome, spread = Outcome(), Spread()
    anyio.run(all_runs, outcome, spread)
    detail = f"{len(SEEDS)} runs, {outcome.requests} requests, {outcome.faults} faults"
    return [
        Figure("results lost to faults", outcome.lost, 0, unit="results", detail=detail),
        Figure("usage beside the ledger", outcome.miscounted, 0, unit="tokens", detail=detail),
        Figure("runs with a status that is not true", outcome.dishonest, 0, unit="runs"),
        Figure(
            "subtasks that failed by another's reply",
            max(spread.missing - spread.forbidden, 0),
            0,
            unit="subtasks",
            detail=f"of {spread.subtasks}; {spread.odd} odd replies, {spread.missing} failed",
        ),
    ]


if __name__ == "__main__":
    for figure in fault_figures():
        print(f"{figure.name}: {figure.value} {figure.unit} ({figure.detail})")
