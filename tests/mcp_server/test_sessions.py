"""Sessions side by side on one run service; tests/process has the rest."""

import json
import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.streams.buffered import BufferedByteStream
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from anyio.streams.stapled import StapledObjectStream

from building import setup
from clients import hang
from concertmaster.mcp_server.transports.background import Sessions
from concertmaster.runs.intake import RunPolicy
from concertmaster.runs.service import RunService, open_service
from concertmaster.store.sqlite.store import open_sqlite
from fakes import FakeLLM, Script

pytestmark = pytest.mark.anyio

MEETING = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "test", "version": "1"},
}


@dataclass(frozen=True, slots=True)
class Opened:
    sessions: Sessions
    service: RunService


@asynccontextmanager
async def opened(folder: Path, script: Script = "done") -> AsyncGenerator[Opened]:
    """Open sessions whose workers do what a script says."""
    llm = FakeLLM(default=script)
    async with (
        open_sqlite(folder) as journal,
        open_service(journal=journal, setup=setup(llm), policy=RunPolicy()) as service,
    ):
        sessions = Sessions(lambda: nullcontext(service))
        async with sessions.lifespan():
            yield Opened(sessions, service)


@dataclass(frozen=True, slots=True)
class End:
    """A client's end of a connection."""

    writer: MemoryObjectSendStream[bytes]
    reader: MemoryObjectReceiveStream[bytes]


@asynccontextmanager
async def ends() -> AsyncGenerator[tuple[End, BufferedByteStream]]:
    """Yield the ends of a client and of its session."""
    to_server, from_client = anyio.create_memory_object_stream[bytes](math.inf)
    to_client, from_server = anyio.create_memory_object_stream[bytes](math.inf)
    async with (
        to_server,
        from_server,
        BufferedByteStream(StapledObjectStream(to_client, from_client)) as stream,
    ):
        yield End(to_server, from_server), stream


async def send(client: End, method: str, number: int | None, **params: Any) -> None:
    message: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": params}
    if number is not None:
        message["id"] = number
    await client.writer.send(f"{json.dumps(message)}\n".encode())


async def at_work(client: End, service: RunService) -> None:
    """Have a client call a worker, and return once its run is under way."""
    await send(client, "initialize", 1, **MEETING)
    await client.reader.receive()
    await send(client, "notifications/initialized", None)
    arguments = {"worker": "analyst", "task": "x", "wait_seconds": 600}
    await send(client, "tools/call", 2, name="run_worker", arguments=arguments)
    while not (runs := service.driven()) or not runs[0].subtasks:
        await anyio.lowlevel.checkpoint()


async def test_a_client_that_stops_writing_leaves_its_run_to_go_on(tmp_path: Path) -> None:
    async with opened(tmp_path, hang) as given, ends() as (client, stream):
        with given.sessions.join() as session:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(session.serve, stream)
                await at_work(client, given.service)
                await client.writer.send(b'{"jsonrpc": "2.0", "id": 3, "meth')
                await client.writer.aclose()
        (run,) = given.service.driven()
        assert run.status == "running"
        assert given.sessions.runs_under_way == 1


async def test_a_client_that_stops_reading_for_good_leaves_its_run_to_go_on(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path, hang) as given, ends() as (client, stream):
        with given.sessions.join() as session:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(session.serve, stream)
                await at_work(client, given.service)
                await client.reader.aclose()
                await send(client, "ping", 3)
        (run,) = given.service.driven()
        assert run.status == "running"


async def test_sessions_are_idle_once_there_is_neither_a_client_nor_a_run(tmp_path: Path) -> None:
    order: list[str] = []

    async def note_idle() -> None:
        await given.sessions.idle_for(0)
        order.append("idle")

    async with (
        opened(tmp_path, hang) as given,
        ends() as (client, stream),
        anyio.create_task_group() as tasks,
    ):
        async with anyio.create_task_group() as session_tasks:
            with given.sessions.join() as session:
                tasks.start_soon(note_idle)
                session_tasks.start_soon(session.serve, stream)
                await at_work(client, given.service)
                await client.writer.aclose()
                await anyio.wait_all_tasks_blocked()
                order.append("left")
        await anyio.wait_all_tasks_blocked()
        order.append("cancel")
        (run,) = given.service.driven()
        await given.service.cancel(run.run_id, reason="enough")
        with anyio.fail_after(60):
            while len(order) < 3:
                await anyio.lowlevel.checkpoint()
    assert order == ["left", "cancel", "idle"]


@pytest.mark.parametrize("steps", [1, 2, 3])
async def test_a_session_that_begins_when_the_time_is_up_keeps_the_server_or_finds_it_ended(
    steps: int, tmp_path: Path
) -> None:
    ended = anyio.Event()

    async def note_idle() -> None:
        await given.sessions.idle_for(0)
        ended.set()

    async with opened(tmp_path) as given, anyio.create_task_group() as tasks:
        tasks.start_soon(note_idle)
        for _ in range(steps):
            await anyio.lowlevel.checkpoint()
        before = ended.is_set()
        with given.sessions.join():
            await anyio.wait_all_tasks_blocked()
            assert ended.is_set() == before
        with anyio.fail_after(60):
            await ended.wait()


async def test_a_reply_on_its_way_reaches_a_client_that_has_stopped_writing(
    tmp_path: Path,
) -> None:
    slow, told = anyio.create_memory_object_stream[bytes]()
    to_server, from_client = anyio.create_memory_object_stream[bytes](math.inf)
    stream = BufferedByteStream(StapledObjectStream(slow, from_client))
    client = End(to_server, told)
    async with opened(tmp_path) as given, to_server, told, stream:
        with given.sessions.join() as session, anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(session.serve, stream)
                await send(client, "initialize", 1, **MEETING)
                await anyio.wait_all_tasks_blocked()
                await to_server.aclose()
                await anyio.wait_all_tasks_blocked()
                assert b"protocolVersion" in await told.receive()
