"""Processes that work on the runs of one Postgres, and what becomes of their runs."""

import os
import signal
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import IO, cast

import anyio
import anyio.lowlevel
import pytest

from building import setup
from concertmaster.cli import bootstrap as wiring
from concertmaster.fake_api import Behaviour, serve_fake_api
from concertmaster.runs.intake import RunPolicy
from concertmaster.runs.orders import RunOrder, WorkerOrder
from concertmaster.runs.service import open_service
from concertmaster.settings.load import Settings
from concertmaster.store.journal import Journal
from concertmaster.store.postgres.store import open_postgres
from fakes import FakeLLM
from postgres import Postgres
from processes import running, silent_provider, wait

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals"),
]


@contextmanager
def working(environment: Mapping[str, str]) -> Generator[subprocess.Popen[str]]:
    """Run a process that works, and wait until it does."""
    command = [sys.executable, "-m", "concertmaster", "work"]
    env = {**os.environ, **environment}
    with running(command, env=env, stderr=subprocess.PIPE) as process:
        assert "Working on" in cast("IO[str]", process.stderr).readline()
        yield process


async def taken_up(journal: Journal, run_id: str, *, epoch: int) -> None:
    """Return when a process is at work on a run for so many times."""
    with anyio.fail_after(100):
        while (row := await journal.row(run_id)).epoch < epoch or not row.alive:
            await journal.changed_elsewhere(run_id)


@pytest.fixture
def anyio_backend() -> str:
    # The endpoint runs on asyncio alone.
    return "asyncio"


async def test_a_process_that_is_told_to_end_lets_its_calls_end_and_none_is_made_again(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    behaviour = Behaviour(first_token_seconds=0.7, reply_tokens=10, subtasks=4)
    async with serve_fake_api(behaviour) as api:
        settings = {
            "CONCERTMASTER_API_KEY": "none",
            "CONCERTMASTER_BASE_URL": api.address,
            "CONCERTMASTER_STORE": postgres.store(),
        }
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        loaded = Settings.load({})
        with working(settings) as first:
            async with wiring.open_runs(loaded, roots=(), part="accepts") as door:
                run_id = (await door.start(RunOrder(task="Do all of it"))).run_id
                with anyio.fail_after(100):
                    # The plan is there, and its subtasks are being done.
                    while len(api.ledger.entries) < 3:
                        await anyio.lowlevel.checkpoint()
                async with (
                    wiring.open_runs(loaded, roots=(), part="works") as second,
                    wiring.tending(second, loaded.settings, part="works"),
                ):
                    first.send_signal(signal.SIGTERM)
                    with anyio.fail_after(100):
                        while second.room.load == 0:
                            await anyio.lowlevel.checkpoint()
                    state = await door.wait(run_id, seconds=60)
            assert await wait(first) == 0
    assert (state.status, state.resumed) == ("succeeded", 1)
    assert len(api.ledger.entries) == state.usage.attempts == 6


@pytest.mark.parametrize(
    ("sent", "status"), [(signal.SIGTERM, 0), (signal.SIGHUP, 0), (signal.SIGKILL, -9)]
)
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
                assert first.wait(60) == status
                await taken_up(journal, state.run_id, epoch=3)
                assert (await service.get(state.run_id)).status == "running"
