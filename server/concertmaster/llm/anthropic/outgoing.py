"""A request in the provider's words."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from concertmaster.llm.anthropic.schemas import closed_schema
from concertmaster.llm.protocol import (
    AssistantMessage,
    Message,
    Request,
    ToolCall,
    ToolOutcome,
    ToolSpec,
    UserMessage,
)

if TYPE_CHECKING:
    from anthropic.types import (
        ContentBlockParam,
        MessageParam,
        TextBlockParam,
        ToolParam,
        ToolResultBlockParam,
        ToolUseBlockParam,
    )
    from anthropic.types.message_create_params import MessageCreateParamsStreaming

_SCHEMA_IN_WORDS = (
    "Reply with one JSON value that is valid under this JSON Schema, and nothing else:\n"
)


def message_params(request: Request, *, model: str) -> "MessageCreateParamsStreaming":
    """Return the arguments of the SDK's call for `request`."""
    params: MessageCreateParamsStreaming = {
        "model": model,
        "max_tokens": request.max_tokens,
        "messages": _messages(request),
        "stream": True,
    }
    system = [_cached(request.system)] if request.system else []
    if request.output_schema is not None:
        closed = closed_schema(request.output_schema)
        if closed is None:
            system.append(_text(_SCHEMA_IN_WORDS + json.dumps(request.output_schema)))
        else:
            params["output_config"] = {"format": {"type": "json_schema", "schema": closed}}
    if system:
        params["system"] = system
    if request.tools:
        params["tools"] = [_tool(spec) for spec in request.tools]
    return params


def _text(text: str) -> "TextBlockParam":
    return {"type": "text", "text": text}


def _cached(text: str) -> "TextBlockParam":
    """Return a block at whose end the provider caches all that came so far."""
    return {"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}


def _tool(spec: ToolSpec) -> "ToolParam":
    return {
        "name": spec.name,
        "description": spec.description,
        "input_schema": spec.input_schema,
    }


def _messages(request: Request) -> "list[MessageParam]":
    messages = [_message(message) for message in request.messages]
    if request.shared:
        own = cast("Sequence[ContentBlockParam]", messages[0]["content"])
        messages[0] = {"role": "user", "content": [_cached(request.shared), *own]}
    return messages


def _message(message: Message) -> "MessageParam":
    match message:
        case UserMessage():
            return {"role": "user", "content": [_text(message.text)]}
        case AssistantMessage():
            return {"role": "assistant", "content": _said(message)}
        case _:
            return {"role": "user", "content": [_result(item) for item in message.outcomes]}


def _said(message: AssistantMessage) -> "list[ContentBlockParam]":
    if message.native:
        return cast("list[ContentBlockParam]", list(message.native))
    # The provider refuses a block of empty text.
    text = [_text(message.text)] if message.text else []
    return [*text, *(_tool_use(call) for call in message.tool_calls)]


def _tool_use(call: ToolCall) -> "ToolUseBlockParam":
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": dict(call.arguments)}


def _result(outcome: ToolOutcome) -> "ToolResultBlockParam":
    return {
        "type": "tool_result",
        "tool_use_id": outcome.id,
        "content": outcome.text,
        "is_error": outcome.failed,
    }
