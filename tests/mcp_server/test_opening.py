"""The run service is opened when it is first needed, and its faults reach who needs it."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from mcp import Client, MCPError

from building import setup
from clients import text_of
from concertmaster.errors import DefinitionError
from concertmaster.mcp_server.server import create_server
from concertmaster.runs.intake import RunPolicy
from concertmaster.runs.service import RunService, open_service
from concertmaster.store.sqlite.store import open_sqlite
from fakes import FakeLLM

pytestmark = pytest.mark.anyio


class Opener:
    """Opens a run service in a folder, unless `fault` is set, and counts how often."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.fault: Exception | None = None
        self.opened = 0
        self.closed = 0

    @asynccontextmanager
    async def __call__(self) -> AsyncGenerator[RunService]:
        if self.fault is not None:
            raise self.fault
        self.opened += 1
        async with (
            open_sqlite(self._folder) as journal,
            open_service(journal=journal, setup=setup(FakeLLM()), policy=RunPolicy()) as service,
        ):
            try:
                yield service
            finally:
                self.closed += 1


async def test_listing_what_a_server_can_do_opens_nothing(tmp_path: Path) -> None:
    opener = Opener(tmp_path / "data")
    async with Client(create_server(opener)) as client:
        await client.list_tools()
        await client.list_resources()
        await client.list_resource_templates()
    assert opener.opened == 0
    assert not (tmp_path / "data").exists()


async def test_what_calls_will_need_is_prepared_once_after_the_tools_were_listed(
    tmp_path: Path,
) -> None:
    prepared = anyio.Event()
    times = 0

    def prepare() -> None:
        nonlocal times
        times += 1
        prepared.set()

    server = create_server(Opener(tmp_path), listed=prepare)
    async with Client(server) as client:
        await client.list_resources()
        await anyio.wait_all_tasks_blocked()
        assert times == 0
        await client.list_tools()
        with anyio.fail_after(60):
            await prepared.wait()
        await client.list_tools()
    assert times == 1


async def test_the_service_is_opened_once_and_closed_with_the_server(tmp_path: Path) -> None:
    opener = Opener(tmp_path)
    async with Client(create_server(opener)) as client:
        await client.read_resource("workers://catalog")
        await client.call_tool("get_run", {})
        assert (opener.opened, opener.closed) == (1, 0)
    assert opener.closed == 1


async def test_a_service_that_cannot_be_opened_is_told_and_tried_again(tmp_path: Path) -> None:
    opener = Opener(tmp_path)
    opener.fault = DefinitionError("unknown key 'modle'", file=Path("mine.md"), line=3)
    async with Client(create_server(opener)) as client:
        result = await client.call_tool("get_run", {})
        assert result.is_error
        assert text_of(result) == "mine.md:3: unknown key 'modle'"
        with pytest.raises(MCPError) as caught:
            await client.read_resource("workers://catalog")
        assert "modle" in str(caught.value)
        opener.fault = None
        assert not (await client.call_tool("get_run", {})).is_error


async def test_a_service_asked_for_outside_of_a_server_is_a_fault_of_the_program(
    tmp_path: Path,
) -> None:
    with pytest.raises(RuntimeError):
        await create_server(Opener(tmp_path)).state.service()
