"""Whole runs whose workers make one call each. Argument: base URL."""

import sys
import tempfile
import time
from pathlib import Path

import anyio

from concertmaster.cli.bootstrap import open_runs
from concertmaster.engine.plan.plan import Plan, Subtask
from concertmaster.runs.orders import RunOrder
from concertmaster.runs.service import RunService
from concertmaster.settings.load import Settings


async def run(service: RunService, workers: int) -> None:
    """Run a plan of so many workers; where there are several, the last call is the synthesis."""
    subtasks = tuple(
        Subtask(id=f"s{number}", worker="analyst", objective="Do your part. " * 100)
        for number in range(workers)
    )
    state = await service.start(RunOrder(task="t", plan=Plan(subtasks=subtasks)))
    state = await service.wait(state.run_id, seconds=60)
    assert state.status == "succeeded", state
    assert state.usage.calls == workers + (workers > 1), state.usage


async def main(base_url: str) -> None:
    """Print the CPU seconds of 5 runs of 51 calls, eight at a time, after one to warm up."""
    with tempfile.TemporaryDirectory() as folder:
        flags = {"api_key": "none", "base_url": base_url, "data_folder": Path(folder)}
        async with open_runs(Settings.load(flags), roots=()) as service:
            await run(service, 1)
            started = time.process_time()
            for _ in range(5):
                await run(service, 50)
            sys.stdout.write(str(time.process_time() - started))


anyio.run(main, sys.argv[1])
