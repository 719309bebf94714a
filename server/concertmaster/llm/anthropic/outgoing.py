"""A request in the provider's words."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from concertmaster.llm.anthropic.names import ToolNames
from concertmaster.llm.anthropic.schemas import closed_schema
from concertmaster.llm.protocol import (
    AssistantMessage,
    JsonSchema,
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


_REFUSED_KEYS = ("allOf", "anyOf", "oneOf")
"""What the provider refuses at the top of a tool's schema; the tool checks its arguments anyway."""


def message_params(request: Request, *, model: str) -> "MessageCreateParamsStreaming":
    """Return the arguments of the SDK's call for `request`."""
    params: MessageCreateParamsStreaming = {
        "model": model,
        "max_tokens": request.max_tokens,
        "messages": _messages(request),
        "stream": True,
    }
    if request.system:
        params["system"] = [_cached(request.system)]
    if request.output_schema is not None:
        closed = closed_schema(request.output_schema)
        if closed is not None:
            params["output_config"] = {"format": {"type": "json_schema", "schema": closed}}
    if request.tools:
        names = ToolNames.of(request)
        params["tools"] = [_tool(spec, names) for spec in request.tools]
    return params


def _text(text: str) -> "TextBlockParam":
    return {"type": "text", "text": text}


def _cached(text: str) -> "TextBlockParam":
    """Return a block at whose end the provider caches all that came so far."""
    return {"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}


def _tool(spec: ToolSpec, names: ToolNames) -> "ToolParam":
    return {
        "name": names.theirs(spec.name),
        "description": spec.description,
        "input_schema": {
            key: value for key, value in spec.input_schema.items() if key not in _REFUSED_KEYS
        },
    }


def _messages(request: Request) -> "list[MessageParam]":
    names = ToolNames.of(request)
    messages = [_message(message, names) for message in request.messages]
    own = cast("Sequence[ContentBlockParam]", messages[0]["content"])
    shared = [_cached(request.shared)] if request.shared else []
    # Below what is shared, so that it does not keep that from being read from the cache.
    schema = request.output_schema
    words = [_text(_SCHEMA_IN_WORDS + json.dumps(schema))] if schema and _open(schema) else []
    messages[0] = {"role": "user", "content": [*shared, *own, *words]}
    return messages


def _open(schema: JsonSchema) -> bool:
    """Tell whether the provider cannot be held to a schema, so that words have to do."""
    return closed_schema(schema) is None


def _message(message: Message, names: ToolNames) -> "MessageParam":
    match message:
        case UserMessage():
            return {"role": "user", "content": [_text(message.text)]}
        case AssistantMessage():
            return {"role": "assistant", "content": _said(message, names)}
        case _:
            return {"role": "user", "content": [_result(item) for item in message.outcomes]}


def _said(message: AssistantMessage, names: ToolNames) -> "list[ContentBlockParam]":
    if message.native:
        return cast("list[ContentBlockParam]", list(message.native))
    # The provider refuses a block of empty text.
    text = [_text(message.text)] if message.text else []
    return [*text, *(_tool_use(call, names) for call in message.tool_calls)]


def _tool_use(call: ToolCall, names: ToolNames) -> "ToolUseBlockParam":
    name = names.theirs(call.name)
    return {"type": "tool_use", "id": call.id, "name": name, "input": dict(call.arguments)}


def _result(outcome: ToolOutcome) -> "ToolResultBlockParam":
    return {
        "type": "tool_result",
        "tool_use_id": outcome.id,
        "content": outcome.text,
        "is_error": outcome.failed,
    }
