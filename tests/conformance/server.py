"""The real server over a real run service, with what the conformance suite wants to find."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import Context, MCPServer
from mcp.types import (
    Completion,
    EmptyResult,
    GetPromptResult,
    InputRequiredResult,
    Prompt,
    SetLevelRequestParams,
)

from building import setup
from concertmaster.mcp_server.context import ServerState
from concertmaster.mcp_server.lazy_service import OpenService, ServiceOnDemand
from concertmaster.mcp_server.prompts import no_jobs
from concertmaster.mcp_server.server import ConcertmasterServer
from concertmaster.mcp_server.tasks import RunTasks, TaskSource
from concertmaster.mcp_server.transports.http import serve_http
from concertmaster.runs.intake import RunPolicy
from concertmaster.runs.service import open_service
from concertmaster.store.sqlite.store import open_sqlite
from conformance.fixtures import JSON_SCHEMA, add_fixtures
from conformance.tasks import ScriptedTasks, add_task_fixtures, compute
from fakes import FakeLLM


class FixtureServer(ConcertmasterServer):
    """The real server; its prompts are the suite's, and it keeps no level of a log it has not."""

    def __init__(self, open_service: OpenService) -> None:
        super().__init__(ServerState(ServiceOnDemand(open_service)), no_jobs)
        add_fixtures(self)
        add_task_fixtures(self)
        tool = self._tool_manager.get_tool("json_schema_2020_12_tool")
        assert tool is not None
        tool.parameters = JSON_SCHEMA
        self.completion()(_complete)
        self._lowlevel_server.add_request_handler(
            "logging/setLevel", SetLevelRequestParams, _set_level
        )

    def task_source(self) -> TaskSource:
        return ScriptedTasks(RunTasks(self.state, {"slow_compute"}), self.state.start_soon)

    async def list_prompts(self) -> list[Prompt]:
        return await MCPServer[Any].list_prompts(self)

    async def get_prompt(
        self,
        name: str,
        arguments: dict[str, Any] | None = None,
        context: Context[Any, Any] | None = None,
    ) -> GetPromptResult | InputRequiredResult:
        return await MCPServer[Any].get_prompt(self, name, arguments, context)


async def _complete(*_: object) -> Completion:
    return Completion(values=["test"])


async def _set_level(
    ctx: ServerRequestContext[Any, Any], params: SetLevelRequestParams
) -> EmptyResult:
    del ctx, params
    return EmptyResult()


@asynccontextmanager
async def serving(
    folder: Path, make: Callable[[OpenService], ConcertmasterServer]
) -> AsyncGenerator[str]:
    """Serve what `make` makes on a free port of this machine; yields the address."""
    ready = anyio.Event()
    addresses: list[str] = []

    def note(address: str) -> None:
        addresses.append(address)
        ready.set()

    async with (
        open_sqlite(folder) as journal,
        open_service(
            journal=journal, setup=setup(FakeLLM(default=compute)), policy=RunPolicy()
        ) as service,
        anyio.create_task_group() as tasks,
    ):
        server = make(lambda: nullcontext(service))
        tasks.start_soon(partial(serve_http, server, port=0, ready=note))
        await ready.wait()
        yield addresses[0]
        tasks.cancel_scope.cancel()
