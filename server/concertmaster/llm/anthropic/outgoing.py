"""A request in the provider's words."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from concertmaster.llm.anthropic.names import ToolNames
from concertmaster.llm.anthropic.schemas import closed_schema
from concertmaster.llm.images import Image
from concertmaster.llm.outcomes import with_report
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
from concertmaster.llm.server_tools import FETCHED_TOKENS, ServerTool

if TYPE_CHECKING:
    from anthropic.types import (
        ContentBlockParam,
        ImageBlockParam,
        MessageParam,
        TextBlockParam,
        ToolParam,
        ToolResultBlockParam,
        ToolUnionParam,
        ToolUseBlockParam,
    )
    from anthropic.types.message_create_params import MessageCreateParamsStreaming

_SCHEMA_IN_WORDS = (
    "Reply with one JSON value that is valid under this JSON Schema, and nothing else:\n"
)


_REPORT_IN_WORDS = (
    "\nOnly if the objective was not wholly met, a line above it says so: `Not done: ` or "
    "`Partly done: `, and the reason."
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
    if (schema := request.output_schema) is not None and not _in_words(request):
        whole = with_report(schema) if request.reports_outcome else schema
        closed = cast("JsonSchema", closed_schema(whole))
        params["output_config"] = {"format": {"type": "json_schema", "schema": closed}}
    if tools := _tools(request):
        params["tools"] = tools
    if request.container:
        params["container"] = request.container
    return params


def _tools(request: Request) -> "list[ToolUnionParam]":
    names = ToolNames.of(request)
    own = [_tool(spec, names) for spec in request.tools]
    return [*own, *(_served(tool) for tool in request.server_tools)]


def _served(tool: ServerTool) -> "ToolUnionParam":
    """Return a tool that the provider calls itself.

    The web tools are for the model alone: called from code, as they may be too, they need
    models that can do that, and a container.
    """
    match tool.name:
        case "web_search":
            return {
                "type": "web_search_20260318",
                "name": "web_search",
                "max_uses": tool.max_uses,
                "allowed_domains": tool.allowed_domains or None,
                "blocked_domains": tool.blocked_domains or None,
                "allowed_callers": ["direct"],
            }
        case "web_fetch":
            return {
                "type": "web_fetch_20260318",
                "name": "web_fetch",
                "max_uses": tool.max_uses,
                "max_content_tokens": FETCHED_TOKENS,
                "citations": {"enabled": True},
                "allowed_domains": tool.allowed_domains or None,
                "blocked_domains": tool.blocked_domains or None,
                "allowed_callers": ["direct"],
            }
        case _:
            return {"type": "code_execution_20260521", "name": "code_execution"}


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
    messages = _merged([_message(message, names) for message in request.messages])
    own = cast("Sequence[ContentBlockParam]", messages[0]["content"])
    shared = [_cached(request.shared)] if request.shared else []
    # Below what is shared, so that it does not keep that from being read from the cache.
    schema = request.output_schema
    report = _REPORT_IN_WORDS if request.reports_outcome else ""
    schema_words = f"{_SCHEMA_IN_WORDS}{json.dumps(schema)}{report}"
    words = [_text(schema_words)] if schema and _in_words(request) else []
    messages[0] = {"role": "user", "content": [*shared, *own, *words]}
    return messages


def _merged(messages: "Sequence[MessageParam]") -> "list[MessageParam]":
    """Return messages of which no two follow one another that the model wrote.

    A reply that the provider paused in goes on in the next.
    """
    merged: list[MessageParam] = []
    for message in messages:
        if merged and message["role"] == merged[-1]["role"] == "assistant":
            said = cast("list[ContentBlockParam]", merged[-1]["content"])
            more = cast("list[ContentBlockParam]", message["content"])
            merged[-1] = {"role": "assistant", "content": [*said, *more]}
        else:
            merged.append(message)
    return merged


def _in_words(request: Request) -> bool:
    """Tell whether the provider cannot be held to the schema, so that words have to do.

    Where it searches the web it cites, which it cannot do in a reply that is held to one.
    """
    return bool(request.server_tools) or closed_schema(request.output_schema or {}) is None


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
        "content": [_text(outcome.text), *map(_image, outcome.images)]
        if outcome.images
        else outcome.text,
        "is_error": outcome.failed,
    }


def _image(image: Image) -> "ImageBlockParam":
    return {
        "type": "image",
        "source": {"type": "base64", "media_type": image.media_type, "data": image.data},
    }
