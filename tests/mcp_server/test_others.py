"""Clients are told what other processes do to the runs that they watch."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn

import anyio
import pytest
from mcp import MCPError

from clients import ERAS, Connection, connected, watching
from concertmaster.errors import StoreError
from concertmaster.mcp_server import subscriptions as others
from concertmaster.mcp_server import tasks
from concertmaster.runs.executor import Elsewhere
from concertmaster.runs.orders import WorkerOrder
from fakes import Script, plan_json, subtask
from postgres import Postgres
from stores import Store, a_store
from taking_tasks import TakesTasks, handed_out
from watching import Heard, Held, listening

pytestmark = pytest.mark.anyio

WORK = WorkerOrder(worker="analyst", task="x")
by_era = pytest.mark.parametrize("mode", ERAS)


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path, postgres: Postgres) -> Store:
    return a_store(request.param, tmp_path / "data", postgres)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at once."""
    monkeypatch.setattr(others, "PAUSE_SECONDS", 0)


@asynccontextmanager
async def watcher(
    folder: Path, mode: str = "auto", **options: Any
) -> AsyncGenerator[tuple[Connection, Heard]]:
    """Connect a client that hears of changes to a server that drives no run."""
    heard = Heard()
    with anyio.fail_after(60):
        async with connected(
            folder, mode=mode, message_handler=heard.handle, **options
        ) as connection:
            yield connection, heard


async def subtasks_ended(connection: Connection, run_id: str, count: int) -> None:
    """Return once the journal, which the run does not wait for, says that so many have ended."""
    while True:
        run = await connection.ask("get_run", run_id=run_id)
        if f"{count} of {len(run['subtasks'])} subtasks ended" in run["progress"]:
            return


@by_era
async def test_a_client_hears_what_another_process_does_to_a_run(
    mode: str, store: Store, tmp_path: Path
) -> None:
    held = Held()
    plan = plan_json(subtask("s1"), subtask("s2", "critic", depends_on=("s1",)))
    scripts: dict[str, Script] = {"planner": plan, "worker:critic": held, "synthesizer": "All well"}
    async with (
        connected(tmp_path, scripts, store=store) as other,
        watcher(tmp_path, mode, store=store) as (here, heard),
    ):
        run = await other.ask("run_orchestration", task="x", wait_seconds=0)
        await held.asked.wait()
        await subtasks_ended(here, run["run_id"], 1)
        uri = f"runs://{run['run_id']}"
        ended = [f"{uri}/subtasks/s1"]
        wanted = [uri, f"{uri}/trace", f"{uri}/subtasks/s2", f"{uri}/answer"]
        async with watching(here.client, mode, [*wanted, *ended]):
            held.may_answer.set()
            for changed in wanted:
                await heard.until(changed)
    assert set(heard.uris) == set(wanted)


@by_era
async def test_a_client_hears_of_the_runs_that_another_process_begins(
    mode: str, store: Store, tmp_path: Path
) -> None:
    async with (
        connected(tmp_path, store=store) as other,
        watcher(tmp_path, mode, store=store) as (here, heard),
        watching(here.client, mode, ["runs://recent"]),
    ):
        await other.ask("run_worker", worker="analyst", task="x")
        await heard.until("runs://recent")
    assert set(heard.uris) == {"runs://recent"}


async def test_a_client_hears_that_the_process_of_a_run_has_ended(
    store: Store, tmp_path: Path
) -> None:
    held = Held()
    async with watcher(tmp_path, store=store) as (here, heard), AsyncExitStack() as other:
        connection = await other.enter_async_context(
            connected(tmp_path, {"worker:analyst": held}, store=store)
        )
        run_id = (await connection.service.start(WORK)).run_id
        await held.asked.wait()
        async with watching(here.client, "auto", [f"runs://{run_id}"]):
            heard.uris.clear()
            await other.aclose()
            await heard.until(f"runs://{run_id}")
            while (await here.service.get(run_id)).status != "interrupted":
                heard.uris.clear()
                await heard.until(f"runs://{run_id}")


async def test_a_client_hears_how_its_task_comes_along_in_another_process(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "GRACE_SECONDS", 0)
    held, takes = Held(), TakesTasks()
    async with (
        connected(
            tmp_path, {"worker:analyst": held}, store=store, extensions=[TakesTasks()]
        ) as other,
        watcher(tmp_path, store=store, extensions=[takes]) as (here, heard),
    ):
        task = await handed_out(other.client, "run_worker", worker="analyst", task="x")
        async with listening(here.client, heard, taskIds=[task.task_id]):
            held.may_answer.set()
            news = await takes.until("completed")
    assert news.task_id == task.task_id


@by_era
async def test_the_store_is_looked_at_only_while_somebody_watches(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = anyio.Event()
    may_look = anyio.Semaphore(0)

    async def changed(_: Elsewhere) -> None:
        waits.set()
        await may_look.acquire()

    monkeypatch.setattr(Elsewhere, "changed", changed)
    async with watcher(tmp_path, mode) as (here, _):
        await here.ask("get_run")
        await anyio.wait_all_tasks_blocked()
        assert not waits.is_set()
        async with watching(
            here.client, mode, ["runs://recent", "runs://r-9", "workers://catalog"]
        ):
            await waits.wait()
        await here.ask("get_run")
        waits = anyio.Event()
        may_look.release()
        await anyio.wait_all_tasks_blocked()
        assert not waits.is_set()


async def test_a_client_can_watch_again_what_it_has_watched_before(
    store: Store, tmp_path: Path
) -> None:
    async with (
        connected(tmp_path, store=store) as other,
        watcher(tmp_path, store=store) as (here, heard),
    ):
        first = (await other.ask("run_worker", worker="analyst", task="x"))["run_id"]
        uris = ["runs://recent", f"runs://{first}"]
        async with watching(here.client, "auto", uris):
            pass
        await other.ask("run_worker", worker="analyst", task="y")
        async with watching(here.client, "auto", uris):
            await here.ask("get_run")
            assert heard.uris == []
            await other.ask("run_worker", worker="analyst", task="z")
            await heard.until("runs://recent")
    assert set(heard.uris) == {"runs://recent"}


async def test_a_store_that_cannot_be_read_for_a_while_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    latest = Elsewhere.latest
    failed = anyio.Event()

    async def fail(*_: object) -> NoReturn:
        failed.set()
        raise StoreError("The disk is gone.")

    async with (
        connected(tmp_path) as other,
        watcher(tmp_path) as (here, heard),
        watching(here.client, "auto", ["runs://recent"]),
    ):
        monkeypatch.setattr(Elsewhere, "latest", fail)
        await failed.wait()
        monkeypatch.setattr(Elsewhere, "latest", latest)
        await other.ask("run_worker", worker="analyst", task="x")
        await heard.until("runs://recent")
    assert "The disk is gone." in caplog.text


@by_era
async def test_who_wants_to_watch_runs_that_cannot_be_read_is_told_why(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> NoReturn:
        raise StoreError("The disk is gone.")

    monkeypatch.setattr(Elsewhere, "latest", fail)
    async with watcher(tmp_path, mode) as (here, _):
        with pytest.raises(MCPError, match="The disk is gone"):
            async with watching(here.client, mode, ["runs://recent"]):
                raise AssertionError("unreachable")
