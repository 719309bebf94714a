"""A real MCP client, connected in memory to the real server over a real run service."""

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import anyio
from mcp import Client
from mcp.types import (
    CallToolResult,
    EmptyResult,
    ResourceLink,
    SubscribeRequest,
    SubscribeRequestParams,
    TextContent,
    UnsubscribeRequest,
    UnsubscribeRequestParams,
)

from building import setup
from concertmaster.catalog.catalog import builtin_folder, load_catalog
from concertmaster.catalog.definitions import WorkerDefinition
from concertmaster.llm.messages import Request
from concertmaster.mcp_server.server import ConcertmasterServer, create_server
from concertmaster.runs.intake import RunPolicy
from concertmaster.runs.jobs import Job, read_jobs
from concertmaster.runs.service import RunService, open_service
from concertmaster.tools.builtin.defaults import default_tools
from concertmaster.tools.registry import Decision, ToolSource
from fakes import FakeLLM, FakeTool, Script
from stores import SqliteStore, Store

ERAS = ("auto", "legacy")
"""Modes of a client, one for each way of speaking MCP that is in use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """A client, and what it is connected to."""

    client: Client
    server: ConcertmasterServer
    service: RunService
    llm: FakeLLM

    async def ask(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Return the structured content of a tool's answer."""
        result = await self.client.call_tool(tool, arguments)
        assert not result.is_error, text_of(result)
        return structured(result)

    async def refusal(self, tool: str, **arguments: Any) -> str:
        """Return the sentence with which a tool turns a call away."""
        result = await self.client.call_tool(tool, arguments)
        assert result.is_error
        return text_of(result)


def text_of(result: CallToolResult) -> str:
    """Return the text of a tool's answer."""
    block, *links = result.content
    assert isinstance(block, TextContent)
    assert all(isinstance(link, ResourceLink) for link in links)
    return block.text


def structured(result: CallToolResult) -> dict[str, Any]:
    """Return the structured content of a tool's answer."""
    return dict[str, Any](result.structured_content or {})


@asynccontextmanager
async def connected(
    folder: Path,
    scripts: Mapping[str, Script] | None = None,
    *,
    mode: str = "auto",
    default: Script = "done",
    notice: str = "",
    workers: Iterable[WorkerDefinition] = (),
    sources: Mapping[str, ToolSource] | None = None,
    tools: Iterable[FakeTool] = (),
    tool_policy: Mapping[str, Decision] | None = None,
    policy: RunPolicy | None = None,
    built_in: bool = False,
    store: Store | None = None,
    **options: Any,
) -> AsyncGenerator[Connection]:
    """Connect a client to a server whose model follows `scripts`.

    With what is `built_in`, it has all workers, worker tools and jobs that are. `options` are
    the client's.
    """
    llm = FakeLLM(scripts, default=default)
    llm.notice = notice
    chosen = setup(llm, workers=workers, sources=sources, tools=tools, policy=tool_policy)
    if built_in:
        all_tools = default_tools()
        catalog = load_catalog(builtin_folder("workers"), tools=all_tools.names)
        chosen = replace(chosen, catalog=catalog, tools=all_tools)

    async def load_jobs() -> Mapping[str, Job]:
        return read_jobs(builtin_folder("jobs")).jobs if built_in else {}

    async with (
        (store or SqliteStore(folder / "data")).open() as journal,
        open_service(journal=journal, setup=chosen, policy=policy or RunPolicy()) as service,
    ):
        server = create_server(lambda: nullcontext(service), load_jobs)
        async with Client(server, mode=mode, **options) as client:
            yield Connection(client=client, server=server, service=service, llm=llm)


@asynccontextmanager
async def watching(client: Client, mode: str, uris: Sequence[str]) -> AsyncGenerator[None]:
    """Subscribe to resources, in the way of a protocol version."""
    if mode == "legacy":
        for uri in uris:
            request = SubscribeRequest(params=SubscribeRequestParams(uri=uri))
            await client.session.send_request(request, EmptyResult)
        yield
        for uri in uris:
            goodbye = UnsubscribeRequest(params=UnsubscribeRequestParams(uri=uri))
            await client.session.send_request(goodbye, EmptyResult)
        return
    # What comes on the stream of a listener goes to the handler of messages too.
    async with client.listen(resource_subscriptions=uris):
        yield


async def hang(_: Request) -> NoReturn:
    """Never answer."""
    await anyio.sleep_forever()
    raise AssertionError("unreachable")
