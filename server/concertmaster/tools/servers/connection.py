"""One connection to a server, in the words of workers: tools, texts and sentences on failures."""

import logging
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, cast

import anyio
import httpx2
from anyio import to_thread
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.message import SessionMessage
from mcp.types import CONNECTION_CLOSED, Implementation, Tool
from pydantic import JsonValue, ValidationError

from concertmaster import __version__
from concertmaster.errors import ToolCallError
from concertmaster.llm.protocol import ToolSpec, whole_characters
from concertmaster.tools.servers.entries import ITSELF, HttpEntry, StdioEntry
from concertmaster.tools.servers.lines import ENCODING, LINE_CHARS, is_cut
from concertmaster.tools.servers.masking import Masking
from concertmaster.tools.servers.results import text_of
from concertmaster.tools.servers.stderr import Stderr

if TYPE_CHECKING:
    from mcp.client._transport import TransportStreams

log = logging.getLogger(__name__)

THIS_PROGRAM = "concertmaster"

MOST_PAGES = 50
"""How many pages of its list of tools a server may have."""

SPEC_CHARS = 50_000
"""The longest description of a tool, its arguments included."""

LAST_SECONDS = 0.5
"""How long to wait for the last words of a process that has failed."""

EVENT_BYTES = LINE_CHARS
"""The longest answer over HTTP."""

LINE_TOO_LONG = f"it wrote a line of more than {LINE_CHARS:,} characters"

HTTP_SECONDS = 30
"""How long an address may take to be reached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a server says of itself."""

    name: str
    version: str
    protocol: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a tool says: the server's words, without secrets."""

    text: str
    failed: bool


class Connection:
    """A server that answers. Safe to use for several calls at once."""

    def __init__(self, client: Client, entry: StdioEntry | HttpEntry, masking: Masking) -> None:
        self._client = client
        self._entry = entry
        self._masking = masking
        self._calls = 0
        self._unused = anyio.Event()
        self.over = False
        """Whether it is of no use for further calls."""
        self.fault = ""
        """Why it was ended, as the end of a sentence."""

    @property
    def about(self) -> About:
        """Return what the server says of itself."""
        info = self._client.server_info
        return About(
            name=info.name if info else "",
            version=info.version if info else "",
            protocol=self._client.protocol_version,
        )

    async def specs(self, server: str) -> list[ToolSpec]:
        """Return what the tools are that there are now; of what is too long, nothing.

        Raises:
            ToolCallError: there is no list of them; the message says why, as the end of a
                sentence.
        """
        try:
            with self._call():
                tools = [tool async for tool in self._tools()]
        except Exception as exc:
            log.debug("tools of %s not listed: %s", server, self._masking(repr(exc)))
            raise ToolCallError(self.fault or self._masking(_why(exc, self._entry))) from exc
        return [_spec(server, tool) for tool in tools if _is_readable(server, tool)]

    async def _tools(self) -> AsyncGenerator[Tool]:
        cursor: str | None = None
        for _ in range(MOST_PAGES):
            page = await self._client.list_tools(cursor=cursor)
            for tool in page.tools:
                yield tool
            cursor = page.next_cursor
            if cursor is None:
                return

    async def call(self, server: str, tool: str, arguments: Mapping[str, JsonValue]) -> Answer:
        """Return what a tool answers.

        Raises:
            ToolCallError: it gives no answer that can be read.
        """
        try:
            with self._call():
                result = await self._client.call_tool(tool, dict(arguments))
        except MCPError as exc:
            if exc.code != CONNECTION_CLOSED:
                return self._answer(exc.message, failed=True)
            because = f", because {self.fault}" if self.fault else ""
            raise ToolCallError(
                f"The connection to the MCP server {server!r} ended while {tool} was "
                f"called{because}. What it has done by then is not known. The next call connects "
                "anew."
            ) from exc
        except Exception as exc:
            log.debug("call of %s.%s failed: %s", server, tool, self._masking(repr(exc)))
            raise ToolCallError(
                f"What {server}.{tool} answered makes no sense ({type(exc).__name__})."
            ) from exc
        return self._answer(text_of(result), failed=bool(result.is_error))

    def _answer(self, text: str, *, failed: bool) -> Answer:
        return Answer(text=self._masking(whole_characters(text)), failed=failed)

    @contextmanager
    def _call(self) -> Generator[None]:
        self._calls += 1
        try:
            yield
        except MCPError:
            # What was said at an address may be of a session that is not known there any more.
            self.over |= isinstance(self._entry, HttpEntry)
            raise
        finally:
            self._calls -= 1
            if self.over and not self._calls:
                self._unused.set()

    def end(self, fault: str) -> None:
        """Take in that the server has gone, or is to go because of its fault."""
        self.fault = fault
        self.over = True
        if not self._calls:
            self._unused.set()

    async def unused(self) -> None:
        """Return once it is over, and no call is under way any more."""
        await self._unused.wait()


