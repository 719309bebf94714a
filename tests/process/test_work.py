"""Processes that work on the runs of one Postgres, and what becomes of their runs."""

import os
import signal
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import IO, cast

import anyio
import pytest

from building import setup
from concertmaster.runs.intake import RunPolicy
from concertmaster.runs.journal import Journal
from concertmaster.runs.orders import WorkerOrder
from concertmaster.runs.postgres_store import open_postgres
from concertmaster.runs.service import open_service
from fakes import FakeLLM
from postgres import Postgres
from processes import silent_provider

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals"),
]


@contextmanager
def working(environment: Mapping[str, str]) -> Generator[subprocess.Popen[str]]:
    """Run a process that works, and wait until it does."""
    command = [sys.executable, "-m", "concertmaster", "work"]
    with subprocess.Popen(
        command, env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert "Working on" in cast("IO[str]", process.stderr).readline()
            yield process
        finally:
            process.kill()


async def taken_up(journal: Journal, run_id: str, *, epoch: int) -> None:
    """Return when a process is at work on a run for so many times."""
    with anyio.fail_after(30):
        while (row := await journal.row(run_id)).epoch < epoch or not row.alive:
            await journal.changed_elsewhere(run_id)


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGTERM, 0), (signal.SIGKILL, -9)])
async def test_the_runs_of_a_process_that_ends_go_on_in_another(
    postgres: Postgres, sent: signal.Signals, status: int
) -> None:
    url = postgres.store()
    policy = RunPolicy(runs_here=0)
    with silent_provider() as provider, working({**provider, "CONCERTMASTER_STORE": url}) as first:
        async with (
            open_postgres(url) as journal,
            open_service(journal=journal, setup=setup(FakeLLM()), policy=policy) as service,
        ):
            state = await service.start(WorkerOrder(worker="analyst", task="think"))
            await taken_up(journal, state.run_id, epoch=2)
            with working({**provider, "CONCERTMASTER_STORE": url}):
                first.send_signal(sent)
                assert first.wait(10) == status
                await taken_up(journal, state.run_id, epoch=3)
                assert (await service.get(state.run_id)).status == "running"
