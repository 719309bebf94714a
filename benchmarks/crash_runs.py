"""A process that takes one run to its end unless it is killed: what `crashes.py` kills.

Arguments: data folder, store or nothing for SQLite, base URL, kind of run, and the run to go
on with if there is one.
"""

import sys
from functools import partial
from pathlib import Path

import anyio

from concertmaster.cli.bootstrap import open_runs
from concertmaster.engine.plan.plan import Plan
from concertmaster.runs.orders import Order, RunOrder, WorkerOrder
from concertmaster.runs.service import RunService
from concertmaster.runs.state import RunState
from concertmaster.settings.load import Settings

WAIT_SECONDS = 600


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
WIDE = Plan.model_validate(
    {"subtasks": [_subtask(number) for number in range(1, 51)], "mode": "static"}
)
ORDERS: dict[str, Order] = {
    "wide": RunOrder(task="all of it", plan=WIDE),
    "static": RunOrder(task="all of it", mode="static"),
    "adaptive": RunOrder(task="all of it", mode="adaptive"),
    "auto": RunOrder(task="all of it"),
    "strategies": RunOrder(task="all of it", plan=STRATEGIES),
    "verified": RunOrder(task="all of it", plan=STRATEGIES, verify="mend"),
    "guarded": RunOrder(task="all of it", plan=WIDE, guard="reviewer"),
    "worker": WorkerOrder(worker="analyst", task="part of it"),
}


async def main(folder: str, store: str, address: str, kind: str, run_id: str = "") -> None:
    """Begin a run, or go on with one, and take it to its end."""
    flags: dict[str, object] = {
        "api_key": "none",
        "base_url": address,
        "data_folder": Path(folder),
        "max_subtasks": 50,
        "budget_usd": 100,
    }
    if store:
        flags["store"] = store
    async with open_runs(Settings.load(flags), roots=()) as service:
        state = await _begun(service, kind, run_id)
        _say(state.run_id)
        state = await service.wait(state.run_id, seconds=WAIT_SECONDS)
        _say(state.status)


async def _begun(service: RunService, kind: str, run_id: str) -> RunState:
    if not run_id:
        return await service.start(ORDERS[kind])
    # On Postgres, a process that was killed counts as alive for some seconds.
    await service.wait(run_id, seconds=WAIT_SECONDS)
    return await service.resume(run_id, by="the next process")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    anyio.run(partial(main, *sys.argv[1:]))
