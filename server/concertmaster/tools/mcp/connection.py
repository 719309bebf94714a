"""One connection to a server, in the words of workers: tools, texts and sentences on failures."""

import codecs
import json
import logging
import os
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TextIO, cast

import anyio
import httpx2
from anyio import to_thread
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.message import SessionMessage
from mcp.types import (
    CONNECTION_CLOSED,
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    Implementation,
    JSONRPCNotification,
    ResourceLink,
    TextContent,
    Tool,
)
from pydantic import JsonValue, ValidationError

from concertmaster import __version__
from concertmaster.errors import ToolCallError
from concertmaster.llm.fencing import quoted, spelled
from concertmaster.llm.messages import ToolSpec, decoded_bytes
from concertmaster.llm.usage import whole_characters
from concertmaster.tools.images import OfferedImage
from concertmaster.tools.mcp.config import ITSELF, HttpEntry, StdioEntry
from concertmaster.tools.redaction import Masking

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer
    from mcp.client._transport import TransportStreams


def parts_of(result: CallToolResult) -> list[str | OfferedImage]:
    """Return the parts of a result, a sentence for what is neither; or its structured content."""
    if not result.content and result.structured_content is not None:
        return [json.dumps(result.structured_content, ensure_ascii=False)]
    return list(map(_part, result.content))


def _part(block: ContentBlock) -> str | OfferedImage:
    match block:
        case TextContent():
            return block.text
        case ImageContent():
            return OfferedImage(media_type=block.mime_type, data=block.data)
        case AudioContent():
            return _not_shown(f"audio of type {block.mime_type}", block.data)
        case ResourceLink():
            about = ", ".join(filter(None, [block.mime_type, block.description]))
            place = f"{quoted(block.name)}: {spelled(str(block.uri))}"
            return f"[resource {place}{f' ({about})' if about else ''}]"
        case EmbeddedResource(resource=resource):
            if isinstance(resource, BlobResourceContents):
                return _blob(resource)
            return f"[resource {spelled(str(resource.uri))}]\n{resource.text}"


def _blob(resource: BlobResourceContents) -> str | OfferedImage:
    media_type = resource.mime_type or ""
    if media_type.startswith("image/"):
        return OfferedImage(media_type=media_type, data=resource.blob, uri=str(resource.uri))
    return _not_shown(f"resource {spelled(str(resource.uri))}", resource.blob)


def _not_shown(what: str, base64: str) -> str:
    return f"[{what}, {decoded_bytes(base64):,} bytes, which cannot be shown here]"


ENCODING = "utf_8_in_bounded_lines"

LINE_CHARS = 20_000_000
"""The longest line."""

_TOO_LONG = "concertmaster/line-too-long"


def is_cut(message: SessionMessage | Exception) -> bool:
    """Tell whether a message says that a line was too long, and that nothing follows it."""
    match message:
        case SessionMessage(message=JSONRPCNotification(method=method)):
            return method == _TOO_LONG
        case _:
            return False


class _Decoder(codecs.IncrementalDecoder):
    def __init__(self, errors: str = "strict") -> None:
        super().__init__(errors)
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._chars = 0
        """The length of the line that has not ended yet."""

    def decode(self, input: "ReadableBuffer", final: bool = False) -> str:  # noqa: A002 (codecs calls it so)
        """Return the text, until a line is too long."""
        if self._chars > LINE_CHARS:
            return ""
        text = self._utf8.decode(input, final)
        _, ended, line = text.rpartition("\n")
        self._chars = len(line) if ended else self._chars + len(line)
        if self._chars <= LINE_CHARS:
            return text
        return "\n{}\n".format(json.dumps({"jsonrpc": "2.0", "method": _TOO_LONG}))


def _find(name: str) -> codecs.CodecInfo | None:
    if name != ENCODING:
        return None
    utf_8 = codecs.lookup("utf-8")
    return codecs.CodecInfo(utf_8.encode, utf_8.decode, incrementaldecoder=_Decoder, name=name)


codecs.register(_find)


KEPT_BYTES = 2000
"""How much of it is kept."""


class Stderr:
    """A stderr for a process, read in a thread of its own so that the process never waits."""

    def __init__(self, log: Callable[[str], object]) -> None:
        """Have `log` called with what arrives."""
        self._log = log
        self._tail = b""
        self._reading, writing = os.pipe()
        self.file: TextIO = os.fdopen(writing, "w")
        """What the process is given."""
        self._thread = threading.Thread(target=self._read, name="server stderr", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with os.fdopen(self._reading, "rb", buffering=0) as stream:
            while piece := stream.read(65536):
                self._tail = (self._tail + piece)[-KEPT_BYTES:]
                self._log(piece.decode("utf-8", "replace"))

    def close(self) -> None:
        """Leave it to the process alone."""
        self.file.close()

    def last(self, *, seconds: float) -> str:
        """Return the last that was written, once all is, or after some `seconds`."""
        self._thread.join(seconds)
        return self._tail.decode("utf-8", "replace").strip()


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
    """What a tool says: the server's words, without secrets, and what it calls images."""

    parts: tuple[str | OfferedImage, ...]
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
                return self._answer([exc.message], failed=True)
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
        return self._answer(parts_of(result), failed=bool(result.is_error))

    def _answer(self, parts: Iterable[str | OfferedImage], *, failed: bool) -> Answer:
        return Answer(parts=tuple(map(self._shown, parts)), failed=failed)

    def _shown(self, part: str | OfferedImage) -> str | OfferedImage:
        """Return a part of an answer without secrets, as far as it is text."""
        if isinstance(part, str):
            return self._masking(whole_characters(part))
        return replace(
            part,
            media_type=self._masking(whole_characters(part.media_type)),
            uri=self._masking(whole_characters(part.uri)),
        )

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
