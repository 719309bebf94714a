"""Real processes killed in mid-run; the endpoint outside of them knows what was paid for."""

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from concertmaster.engine.events import CallFinished, CallProgressed, Event
from concertmaster.engine.steps import LONGEST_USAGE_SECONDS
from concertmaster.fake_api import Behaviour, serve_fake_api
from concertmaster.fake_api.app import ServedApi
from concertmaster.store.sqlite.store import SqliteJournal, open_sqlite
from processes import WORK, StdioServer, environment, output, running, runs_in
from services import service_in

pytestmark = pytest.mark.anyio

BEHAVIOUR = Behaviour(first_token_seconds=0.2, reply_tokens=50, subtasks=4)


@pytest.fixture
def anyio_backend() -> str:
    # The endpoint runs on asyncio alone.
    return "asyncio"


def command(
    folder: Path, api: ServedApi, *arguments: str, before: Sequence[str] = ()
) -> AbstractContextManager["subprocess.Popen[str]"]:
    return running(
        [*before, sys.executable, "-m", "concertmaster", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        env=environment(folder, settings(api) | {"TERM": "xterm"}),
    )


def settings(api: ServedApi) -> dict[str, str]:
    return {
        "CONCERTMASTER_API_KEY": "none",
        "CONCERTMASTER_BASE_URL": api.address,
        "CONCERTMASTER_RESUME_INTERRUPTED": "true",
    }


def calls(events: Sequence[Event]) -> list[str]:
    return [event.name for event in events if isinstance(event, CallFinished)]


async def killed_after(folder: Path, api: ServedApi, count: int) -> str:
    """Return the id of a run whose process was killed once so many of its calls were committed."""
    async with open_sqlite(folder) as journal:
        with command(folder, api, "run", "Do all of it", "--json") as process:
            return await killed_in(process, journal, count)


async def killed_in(process: "subprocess.Popen[str]", journal: SqliteJournal, count: int) -> str:
    while True:
        await journal.changed_elsewhere()
        for row in await journal.recent(1):
            if len(calls(await journal.events(row.run_id))) >= count:
                process.kill()
                await output(process)
                return row.run_id


async def events_of(folder: Path, run_id: str) -> Sequence[Event]:
    async with open_sqlite(folder) as journal:
        return await journal.events(run_id)


@pytest.mark.parametrize("count", [0, 3])
async def test_a_killed_run_goes_on_and_only_calls_that_were_under_way_are_made_again(
    tmp_path: Path, count: int
) -> None:
    async with serve_fake_api(BEHAVIOUR) as api:
        with anyio.fail_after(110):
            run_id = await killed_after(tmp_path, api, count)
            begun = len(api.ledger.entries)
            committed = calls(await events_of(tmp_path, run_id))
            with command(tmp_path, api, "resume", run_id, "--json") as process:
                told = await output(process)
        assert json.loads(told)["status"] == "succeeded"
        made = calls(await events_of(tmp_path, run_id))
        assert len(made) == len(set(made)) == 6
        assert len(api.ledger.entries) == begun + len(made) - len(committed)


SLOW = Behaviour(first_token_seconds=0.2, tokens_per_second=80, reply_tokens=500, subtasks=4)
"""Replies of six seconds."""


async def test_what_calls_had_taken_when_their_process_was_killed_is_counted(
    tmp_path: Path,
) -> None:
    async with serve_fake_api(SLOW) as api:
        with anyio.fail_after(180):
            run_id = await killed_once_written(tmp_path, api, tokens=100)
            killed = api.ledger.totals
            async with service_in(tmp_path) as service:
                lost = (await service.get(run_id)).usage
            with command(tmp_path, api, "resume", run_id, "--json") as process:
                printed = await output(process)
        assert json.loads(printed)["status"] == "succeeded"
        whole = api.ledger.totals
    async with service_in(tmp_path) as service:
        usage = (await service.get(run_id)).usage
    most_missing = 4 * SLOW.tokens_per_second * LONGEST_USAGE_SECONDS
    for counted, charged in ((lost, killed), (usage, whole)):
        read = charged.tokens_in + charged.cache_read + charged.cache_write
        assert counted.tokens_in + counted.cache_read + counted.cache_write == read
        assert charged.tokens_out - most_missing <= counted.tokens_out <= 2 * charged.tokens_out
    assert lost.estimated_out >= 4 * 100
    assert usage.usd is not None


async def killed_once_written(folder: Path, api: ServedApi, *, tokens: int) -> str:
    """Return the id of a run that was killed when four calls under way had so many tokens each."""
    async with open_sqlite(folder) as journal:
        with command(folder, api, "run", "Do all of it", "--json"):
            while True:
                await journal.changed_elsewhere()
                for row in await journal.recent(1):
                    written = {
                        event.step
                        for event in await journal.events(row.run_id)
                        if isinstance(event, CallProgressed)
                        and event.usage.tokens_out >= tokens
                        and event.subtask_id
                    }
                    if len(written) >= 4:
                        return row.run_id


@pytest.mark.skipif(sys.platform == "win32", reason="signals are not sent there")
async def test_a_server_that_is_told_to_end_writes_down_what_its_calls_under_way_bring(
    tmp_path: Path,
) -> None:
    async with serve_fake_api(BEHAVIOUR) as api:
        with anyio.fail_after(100):
            server = await anyio.to_thread.run_sync(StdioServer, tmp_path, settings(api))
            with server:
                server.call(2, "run_worker", WORK)
                while not api.ledger.entries:
                    await anyio.lowlevel.checkpoint()
                server.process.send_signal(signal.SIGTERM)
                assert await anyio.to_thread.run_sync(server.end) == 143
        assert len(api.ledger.entries) == 1
    (run,) = await runs_in(tmp_path)
    assert (run.status, run.usage.calls) == ("interrupted", 1)


async def test_a_server_takes_over_the_run_of_a_process_that_was_killed(tmp_path: Path) -> None:
    async with serve_fake_api(BEHAVIOUR) as api:
        with anyio.fail_after(110):
            server = await anyio.to_thread.run_sync(StdioServer, tmp_path, settings(api))
            with server:
                run_id = await killed_after(tmp_path, api, 2)
                async with service_in(tmp_path) as service:
                    while (await service.get(run_id)).status != "succeeded":
                        await service.wait(run_id, seconds=60)
                    assert (await service.get(run_id)).resumed == 1


ON_A_TERMINAL = [sys.executable, "-c", "import pty, sys; pty.spawn(sys.argv[1:])"]
"""Runs a command on a terminal, which is closed when this is killed."""


@pytest.mark.skipif(sys.platform == "win32", reason="signals are not sent there")
@pytest.mark.parametrize("terminal", [[], ON_A_TERMINAL])
async def test_calls_under_way_end_when_a_command_is_told_to_end_or_its_terminal_is_closed(
    tmp_path: Path, terminal: list[str]
) -> None:
    async with serve_fake_api(BEHAVIOUR) as api:
        with anyio.fail_after(100):
            with command(tmp_path, api, "run", "Do all of it", before=terminal) as process:
                while len(api.ledger.entries) < 3:
                    await anyio.lowlevel.checkpoint()
                process.send_signal(signal.SIGKILL if terminal else signal.SIGTERM)
                await output(process)
                assert process.returncode == (-9 if terminal else 143)
            run_id = await ended(tmp_path)
            begun = len(api.ledger.entries)
        made = calls(await events_of(tmp_path, run_id))
        assert len(made) == begun
        with command(tmp_path, api, "resume", run_id, "--json") as process:
            told = await output(process)
        assert json.loads(told)["status"] == "succeeded"
        assert len(api.ledger.entries) == 6


async def ended(folder: Path) -> str:
    """Return the id of the only run once its process has ended."""
    async with open_sqlite(folder) as journal:
        while True:
            (row,) = await journal.recent(1)
            if not row.alive:
                return row.run_id
