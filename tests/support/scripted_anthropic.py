"""A provider in the test's own process, beneath the real SDK: replies as streams of events."""

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx2

from concertmaster.llm.anthropic import AnthropicLLM, Connection, open_anthropic
from concertmaster.llm.messages import Message, Request, SynthesisBrief, UserMessage
from concertmaster.llm.pricing import load_prices

Event = bytes | Exception
"""What comes over the wire next: an event, or the end of the connection."""

KEY = "sk-test-0123456789"
EVENT_STREAM = {"content-type": "text/event-stream"}


def event(kind: str, **data: Any) -> bytes:
    """Return one event of a stream."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n".encode()


def started(*, model: str = "claude-sonnet-5-5", **usage: int) -> bytes:
    """Return the event that begins a reply and reports the input tokens."""
    message: dict[str, Any] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 1000, "output_tokens": 1} | usage,
    }
    return event("message_start", message=message)


def block(index: int, start: Mapping[str, Any], *deltas: Mapping[str, Any]) -> bytes:
    """Return the events of one content block."""
    return b"".join(
        [
            event("content_block_start", index=index, content_block=start),
            *(event("content_block_delta", index=index, delta=delta) for delta in deltas),
            event("content_block_stop", index=index),
        ]
    )


def text_block(*pieces: str, index: int = 0) -> bytes:
    """Return the events of a text that arrives in pieces."""
    deltas = [{"type": "text_delta", "text": piece} for piece in pieces]
    return block(index, {"type": "text", "text": ""}, *deltas)


def tool_block(call_id: str, name: str, *pieces: str, index: int = 0) -> bytes:
    """Return the events of a tool call whose arguments arrive in pieces of JSON."""
    deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    return block(index, {"type": "tool_use", "id": call_id, "name": name, "input": {}}, *deltas)


def ended(
    stop_reason: str | None = "end_turn",
    *,
    stop_details: Mapping[str, Any] | None = None,
    **usage: int,
) -> bytes:
    """Return the events that end a reply and report the output tokens."""
    delta = {"stop_reason": stop_reason, "stop_sequence": None, "stop_details": stop_details}
    return event("message_delta", delta=delta, usage={"output_tokens": 200} | usage) + event(
        "message_stop"
    )


def whole(text: str = "done") -> bytes:
    """Return the events of a plain reply."""
    return started() + text_block(text) + ended()


def stream(*events: Event) -> httpx2.Response:
    """Return a response that streams `events`; an exception breaks the connection."""

    async def body() -> AsyncGenerator[bytes]:
        for item in events:
            if isinstance(item, Exception):
                raise item
            yield item

    return httpx2.Response(200, headers=EVENT_STREAM, content=body())


def failure(
    status: int,
    kind: str,
    message: str = "because",
    *,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> httpx2.Response:
    """Return a response that tells of an error."""
    error: dict[str, Any] = {"type": kind, "message": message}
    if code is not None:
        error["details"] = {"error_code": code}
    return httpx2.Response(status, headers=headers, json={"type": "error", "error": error})


class Provider(httpx2.AsyncBaseTransport):
    """Answers requests with scripted responses, one after the other, and keeps the requests."""

    def __init__(self, *responses: httpx2.Response | Exception) -> None:
        self._responses = list(responses)
        self.requests: list[httpx2.Request] = []
        self.closed = False

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        response = self._responses.pop(0)
        if isinstance(response, Exception):
            raise response
        return response

    async def aclose(self) -> None:
        self.closed = True

    @property
    def body(self) -> dict[str, Any]:
        """Return the body of the latest request."""
        return json.loads(self.requests[-1].content)


@asynccontextmanager
async def connected(
    provider: httpx2.AsyncBaseTransport, **connection: Any
) -> AsyncGenerator[AnthropicLLM]:
    """Open the real adapter over a scripted provider."""
    settings: dict[str, Any] = {"api_key": KEY} | connection
    async with open_anthropic(
        Connection(transport=provider, **settings), prices=load_prices()
    ) as llm:
        yield llm


def ask(*messages: Message, **fields: Any) -> Request:
    """Return a request."""
    given: dict[str, Any] = {
        "caller": "worker:analyst",
        "model": "sonnet",
        "system": "You are an analyst.",
        "messages": messages or (UserMessage(text="Why?"),),
        "brief": SynthesisBrief(task="t", results=()),
        "max_tokens": 500,
    }
    return Request(**(given | fields))
