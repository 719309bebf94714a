"""A whole run of workers that each make one call. Arguments: base URL, number of workers."""

import sys
import tempfile
from pathlib import Path

import anyio

from concertmaster.cli.wiring import open_run_service
from concertmaster.engine.plan import Plan, Subtask
from concertmaster.runs.orders import RunOrder
from concertmaster.settings import Settings


async def main(base_url: str, workers: int) -> None:
    """Run one subtask per worker; the last call is the synthesis."""
    subtasks = tuple(
        Subtask(id=f"s{number}", worker="analyst", objective="Do your part. " * 100)
        for number in range(workers)
    )
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(api_key="none", base_url=base_url, data_folder=Path(folder))
        async with open_run_service(settings) as service:
            state = await service.start(RunOrder(task="t", plan=Plan(subtasks=subtasks)))
            state = await service.wait(state.run_id, seconds=60)
            assert state.status == "succeeded", state


anyio.run(main, sys.argv[1], int(sys.argv[2]) - 1)
