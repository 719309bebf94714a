"""A reply as it arrives, event by event."""

import email.utils
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

import anyio
from pydantic import JsonValue

from concertmaster.llm.messages import (
    CITED_CHARS,
    AssistantMessage,
    Message,
    Reply,
    Request,
    ServerToolUse,
    Source,
    StopReason,
    ToolCall,
    distinct,
)
from concertmaster.llm.rate_limit import Allowance
from concertmaster.llm.structured import read_json, whole_value
from concertmaster.llm.token_count import most_tokens, size
from concertmaster.llm.usage import Usage, whole_characters

if TYPE_CHECKING:
    from anthropic.types import (
        MessageDeltaUsage,
        RawContentBlockDelta,
        RawMessageDeltaEvent,
        RawMessageStreamEvent,
    )
    from anthropic.types import Usage as ReportedUsage


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


_STOP_REASONS: dict[str, StopReason] = {
    "end_turn": "end",
    "stop_sequence": "end",
    "max_tokens": "max_tokens",
    "tool_use": "tool_use",
    "refusal": "refusal",
    "pause_turn": "pause",
    "model_context_window_exceeded": "context_full",
}
_SAID_IN_OUR_WORDS = ("text", "tool_use")
"""Kinds of blocks that a message's text and tool calls tell all about."""


class Incoming:
    """The part of a reply that has arrived."""

    def __init__(self, model: str, request: Request) -> None:
        """Expect a reply of `model` to `request`."""
        self._request = request
        self._reported = Usage(model=model, calls=1, attempts=1)
        self._unreported = 0
        """Bytes that have arrived since the provider last said how many tokens there are."""
        self.started = False
        """Whether the provider has begun to reply, and so to charge."""
        self._text = ""
        self._blocks: dict[int, dict[str, Any]] = {}
        self._arguments: dict[int, str] = {}
        self._arrived: dict[int, float] = {}
        """When each block began."""
        self._interrupted = False
        """Whether the provider has called a tool since the last piece of text."""
        self._container = ""
        self._stop_reason: StopReason = "pause"
        self._detail = ""
        self._paused = False
        self.whole = False
        """Whether all of the reply has arrived."""
        self._halved = False
        """Whether halves of characters have arrived, of which some may belong together."""

    @property
    def usage(self) -> Usage:
        """Return what the provider has reported, and has not for what came then; no money or time.

        It counts what it has written when it is done, and charges for it also if nobody waits.
        What it thought and does not show is in no count before.
        """
        reported = self._reported
        room = max(self._request.max_tokens - reported.tokens_out, 0)
        estimated = min(most_tokens(self._unreported), room)
        counts = {"tokens_out": reported.tokens_out + estimated, "estimated_out": estimated}
        return reported.model_copy(update=counts)

    @property
    def text(self) -> str:
        """Return the text that has arrived."""
        # Once it is joined: a character may come as two halves, one in each of two pieces.
        return whole_characters(self._text) if self._halved else self._text

    def withdraw(self) -> None:
        """Expect no reply: nothing was sent that there could be one to."""
        self._reported = self._reported.model_copy(update={"attempts": 0})

    def take(self, event: "RawMessageStreamEvent") -> None:
        """Add what `event` brings. Events of unknown kinds bring nothing.

        The SDK does not check what it hands out, so a malformed event may raise any error
        that comes of a missing or misshapen attribute.
        """
        match event.type:
            case "message_start":
                self.started = True
                self._count(event.message.usage, model=event.message.model or self._reported.model)
            case "content_block_start":
                # Kinds of content that are new to the SDK are kept as they are, without warning.
                self._begin(event.index, event.content_block.to_dict(warnings=False))
            case "content_block_delta":
                self._add(event.index, event.delta)
            case "message_delta":
                self._count(event.usage, model=self._reported.model)
                self._stop(event)
            case "message_stop":
                self.whole = True
            case _:
                pass

    def _begin(self, index: int, block: dict[str, Any]) -> None:
        self._blocks[index] = block
        self._arrived[index] = anyio.current_time()
        self._interrupted |= is_served(block)

    def _say(self, text: str) -> None:
        if self._interrupted and text:
            # What was said before the tool was called is no part of a sentence that begins now,
            # and of no JSON value.
            before = "" if self._request.output_schema is not None else self._text
            self._text = f"{before}\n\n" if before else ""
            self._interrupted = False
        self._text += text
        self._halved = self._halved or whole_characters(text) != text

    def _add(self, index: int, delta: "RawContentBlockDelta") -> None:
        block = self._blocks[index]
        match delta.type:
            case "text_delta":
                block["text"] += delta.text
                self._say(delta.text)
                self._unreported += size(delta.text)
            case "citations_delta":
                block["citations"] = [
                    *(block.get("citations") or ()),
                    delta.citation.to_dict(warnings=False),
                ]
            case "input_json_delta":
                self._arguments[index] = self._arguments.get(index, "") + delta.partial_json
                self._unreported += size(delta.partial_json)
            case "thinking_delta":
                block["thinking"] += delta.thinking
                self._unreported += size(delta.thinking)
            case "signature_delta":
                block["signature"] = delta.signature
            case _:
                pass

    def _count(self, reported: "ReportedUsage | MessageDeltaUsage", *, model: str) -> None:
        # Cumulative: a later report replaces an earlier one, where it says anything at all.
        counts = {
            "tokens_in": reported.input_tokens,
            "tokens_out": reported.output_tokens,
            "cache_read": reported.cache_read_input_tokens,
            "cache_write": reported.cache_creation_input_tokens,
        }
        if (served := reported.server_tool_use) is not None:
            counts["searches"] = getattr(served, "web_search_requests", None)
            counts["fetches"] = getattr(served, "web_fetch_requests", None)
        # A count below zero says nothing either: a reply that was paid for is not lost over it.
        said = {name: count for name, count in counts.items() if count is not None and count >= 0}
        counted = self._reported.model_dump() | said | {"model": model}
        self._reported = Usage.model_validate(counted)
        if "tokens_out" in said:
            self._unreported = 0

    def _stop(self, event: "RawMessageDeltaEvent") -> None:
        reason = event.delta.stop_reason
        self._paused = reason == "pause_turn"
        if (container := event.delta.container) is not None:
            self._note_container(container.id)
        # A reason that is new to us is not known to leave the reply whole.
        self._stop_reason = _STOP_REASONS.get(str(reason), "pause")
        if str(reason) not in _STOP_REASONS:
            self._detail = f"it gave {reason!r} as its reason for stopping"
        if (details := event.delta.stop_details) is not None:
            parts = (details.category, details.explanation)
            self._detail = ": ".join(part for part in parts if part)

    def _note_container(self, container: str) -> None:
        self._container = container
        # Code that runs beside a web tool costs nothing.
        free = any(tool.name != "code_execution" for tool in self._request.server_tools)
        if container != self._request.container and not free:
            self._reported = self._reported.model_copy(update={"containers": 1})

    def reply(self, usage: Usage) -> Reply:
        """Return the reply, which took `usage`.

        Raises:
            ValueError: it is not whole, or a tool call in it has no proper arguments.
        """
        if not self.whole:
            raise ValueError("it ends before it is complete")
        # A reply that was cut while asking for tools is cut, whichever of them it got to.
        goes_on = self._paused or self._stop_reason == "tool_use"
        self._fill_in_arguments(all_of_them=goes_on)
        blocks = self._whole_blocks() if goes_on else []
        calls = _tool_calls(blocks)
        pages = [*fetched(self._request.messages), *pages_in(self._blocks.values())]
        return Reply(
            text=self.text,
            stop_reason=self._stop_reason,
            usage=usage,
            tool_calls=calls,
            detail=self._detail,
            native=_native(blocks, paused=self._paused) if calls or self._paused else (),
            server_tool_uses=uses_of(self._blocks, self._arrived, now=anyio.current_time()),
            sources=sources_of(self._blocks.values(), pages),
            container=self._container,
        )

    def _fill_in_arguments(self, *, all_of_them: bool) -> None:
        for index, arguments in self._arguments.items():
            try:
                self._blocks[index]["input"] = read_json(arguments) if arguments else {}
            except ValueError:
                if all_of_them:
                    raise

    def _whole_blocks(self) -> list[dict[str, Any]]:
        return [cast("dict[str, Any]", whole_value(block)) for block in self._blocks.values()]


