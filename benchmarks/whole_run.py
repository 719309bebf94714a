"""A whole run whose workers make one call each. Arguments: base URL, number of calls."""

import sys
import tempfile
from pathlib import Path

import anyio

from concertmaster.cli.wiring import open_runs
from concertmaster.engine.plan import Plan, Subtask
from concertmaster.runs.orders import RunOrder
from concertmaster.settings import Settings


async def main(base_url: str, calls: int) -> None:
    """Run a plan of as many workers, the last call being the synthesis where there are several."""
    subtasks = tuple(
        Subtask(id=f"s{number}", worker="analyst", objective="Do your part. " * 100)
        for number in range(max(1, calls - 1))
    )
    with tempfile.TemporaryDirectory() as folder:
        flags = {"api_key": "none", "base_url": base_url, "data_folder": Path(folder)}
        async with open_runs(Settings.load(flags), roots=()) as service:
            state = await service.start(RunOrder(task="t", plan=Plan(subtasks=subtasks)))
            state = await service.wait(state.run_id, seconds=60)
            assert state.status == "succeeded", state
            assert state.usage.calls == calls, state.usage


anyio.run(main, sys.argv[1], int(sys.argv[2]))
