"""A reply as it arrives, event by event."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import anyio
from pydantic import JsonValue

from concertmaster.llm.anthropic.served import fetched, is_served, pages_in, sources_of, uses_of
from concertmaster.llm.lengths import most_tokens, size
from concertmaster.llm.protocol import (
    Reply,
    Request,
    StopReason,
    ToolCall,
    Usage,
    whole_characters,
)
from concertmaster.llm.structured import read_json, whole_value

if TYPE_CHECKING:
    from anthropic.types import (
        MessageDeltaUsage,
        RawContentBlockDelta,
        RawMessageDeltaEvent,
        RawMessageStreamEvent,
    )
    from anthropic.types import Usage as ReportedUsage

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