def _tool_calls(blocks: Sequence[dict[str, Any]]) -> tuple[ToolCall, ...]:
    return tuple(
        ToolCall(id=block["id"], name=block["name"], arguments=block["input"])
        for block in blocks
        if block["type"] == "tool_use"
    )


def _native(blocks: Sequence[dict[str, Any]], *, paused: bool) -> tuple[dict[str, JsonValue], ...]:
    """Return the blocks if there is more to them, such as thinking, than we have words for.

    The provider wants a message that asked for tools given back as it was; and one in which it
    paused, whatever there is to it.
    """
    if not paused and all(block["type"] in _SAID_IN_OUR_WORDS for block in blocks):
        return ()
    # The provider refuses text that is nothing but space, also where it was its own.
    return tuple(block for block in blocks if block["type"] != "text" or block["text"].strip())


_PREFIX = "anthropic-ratelimit"
_TOKENS = ("tokens", "input-tokens", "output-tokens")
_LONGEST_INTERVAL = 60.0
"""Limits are per minute; a reset that lies further off is a clock that is wrong."""


def read_allowance(headers: Mapping[str, str]) -> Allowance | None:
    """Return what the provider will still take, if it says so."""
    now = _sent_at(headers)
    for kind in _TOKENS:
        if _count(headers, kind, "remaining") == 0:
            # What the next call will take is not known, so it waits until it may take anything.
            return Allowance(0, _until_reset(headers, kind, now))
    calls = _count(headers, "requests", "remaining")
    if calls is None:
        return None
    # The limit refills all the time, and the reset is when it will be full again.
    limit = _count(headers, "requests", "limit")
    missing = limit - calls if limit is not None and limit > calls else 1
    return Allowance(calls, _until_reset(headers, "requests", now) / missing)


def _count(headers: Mapping[str, str], kind: str, what: str) -> int | None:
    try:
        return max(int(headers.get(f"{_PREFIX}-{kind}-{what}", "")), 0)
    except ValueError:
        return None


def _until_reset(headers: Mapping[str, str], kind: str, now: float) -> float:
    try:
        reset = datetime.fromisoformat(headers.get(f"{_PREFIX}-{kind}-reset", "")).timestamp()
    except ValueError:
        return 0.0
    return min(max(reset - now, 0.0), _LONGEST_INTERVAL)


def _sent_at(headers: Mapping[str, str]) -> float:
    """Return the time by the provider's clock, which its reset times go by."""
    try:
        return email.utils.parsedate_to_datetime(headers.get("date", "")).timestamp()
    except ValueError:
        return time.time()
