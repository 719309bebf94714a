"""Replies as results of MCP tool calls, never longer than clients can take."""

from collections.abc import Callable

from mcp.types import CallToolResult, TextContent

from concertmaster.protocol.markdown import markdown
from concertmaster.protocol.pages import EMPTY_PAGE, REPLY_CHARS, Page, longest_page
from concertmaster.protocol.replies import AnyReply
from concertmaster.protocol.views import DETAILS, Detail

ENVELOPE_CHARS = 300
"""What the protocol may wrap around a result."""

BASE_CHARS = REPLY_CHARS // 2
"""How much of a reply the rest may take, so that a page of text is worth reading."""


def tool_result(reply: AnyReply) -> CallToolResult:
    """Return a reply as text and as structured content, with the same facts in both."""
    structured = reply.model_dump(mode="json", exclude_defaults=True)
    return CallToolResult(
        content=[TextContent(type="text", text=markdown(reply))], structured_content=structured
    )


def fitted_result(
    make: Callable[[Page, Detail], AnyReply], text: str = "", *, offset: int = 0
) -> CallToolResult:
    """Return the fullest reply that fits, with the longest page of `text` from `offset`.

    Raises:
        RequestError: the text ends before `offset`.
    """
    if not text and not offset:
        room, base = REPLY_CHARS, EMPTY_PAGE
    else:
        room, base = BASE_CHARS, Page(text="", start=offset, total=len(text))

    def fits(detail: Detail) -> bool:
        return _size(tool_result(make(base, detail))) <= room

    detail = next(filter(fits, DETAILS), DETAILS[-1])
    return longest_page(
        text, offset=offset, make=lambda page: tool_result(make(page, detail)), size=_size
    )


def _size(result: CallToolResult) -> int:
    return len(result.model_dump_json(by_alias=True, exclude_none=True)) + ENVELOPE_CHARS
