"""Replies as results of MCP tool calls, as each client reads them and no longer than it takes."""

import json
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial

from mcp import MCPError
from mcp.server.mcpserver.exceptions import ResourceError, ToolError
from mcp.types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    CallToolResult,
    ContentBlock,
    ResourceLink,
    TextContent,
)

from concertmaster.errors import ConcertmasterError, InputError, RequestError
from concertmaster.llm.usage import whole_characters
from concertmaster.mcp_server.client_profiles import ClientProfile
from concertmaster.mcp_server.resources import DIFF, JSON, MARKDOWN
from concertmaster.replies.build import DETAILS, Detail, long_text, run_reply
from concertmaster.replies.markdown import markdown
from concertmaster.replies.models import AnyReply, RunsReply
from concertmaster.replies.pagination import EMPTY_PAGE, Page, longest_page
from concertmaster.runs.state import RunState

ENVELOPE_CHARS = 800
"""What the protocol may wrap around a result, and put between its parts as space."""

MIME_TYPES = {"answer": MARKDOWN, "diff": DIFF}
"""Of resources that replies link to and that are no JSON."""

ERROR_CHARS = 4_000
"""About how long the message of an error may be, which can quote what the caller gave."""

IN_TEXT = "All of this reply is in its text."
"""Says in structured content where the rest is, for clients that read both."""


@contextmanager
def short_errors() -> Generator[None]:
    """Let an error of a tool, resource or prompt out with a message that clients can take."""
    try:
        yield
    except (ToolError, ResourceError) as exc:
        raise type(exc)(_short(whole_characters(str(exc)))) from exc.__cause__
    except MCPError as exc:
        message = _short(whole_characters(exc.error.message))
        raise MCPError(exc.error.code, message, exc.error.data) from exc.__cause__


@contextmanager
def request_errors() -> Generator[None]:
    """Let an error out as one of the protocol, where no model reads what is wrong."""
    try:
        yield
    except (RequestError, InputError) as exc:
        raise MCPError(INVALID_PARAMS, str(exc)) from exc
    except ConcertmasterError as exc:
        raise MCPError(INTERNAL_ERROR, str(exc)) from exc


def _short(message: str) -> str:
    """Return a message whose middle is cut out if it is too long: its end says what to do."""
    if len(message) <= ERROR_CHARS:
        return message
    half = ERROR_CHARS // 2
    left_out = len(message) - 2 * half
    return f"{message[:half]} […cut: {left_out:,} characters…] {message[-half:]}"


def tool_result(reply: AnyReply, client: ClientProfile) -> CallToolResult:
    """Return a reply as text and as structured content, so that a client reads each fact once.

    Both have all of it, unless the client reads both: then the structured content has no more
    than the output schema requires.
    """
    structured = reply.model_dump(mode="json", exclude_defaults=True)
    if isinstance(reply, RunsReply):
        structured.setdefault("runs", [])
    if client.reads == "both":
        required = {name for name, field in type(reply).model_fields.items() if field.is_required()}
        structured = {name: structured[name] for name in required} | {"notice": IN_TEXT}
    text = TextContent(type="text", text=markdown(reply))
    return CallToolResult(content=[text, *_links(reply)], structured_content=structured)


def _links(reply: AnyReply) -> Iterator[ResourceLink]:
    if not isinstance(reply, RunsReply):
        for name, uri in reply.links.items():
            yield ResourceLink(name=name, uri=uri, mime_type=MIME_TYPES.get(name, JSON))


def fitted_result(
    make: Callable[[Page, Detail], AnyReply],
    text: str = "",
    *,
    client: ClientProfile,
    offset: int = 0,
) -> CallToolResult:
    """Return the fullest reply that fits, with the longest page of `text` from `offset`.

    Raises:
        RequestError: the text ends before `offset`.
    """
    if not text and not offset:
        room, base = client.size, EMPTY_PAGE
    else:
        # The rest takes half at most, so that a page of text is worth reading.
        room, base = client.size // 2, Page(text="", start=offset, total=len(text))

    def fits(detail: Detail) -> bool:
        return size_read(tool_result(make(base, detail), client), client) <= room

    detail = next(filter(fits, DETAILS), DETAILS[-1])
    return longest_page(
        text,
        offset=offset,
        most=client.size,
        make=lambda page: tool_result(make(page, detail), client),
        size=lambda result: size_read(result, client),
    )


def run_result(
    state: RunState, *, client: ClientProfile, offset: int = 0, approval_token: str = ""
) -> CallToolResult:
    """Return where a run stands, with the longest page of its answer from `offset`.

    A client that is given an `approval_token` is told how its plan is approved with it.

    Raises:
        RequestError: the answer ends before `offset`.
    """
    make = partial(run_reply, state, approval_token=approval_token)
    return fitted_result(make, long_text(state), client=client, offset=offset)


def size_read(result: CallToolResult, client: ClientProfile) -> int:
    """Return how much of a result a client reads, in the unit in which it counts."""
    match client.reads:
        case "structured":
            compact = json.dumps(
                result.structured_content, ensure_ascii=False, separators=(",", ":")
            )
            return client.measure(compact)
        case "text":
            return sum(client.measure(_shown(block)) for block in result.content)
        case _:
            whole = result.model_dump_json(by_alias=True, exclude_none=True)
            return client.measure(whole) + ENVELOPE_CHARS


def _shown(block: ContentBlock) -> str:
    """Return what a client shows its model of a content block."""
    if isinstance(block, TextContent):
        return block.text
    return block.model_dump_json(by_alias=True, exclude_none=True)