def _is_readable(server: str, tool: Tool) -> bool:
    chars = len(tool.model_dump_json())
    if chars > SPEC_CHARS:
        log.warning("tool %s.%s left out: its description is too long", server, tool.name)
    return chars <= SPEC_CHARS


def _spec(server: str, tool: Tool) -> ToolSpec:
    read_only = bool(tool.annotations and tool.annotations.read_only_hint)
    return ToolSpec(
        name=f"{server}.{tool.name}",
        description=tool.description or tool.title or "",
        input_schema=tool.input_schema,
        effects=not read_only,
        parallel=read_only,
        outward=True,
    )


@asynccontextmanager
async def open_connection(name: str, entry: StdioEntry | HttpEntry) -> AsyncGenerator[Connection]:
    """Connect to a server, having started it where it is a process.

    Raises:
        ToolCallError: it cannot be used; the message says why, as the end of a sentence.
    """
    masking = Masking(entry.secrets)
    with _stderr_of(name, masking) as stderr:
        try:
            async with _opened(entry, masking, stderr) as connection:
                if connection.about.name == THIS_PROGRAM:
                    raise ToolCallError(ITSELF)
                yield connection
        except Exception as exc:
            log.debug("server %s failed: %s", name, masking(repr(exc)))
            stderr.close()
            said = masking(await to_thread.run_sync(partial(stderr.last, seconds=LAST_SECONDS)))
            last = f"; it last wrote: {said}" if said else ""
            raise ToolCallError(f"{masking(_why(exc, entry))}{last}") from exc


@contextmanager
def _stderr_of(name: str, masking: Masking) -> Generator[Stderr]:
    stderr = Stderr(lambda text: log.debug("server %s: %s", name, masking(text)))
    try:
        yield stderr
    finally:
        stderr.close()


@asynccontextmanager
async def _opened(
    entry: StdioEntry | HttpEntry, masking: Masking, stderr: Stderr
) -> AsyncGenerator[Connection]:
    async with AsyncExitStack() as stack:
        if isinstance(entry, StdioEntry):
            started = stdio_client(_process(entry), errlog=stderr.file)
            transport = _watched(started, at_end=lambda fault: connection.end(fault))
        else:
            headers = {name: value.get_secret_value() for name, value in entry.headers.items()}
            # What is called may take long, and whoever calls it does not wait for ever.
            timeout = httpx2.Timeout(None, connect=HTTP_SECONDS)
            http = httpx2.AsyncClient(headers=headers, timeout=timeout)
            await stack.enter_async_context(http)
            transport = streamable_http_client(
                entry.url, http_client=http, max_sse_event_size=EVENT_BYTES
            )
        us = Implementation(name=THIS_PROGRAM, version=__version__)
        client = Client(transport, client_info=us)
        connection = Connection(client, entry, masking)
        try:
            await stack.enter_async_context(client)
        except Exception as exc:
            if connection.fault:
                raise ToolCallError(connection.fault) from exc
            raise
        yield connection


def _process(entry: StdioEntry) -> StdioServerParameters:
    # The SDK adds the few variables without which programs do not start, such as PATH.
    return StdioServerParameters(
        command=entry.command,
        args=list(entry.args),
        env={name: value.get_secret_value() for name, value in entry.env.items()},
        cwd=entry.cwd.expanduser() if entry.cwd else None,
        encoding=ENCODING,
        encoding_error_handler="replace",
    )


@asynccontextmanager
async def _watched(
    transport: "AbstractAsyncContextManager[TransportStreams]", *, at_end: Callable[[str], None]
) -> "AsyncGenerator[TransportStreams]":
    """Pass on what a server says, and call `at_end` once it can say nothing any more.

    It is called with the reason where that is a fault of the server.
    """
    async with transport as (incoming, outgoing), anyio.create_task_group() as tasks:
        sender, receiver = anyio.create_memory_object_stream[SessionMessage | Exception]()

        async def pass_on() -> None:
            fault = ""
            with sender, suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                async for message in incoming:
                    if is_cut(message):
                        fault = LINE_TOO_LONG
                        break
                    await sender.send(message)
            at_end(fault)

        tasks.start_soon(pass_on)
        with receiver:
            yield receiver, outgoing
        tasks.cancel_scope.cancel()


def _why(error: BaseException, entry: StdioEntry | HttpEntry) -> str:
    """Return why a server cannot be used, as the end of a sentence."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    match error:
        case MCPError(code=code) if code == CONNECTION_CLOSED:
            return "it ended" if isinstance(entry, StdioEntry) else "there is no connection to it"
        case MCPError():
            return f"it answered: {error.message}"
        case ValidationError():
            return "what it answers is not what MCP says"
        case OSError() if isinstance(entry, StdioEntry):
            return f"{entry.command!r} cannot be started ({error.strerror})"
        case _:
            return str(error) or type(error).__name__
