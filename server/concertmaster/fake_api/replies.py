"""A reply as a stream of events, with what goes wrong in it."""

import json
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import anyio
from pydantic import JsonValue

from concertmaster.fake_api.behaviour import Behaviour, Fault
from concertmaster.fake_api.requests import Json, MessagesRequest, count_tokens
from concertmaster.fake_api.usage import CacheUse, Entry

CHARS_PER_TOKEN = 4
WORDS = "Some words of an answer that nobody thought about, one after another. "
REPORTS = {
    "not_met": "Not done: It was scripted so.\n\n",
    "partly_met": "Partly done: It was scripted so.\n\n",
}
"""How a worker's reply in words begins, by the value that is given for `outcome`."""


def answer(
    request: MessagesRequest, *, subtasks: int, tokens: int, values: Mapping[str, JsonValue]
) -> str:
    """Return a whole answer to `request`; in JSON, properties have these `values` by name.

    Words begin with the report that a value for `outcome` stands for.
    """
    schema = request.output_schema
    if schema is None:
        chars = tokens * CHARS_PER_TOKEN
        report = REPORTS.get(str(values.get("outcome")), "")
        return report + (WORDS * (chars // len(WORDS) + 1))[:chars]
    scripted = _Scripted(schema, values)
    if workers := _workers(schema):
        return json.dumps(_plan(scripted, workers, subtasks))
    return json.dumps(scripted.instance(schema))


def _workers(schema: Json) -> list[str]:
    """Return the workers that there are, if this is the schema of a plan."""
    try:
        worker: Json = schema["properties"]["subtasks"]["items"]["properties"]["worker"]
        # A plan that may bring workers along may also name others.
        return worker.get("anyOf", [worker])[0]["enum"]
    except KeyError:
        return []


def _plan(scripted: "_Scripted", workers: list[str], subtasks: int) -> Json:
    one: Json = scripted.root["properties"]["subtasks"]["items"]
    return {
        "analysis": "A plan that was written beforehand.",
        "direct_answer": None,
        "subtasks": [
            scripted.instance(one)
            | {
                "id": f"s{number}",
                "worker": workers[(number - 1) % len(workers)],
                "objective": f"Do part {number} of {subtasks}.",
                "depends_on": [],
                "inputs": [],
            }
            for number in range(1, subtasks + 1)
        ],
    }


@dataclass(frozen=True, slots=True)
class _Scripted:
    """The plainest values that the parts of a schema allow, but for properties that are given."""

    root: Json
    values: Mapping[str, JsonValue]

    def instance(self, schema: Json) -> Any:
        """Return the value for a part of the schema."""
        if reference := schema.get("$ref"):
            return self.instance(self.root["$defs"][reference.rpartition("/")[2]])
        for key in ("anyOf", "oneOf", "allOf"):
            if key in schema:
                return self.instance(schema[key][0])
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return schema["enum"][0]
        kind: str | list[str] = schema.get("type", "string")
        return self._of_type(kind if isinstance(kind, str) else kind[0], schema)

    def _of_type(self, kind: str, schema: Json) -> Any:
        match kind:
            case "object":
                properties = cast("dict[str, Json]", schema.get("properties", {}))
                return {name: self._property(name, part) for name, part in properties.items()}
            case "array":
                return [self.instance(schema["items"])] if "items" in schema else []
            case "integer" | "number":
                return 1
            case "boolean":
                return False
            case "null":
                return None
            case _:
                return "words"

    def _property(self, name: str, schema: Json) -> Any:
        return self.values[name] if name in self.values else self.instance(schema)


EventJson = dict[str, Any]

SEARCH = "web_search"
ADDRESS = "https://example.org/scripted"
TITLE = "A page that was written beforehand"
CITED = "Some words of a page that nobody wrote."
FOUND_TOKENS = 500
"""Tokens that a search gives the model to read."""


def may_search(request: MessagesRequest) -> bool:
    """Tell whether a request lets the web be searched."""
    return any(str(tool.get("type", "")).startswith(SEARCH) for tool in request.tools)


def goes_on(request: MessagesRequest) -> bool:
    """Tell whether there has been a reply in the conversation."""
    return any(message.role == "assistant" for message in request.messages)


def search_blocks(use_id: str) -> list[EventJson]:
    """Return a search and what it found, as blocks of a reply."""
    found = {
        "type": "web_search_result",
        "url": ADDRESS,
        "title": TITLE,
        "encrypted_content": "c2NyaXB0ZWQ=",
        "page_age": None,
    }
    return [
        {
            "type": "server_tool_use",
            "id": use_id,
            "name": SEARCH,
            "input": {"query": "what was asked"},
            "caller": {"type": "direct"},
        },
        {
            "type": "web_search_tool_result",
            "tool_use_id": use_id,
            "content": [found],
            "caller": {"type": "direct"},
        },
    ]


def citation() -> EventJson:
    """Return what a text that rests on the search cites."""
    return {
        "type": "web_search_result_location",
        "url": ADDRESS,
        "title": TITLE,
        "cited_text": CITED,
        "encrypted_index": "c2NyaXB0ZWQ=",
    }


PIECE_TOKENS = 4
"""Tokens that come in one event."""
WRONG_SCHEMA = '{"unexpected": true}'
_BROKEN_OFF: tuple[Fault, ...] = ("reset", "cut", "error_event", "malformed")


class ConnectionDropped(Exception):  # noqa: N818 (what happens on purpose is no error)
    """The connection is to be closed in the middle of the reply."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a reply has to say, and how it ends."""

    text: str
    stop_reason: str = "end_turn"
    stop_details: dict[str, str] | None = None
    fault: Fault | None = None
    searched: bool = False
    """Whether it begins with a search of the web."""
    cites: bool = False
    """Whether its text rests on such a search."""

    @property
    def broken_off(self) -> bool:
        """Tell whether it is sent in part only."""
        return self.fault in _BROKEN_OFF


def paused(reply: Reply) -> Reply:
    """Return a reply that stops after its search, to be gone on with."""
    return replace(reply, text="", stop_reason="pause_turn")


def make_reply(text: str, *, max_tokens: int, fault: Fault | None) -> Reply:
    """Return the reply to a request that would be answered with `text`."""
    match fault:
        case "refusal":
            details = {"type": "refusal", "category": "other", "explanation": "It was scripted."}
            return Reply(text="", stop_reason="refusal", stop_details=details, fault=fault)
        case "empty":
            return Reply(text="", fault=fault)
        case "wrong_schema":
            text = WRONG_SCHEMA
        case "max_tokens":
            max_tokens = min(max_tokens, max(count_tokens(text) // 2, 1))
        case _:
            pass
    if count_tokens(text) > max_tokens:
        cut = text[: max_tokens * CHARS_PER_TOKEN]
        return Reply(text=cut, stop_reason="max_tokens", fault=fault)
    return Reply(text=text, fault=fault)


async def stream(
    reply: Reply, entry: Entry, use: CacheUse, behaviour: Behaviour
) -> AsyncGenerator[bytes]:
    """Yield the events of a reply; `entry` is charged with what has been written of it.

    Raises:
        ConnectionDropped: the rest is never sent.
    """
    entry.tokens_in, entry.cache_read, entry.cache_write = use.fresh, use.read, use.write
    entry.tokens_out = 1
    yield _event("message_start", message=_message(entry))
    index = written = 0
    if reply.searched:
        for event in _search(entry):
            yield event
        index = 2
    pieces = _pieces(reply.text)
    if reply.broken_off:
        pieces = pieces[: len(pieces) // 2]
    if reply.text:
        text = {"type": "text", "text": ""}
        yield _event("content_block_start", index=index, content_block=text)
        async for piece in _at_speed(pieces, reply.fault, behaviour):
            delta = {"type": "text_delta", "text": piece}
            yield _event("content_block_delta", index=index, delta=delta)
            written += count_tokens(piece)
            entry.tokens_out = max(written, 1)
    if reply.broken_off:
        yield _last_words(reply.fault)
        return
    if reply.text:
        yield _end_of_text(reply, index)
    entry.tokens_out = max(count_tokens(reply.text), 1)
    end = {
        "stop_reason": reply.stop_reason,
        "stop_sequence": None,
        "stop_details": reply.stop_details,
    }
    yield _event("message_delta", delta=end, usage=_usage_at_end(entry))
    yield _event("message_stop")


def _search(entry: Entry) -> Iterator[bytes]:
    """Yield the events of a search; `entry` is charged with it."""
    blocks = search_blocks(entry.request_id.replace("req_", "srvtoolu_"))
    for index, block in enumerate(blocks):
        yield _event("content_block_start", index=index, content_block=block)
        yield _event("content_block_stop", index=index)
    entry.searches = 1
    entry.tokens_in += FOUND_TOKENS


def _end_of_text(reply: Reply, index: int) -> bytes:
    delta = {"type": "citations_delta", "citation": citation()}
    cited = _event("content_block_delta", index=index, delta=delta) if reply.cites else b""
    return cited + _event("content_block_stop", index=index)


def _usage_at_end(entry: Entry) -> dict[str, Any]:
    usage: dict[str, Any] = {"output_tokens": entry.tokens_out}
    if entry.searches:
        served = {"web_search_requests": entry.searches, "web_fetch_requests": 0}
        usage |= {"input_tokens": entry.tokens_in, "server_tool_use": served}
    return usage


def _last_words(fault: Fault | None) -> bytes:
    match fault:
        case "reset":
            raise ConnectionDropped
        case "error_event":
            error = {"type": "overloaded_error", "message": "Overloaded"}
            return _event("error", error=error)
        case "malformed":
            return b'event: content_block_delta\ndata: {"type": "content_block_delta", "ind\n\n'
        case _:
            return b""


async def _at_speed(
    pieces: Sequence[str], fault: Fault | None, behaviour: Behaviour
) -> AsyncGenerator[str]:
    began = anyio.current_time()
    speed = behaviour.tokens_per_second
    for number, piece in enumerate(pieces):
        if fault == "silence" and number == len(pieces) // 2:
            await anyio.sleep(behaviour.silence_seconds)
            began += behaviour.silence_seconds
        if speed:
            await anyio.sleep_until(began + (number + 1) * PIECE_TOKENS / speed)
        yield piece


def _pieces(text: str) -> list[str]:
    size = PIECE_TOKENS * CHARS_PER_TOKEN
    return [text[start : start + size] for start in range(0, len(text), size)]


def _message(entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.request_id.replace("req_", "msg_"),
        "type": "message",
        "role": "assistant",
        "model": entry.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {
            "input_tokens": entry.tokens_in,
            "output_tokens": entry.tokens_out,
            "cache_read_input_tokens": entry.cache_read,
            "cache_creation_input_tokens": entry.cache_write,
        },
    }


def _event(kind: str, **data: object) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n".encode()
