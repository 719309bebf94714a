"""Two processes on one journal: many runs at once, and one that takes over when the other dies.

Run by itself with `work` or `wait`, this file is one of the processes.
"""

import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path

import anyio
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream

from concertmaster.cli.bootstrap import open_runs, part_of, tending
from concertmaster.engine.events import RunResumed
from concertmaster.fake_api import Behaviour, serve_fake_api
from concertmaster.runs.orders import RunOrder, WorkerOrder
from concertmaster.settings.load import LoadedSettings, Settings
from concertmaster.store.journal import Journal
from concertmaster.store.sqlite.store import open_sqlite
from concertmaster.tools.inputs import InlineInput
from measure import Figure

RUNS = 50
TAKEOVERS = 5
TEXT = InlineInput(name="a.md", text="# Duties\n\nYou must pay 10 USD by 2026-01-01.\n")


async def work(folder: str) -> None:
    """Do many runs at once, and print how many of them did not succeed."""
    loaded = Settings.load({"offline": True, "data_folder": Path(folder)})
    async with open_runs(loaded, roots=()) as service:
        order = RunOrder(task="Summarize the duties", inputs=(TEXT,))
        states = await anyio.amap(lambda _: service.start(order), range(RUNS))
        ends = await anyio.amap(lambda state: service.wait(state.run_id, seconds=600), states)
        _say(str(sum(state.status != "succeeded" for state in ends)))


async def wait(folder: str, address: str, begins: str) -> None:
    """Begin a run that does not end, or be there to take one over."""
    loaded = connected(folder, address)
    part = part_of(loaded.settings)
    async with open_runs(loaded, roots=(), part=part) as service:
        if begins == "begins":
            state = await service.start(WorkerOrder(worker="analyst", task="think"))
            _say(state.run_id)
            await anyio.sleep_forever()
        async with tending(service, loaded.settings, part=part):
            _say("ready")
            await anyio.sleep_forever()


def connected(folder: str, address: str) -> LoadedSettings:
    """Return settings with an endpoint, under which runs are taken over."""
    return Settings.load(
        {
            "api_key": "none",
            "base_url": address,
            "data_folder": Path(folder),
            "resume_interrupted": True,
        }
    )


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def lines(process: Process) -> AsyncGenerator[str]:
    """Yield what a process prints."""
    assert process.stdout is not None
    rest = ""
    async for text in TextReceiveStream(process.stdout):
        *whole, rest = (rest + text).split("\n")
        for line in whole:
            yield line


async def open_other(*arguments: str) -> Process:
    """Start this file as another process."""
    return await anyio.open_process([sys.executable, __file__, *arguments], stderr=None)


async def runs_at_once() -> int:
    """Return how many runs of two processes do not succeed."""
    with tempfile.TemporaryDirectory() as folder:
        processes = [await open_other("work", folder) for _ in range(2)]

        async def failed(process: Process) -> int:
            async for line in lines(process):
                return int(line)
            return RUNS

        failures = await anyio.amap(failed, processes)
        for process in processes:
            await process.aclose()
        return sum(failures)


async def takeover_seconds(address: str) -> float:
    """Return how long it takes from the death of a process until another drives its run."""
    with tempfile.TemporaryDirectory() as folder:
        other = await open_other("wait", folder, address, "")
        owner = await open_other("wait", folder, address, "begins")
        run_id = await anext(lines(owner))
        await anext(lines(other))
        owner.kill()
        killed = time.time()
        async with open_sqlite(Path(folder)) as journal:
            with anyio.fail_after(30):
                taken_over = await _taken_over(journal, run_id)
        other.kill()
        await other.aclose()
        await owner.aclose()
        return taken_over - killed


async def _taken_over(journal: Journal, run_id: str) -> float:
    """Return when a run has gone on, in Unix seconds."""
    while True:
        for event in await journal.events(run_id):
            if isinstance(event, RunResumed):
                return event.at
        await anyio.sleep(0.05)


async def takeovers() -> list[float]:
    """Return how long some takeovers take."""
    async with serve_fake_api(Behaviour(first_token_seconds=600)) as api:
        return [await takeover_seconds(api.address) for _ in range(TAKEOVERS)]


def sharing_figures() -> list[Figure]:
    """Measure what two processes on one journal do to each other."""
    seconds = anyio.run(takeovers)
    return [
        Figure(
            "runs lost by two processes at once",
            anyio.run(runs_at_once),
            0,
            unit="runs",
            detail=f"2 x {RUNS} runs",
        ),
        Figure(
            "takeover of a dead process's run",
            max(seconds) * 1000,
            1000,
            unit="ms",
            detail=f"the longest of {TAKEOVERS}; mean {sum(seconds) / TAKEOVERS * 1000:.0f} ms",
        ),
    ]


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["work", *arguments]:
            anyio.run(partial(work, *arguments))
        case ["wait", *arguments]:
            anyio.run(partial(wait, *arguments))
        case _:
            for figure in sharing_figures():
                print(f"{figure.name}: {figure.value:g} {figure.unit}. {figure.detail}")
