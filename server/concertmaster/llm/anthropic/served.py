"""What a reply tells of the tools that the provider called itself."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from concertmaster.llm.protocol import AssistantMessage, Message
from concertmaster.llm.server_tools import (
    CITED_CHARS,
    ServerToolUse,
    Source,
    distinct,
)

Block = Mapping[str, Any]

SHOWN_CHARS = 4_000
"""How much of what came of a use is kept, for people to read."""

_RESULT = "_tool_result"
"""How the kind of a block ends that has what came of a use."""
_UNREADABLE = ("encrypted_content", "encrypted_stdout", "encrypted_index", "type")


def is_served(block: Block) -> bool:
    """Tell whether a block is of a tool that the provider calls itself."""
    return block["type"] == "server_tool_use" or block["type"].endswith(_RESULT)


def uses_of(
    blocks: Mapping[int, Block], arrived: Mapping[int, float], *, now: float
) -> tuple[ServerToolUse, ...]:
    """Return the uses that blocks tell of, where each has `arrived` at its time.

    One that began in an earlier reply is known by its result alone; one whose result comes
    with a later reply has none yet.
    """
    begun = {block["id"]: at for at, block in blocks.items() if block["type"] == "server_tool_use"}
    ended = {
        block["tool_use_id"]: at for at, block in blocks.items() if block["type"].endswith(_RESULT)
    }
    return tuple(
        _use(
            use_id,
            blocks[begun[use_id]] if use_id in begun else None,
            blocks[ended[use_id]] if use_id in ended else None,
            ago=now - arrived[begun.get(use_id, ended.get(use_id, 0))],
            left=now - arrived[ended[use_id]] if use_id in ended else 0.0,
        )
        for use_id in {**begun, **ended}
    )


def _use(
    use_id: str, call: Block | None, result: Block | None, *, ago: float, left: float
) -> ServerToolUse:
    kind: str = call["name"] if call is not None else result["type"] if result is not None else ""
    text, error = _outcome(result["content"]) if result is not None else ("", "")
    return ServerToolUse(
        id=use_id,
        name=_tool(kind.removesuffix(_RESULT)),
        arguments=_arguments(call),
        result=text[:SHOWN_CHARS],
        result_chars=len(text),
        error=error,
        pending=result is None,
        ago=ago,
        seconds=ago - left,
    )


def _tool(name: str) -> str:
    """Return a tool's name; the parts of code execution have names of their own."""
    return "code_execution" if name.endswith("code_execution") else name


def _arguments(call: Block | None) -> dict[str, Any]:
    found: object = call["input"] if call is not None else None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def _outcome(content: Any) -> tuple[str, str]:
    """Return what came of a use, in words, and what went wrong."""
    if isinstance(content, list):
        return "\n".join(_found(item) for item in cast("list[Block]", content)), ""
    if "error_code" in content:
        return "", str(content["error_code"])
    if content["type"] == "web_fetch_result":
        source = content["content"]["source"]
        text = source["data"] if source["type"] == "text" else f"({source['media_type']})"
        return f"{content['url']}\n{text}", ""
    return json.dumps(_readable(content), ensure_ascii=False), ""


def _found(item: Block) -> str:
    return " ".join(filter(None, [item.get("title"), item.get("url"), item.get("page_age")]))


def _readable(content: Block) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name not in _UNREADABLE and value}


def fetched(messages: Sequence[Message]) -> list[str]:
    """Return the addresses of the pages that earlier replies have fetched, in order."""
    return [
        address
        for message in messages
        if isinstance(message, AssistantMessage)
        for address in pages_in(message.native)
    ]


def pages_in(blocks: Iterable[Block]) -> Iterator[str]:
    """Yield the addresses of the pages that blocks have."""
    for block in blocks:
        if block["type"] == "web_fetch_tool_result" and "url" in block["content"]:
            yield block["content"]["url"]


def sources_of(blocks: Iterable[Block], pages: Sequence[str]) -> tuple[Source, ...]:
    """Return what the text in blocks cites, where a page is known by its place in `pages`."""
    citations = (one for block in blocks for one in block.get("citations") or ())
    return distinct(tuple(source for one in citations if (source := _source(one, pages)).url))


def _source(citation: Block, pages: Sequence[str]) -> Source:
    number: int | None = citation.get("document_index")
    page = pages[number] if number is not None and 0 <= number < len(pages) else ""
    cited = " ".join(str(citation.get("cited_text") or "").split())
    return Source(
        url=citation.get("url") or citation.get("source") or page,
        title=citation.get("title") or citation.get("document_title") or "",
        cited=cited if len(cited) <= CITED_CHARS else f"{cited[: CITED_CHARS - 1]}…",
    )
