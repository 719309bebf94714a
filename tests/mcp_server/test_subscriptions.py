"""Clients are told when a run has changed, in the way of the protocol version they speak."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn

import anyio
import pytest
from mcp.server.subscriptions import ResourceUpdated

from clients import ERAS, Connection, connected, watching
from concertmaster.errors import StoreError
from concertmaster.mcp_server import subscriptions
from concertmaster.runs.orders import WorkerOrder
from concertmaster.runs.service import RunService
from fakes import Script, plan_json, subtask
from watching import Heard, Held

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("mode", ERAS)]

PLAN = plan_json(subtask("s1"), subtask("s2", "critic", depends_on=("s1",)))


@asynccontextmanager
async def watched(
    folder: Path, mode: str, scripts: dict[str, Script]
) -> AsyncGenerator[tuple[Connection, Heard]]:
    heard = Heard()
    with anyio.fail_after(60):
        async with connected(
            folder, scripts, mode=mode, message_handler=heard.handle
        ) as connection:
            yield connection, heard


async def test_a_client_hears_of_the_parts_of_a_run_that_it_watches(
    mode: str, tmp_path: Path
) -> None:
    held = Held()
    scripts: dict[str, Script] = {"planner": PLAN, "worker:critic": held, "synthesizer": "All well"}
    async with watched(tmp_path, mode, scripts) as (connection, heard):
        run = await connection.ask("run_orchestration", task="x", wait_seconds=0)
        await held.asked.wait()
        uri = f"runs://{run['run_id']}"
        ended = [f"{uri}/subtasks/s1"]
        wanted = [uri, f"{uri}/trace", f"{uri}/subtasks/s2", f"{uri}/answer"]
        async with watching(connection.client, mode, [*wanted, *ended]):
            held.may_answer.set()
            for changed in wanted:
                await heard.until(changed)
            (answer,) = (await connection.client.read_resource(f"{uri}/answer")).contents
    assert getattr(answer, "text", "") == "All well"
    assert set(heard.uris) == set(wanted)


async def test_a_client_hears_when_the_list_of_runs_has_changed(mode: str, tmp_path: Path) -> None:
    async with (
        watched(tmp_path, mode, {}) as (connection, heard),
        watching(connection.client, mode, ["runs://recent"]),
    ):
        await connection.ask("run_worker", worker="analyst", task="x")
        await heard.until("runs://recent")
    assert set(heard.uris) == {"runs://recent"}


async def test_a_client_that_stopped_watching_hears_no_more(mode: str, tmp_path: Path) -> None:
    async with watched(tmp_path, mode, {}) as (connection, heard):
        async with watching(connection.client, mode, ["runs://recent"]):
            pass
        await connection.ask("run_worker", worker="analyst", task="x")
        async with watching(connection.client, mode, ["workers://catalog"]):
            await connection.server.state.bus.publish(ResourceUpdated(uri="workers://catalog"))
            await heard.until("workers://catalog")
    assert heard.uris == ["workers://catalog"]


async def test_a_run_that_cannot_be_read_disturbs_nobody(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        watched(tmp_path, mode, {}) as (connection, heard),
        watching(connection.client, mode, ["runs://recent"]),
    ):
        await connection.ask("get_run")
        read = RunService.get
        failed = anyio.Event()

        async def fail(*_: Any) -> NoReturn:
            failed.set()
            raise StoreError("The disk is gone.")

        monkeypatch.setattr(RunService, "get", fail)
        started = await connection.service.start(WorkerOrder(worker="analyst", task="x"))
        await failed.wait()
        monkeypatch.setattr(RunService, "get", read)
        await connection.service.wait(started.run_id, seconds=5)
        await connection.ask("run_worker", worker="analyst", task="x")
        await heard.until("runs://recent")


async def test_a_change_is_told_however_many_other_runs_there_were(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "KEPT_RUNS", 1)
    held = Held()
    async with watched(tmp_path, mode, {"worker:critic": held}) as (connection, heard):
        run = await connection.ask("run_worker", worker="critic", task="x", wait_seconds=0)
        answer = f"runs://{run['run_id']}/answer"
        async with watching(connection.client, mode, [answer]):
            await connection.ask("run_worker", worker="analyst", task="x")
            await connection.ask("run_worker", worker="analyst", task="x")
            held.may_answer.set()
            await heard.until(answer)


async def test_a_client_that_does_not_read_misses_some_changes_and_none_later(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "UNREAD", 0)
    uris = ["runs://1", "runs://2", "runs://3"]
    async with (
        watched(tmp_path, mode, {}) as (connection, heard),
        watching(connection.client, mode, uris),
    ):
        publish = connection.server.state.bus.publish
        async with anyio.create_task_group() as tasks:
            # Both before the client is given the time to read.
            for uri in uris[:2]:
                tasks.start_soon(publish, ResourceUpdated(uri=uri))
        await heard.until(uris[0])
        await anyio.wait_all_tasks_blocked()
        await publish(ResourceUpdated(uri=uris[2]))
        await heard.until(uris[2])
