"""A request in the provider's words."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any, cast

from anthropic import transform_schema

from concertmaster.llm.messages import (
    FETCHED_TOKENS,
    AssistantMessage,
    Image,
    JsonSchema,
    Message,
    Reply,
    Request,
    ServerTool,
    ToolCall,
    ToolOutcome,
    ToolSpec,
    UserMessage,
)
from concertmaster.llm.outcomes import with_report

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


_DEFINITION = "#/$defs/"
_CHOICES = ("anyOf", "oneOf", "allOf")


class OpenSchemaError(ValueError):
    """The schema leaves open what structured output has to be told."""


def closed_schema(schema: JsonSchema) -> JsonSchema | None:
    """Return `schema` as the provider accepts it, or None when it would lose its meaning.

    Objects are closed, and constraints that the provider does not enforce move into the
    descriptions, so a reply has yet to be validated. A schema that somewhere allows any
    value or any property, or that refers to itself, has no such form.
    """
    try:
        _check_references(schema)
        return transform_schema(_with_single_types(schema))
    except ValueError:
        return None


def _with_single_types(schema: object) -> JsonSchema:
    """Return `schema` with a choice of schemas wherever it has a choice of types."""
    if not isinstance(schema, dict):
        raise OpenSchemaError
    single = dict(cast("JsonSchema", schema))
    for key in ("properties", "$defs"):
        if key in single:
            parts = cast("JsonSchema", single[key])
            single[key] = {name: _with_single_types(part) for name, part in parts.items()}
    for key in _CHOICES:
        if key in single:
            single[key] = [_with_single_types(part) for part in single[key]]
    if "items" in single:
        single["items"] = _with_single_types(single["items"])
    _check_closed(single)
    if isinstance(single.get("type"), list) and "enum" not in single:
        variants = [{**single, "type": name} for name in single["type"]]
        return {"anyOf": [_with_single_types(variant) for variant in variants]}
    return single


def _check_closed(schema: JsonSchema) -> None:
    kind = schema.get("type")
    structured = any(key in schema for key in ("properties", "items"))
    if structured and any(key in schema for key in _CHOICES):
        raise OpenSchemaError
    if kind == "object" and (
        "patternProperties" in schema
        or not (schema.get("properties") or schema.get("additionalProperties") is False)
    ):
        raise OpenSchemaError
    if kind == "array" and "items" not in schema:
        raise OpenSchemaError


def _check_references(schema: JsonSchema) -> None:
    definitions = cast("dict[str, Any]", schema.get("$defs", {}))
    graph = {name: set(_references(part)) for name, part in definitions.items()}
    graph[""] = set(_references({**schema, "$defs": {}}))
    unknown = set[str]().union(*graph.values()) - set(definitions)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError:
        raise OpenSchemaError from None
    if unknown:
        raise OpenSchemaError


def _references(value: object) -> Iterator[str]:
    """Yield what `value` refers to: names of definitions, where it is well-behaved."""
    if isinstance(value, list):
        for item in cast("list[object]", value):
            yield from _references(item)
    elif isinstance(value, dict):
        for key, item in cast("dict[str, object]", value).items():
            if key == "$ref" and isinstance(item, str):
                yield item.removeprefix(_DEFINITION)
            else:
                yield from _references(item)


MOST_CHARS = 64
_REFUSED = re.compile(r"[^A-Za-z0-9_-]")


class ToolNames:
    """The tools of a request, each with a name that the provider takes: its own where it can.

    `time.now` becomes `time__now`. What would be too long, or the name of another tool, ends
    with a hash of the name instead.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._ours: dict[str, str] = {}
        self._theirs: dict[str, str] = {}
        # Those that stay as they are come first, so that no other takes their name.
        for name in sorted(names, key=lambda name: _spelled(name) != name):
            spelled = _spelled(name)
            if spelled in self._ours:
                spelled = _hashed(name)
            self._ours[spelled] = name
            self._theirs[name] = spelled

    @classmethod
    def of(cls, request: Request) -> "ToolNames":
        """Return the names of the tools of a request."""
        return cls(spec.name for spec in request.tools)

    def theirs(self, name: str) -> str:
        """Return what the provider knows a tool as; also one that is not there any more."""
        return self._theirs.get(name) or _spelled(name)

    def in_ours(self, reply: Reply) -> Reply:
        """Return a reply with the tool calls under our own names."""
        calls = tuple(
            call.model_copy(update={"name": self._ours.get(call.name, call.name)})
            for call in reply.tool_calls
        )
        return reply.model_copy(update={"tool_calls": calls})


def _spelled(name: str) -> str:
    spelled = _REFUSED.sub("_", name.replace(".", "__", 1))
    return spelled if len(spelled) <= MOST_CHARS else _hashed(name)


def _hashed(name: str) -> str:
    digest = hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:8]
    start = _REFUSED.sub("_", name.replace(".", "__", 1))[: MOST_CHARS - len(digest) - 1]
    return f"{start}_{digest}"


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
