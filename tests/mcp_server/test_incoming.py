"""Lines of a stdio client that are no messages."""

import json
from contextvars import Context, copy_context

import anyio
import pytest
from mcp.shared.message import SessionMessage
from mcp.types import JSONRPCError, JSONRPCRequest, jsonrpc_message_adapter
from pydantic import ValidationError

from concertmaster.mcp_server.incoming import AnsweredStream, Item, mended

pytestmark = pytest.mark.anyio

DEEP = '{"jsonrpc": "2.0", "method": "tools/call", "params": {"a": %s%s}, "id": 7}'
REQUEST = SessionMessage(JSONRPCRequest(jsonrpc="2.0", id=1, method="ping"))


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (r'"a\ud800b"', "a\ufffdb"),
        (r'"\uDFFF"', "\ufffd"),
        (r'"\ud83d\ude00 \ud83d\ud83d\ude00"', "\U0001f600 \ufffd\U0001f600"),
        (r'"\ude00\ud83d"', "\ufffd\ufffd"),
        (r'"\\ud800 \\\ud800"', "\\ud800 \\\ufffd"),
        (r'"\"\n\u00e9"', '"\n\u00e9'),
    ],
)
def test_half_a_character_in_a_line_is_mended_and_all_else_is_left(line: str, text: str) -> None:
    assert json.loads(mended(line)) == text


class Sent:
    """Where answers go to."""

    def __init__(self) -> None:
        self.errors: list[JSONRPCError] = []

    async def send(self, item: SessionMessage, /) -> None:
        assert isinstance(item.message, JSONRPCError)
        self.errors.append(item.message)


class Received:
    """A stream of messages and errors."""

    def __init__(self, *items: Item) -> None:
        self._items = list(items)
        self.last_context: Context | None = None
        self.closed = False

    async def receive(self) -> Item:
        if not self._items:
            raise anyio.EndOfStream
        self.last_context = copy_context()
        return self._items.pop(0)

    async def aclose(self) -> None:
        self.closed = True


def error_of(line: str) -> Exception:
    """Return what the transport makes of a line."""
    with pytest.raises(ValidationError) as caught:
        jsonrpc_message_adapter.validate_json(line, by_name=False)
    return caught.value


@pytest.mark.parametrize(
    ("line", "code", "request_id"),
    [
        ("garbage", -32700, None),
        ("[" * 100_000, -32700, None),
        (DEEP % ("[" * 200, "]" * 200), -32700, 7),
        (DEEP % ("[" * 5_000, "]" * 5_000), -32700, 7),
        (DEEP % ('{"id": 8, "a": [' * 300, "]}" * 300), -32700, 7),
        ('{"method": "x", "params": {"text": "\\" ,id"}, "id": "é", broken', -32700, "é"),
        ('{"method": "x", "id": 7, "id": [1], oops', -32700, 7),
        ('{"method": "x", "id": 1.5, oops', -32700, None),
        ('{"id": 7, "result": {}, oops', -32700, None),
        ("[]", -32600, None),
        ('{"jsonrpc": "2.0"}', -32600, None),
        ('{"id": 7, "method": "ping"}', -32600, 7),
        ('{"jsonrpc": "2.0", "id": "a", "method": "x", "params": 5}', -32600, "a"),
        ('{"id": true, "method": "ping"}', -32600, None),
        ('{"jsonrpc": "2.0", "id": 7, "result": 5}', -32600, None),
    ],
)
async def test_what_is_no_message_is_answered_and_the_next_one_is_returned(
    line: str, code: int, request_id: str | int | None
) -> None:
    sent = Sent()
    stream = AnsweredStream(Received(error_of(line), REQUEST), sent)
    assert await stream.receive() is REQUEST
    (error,) = sent.errors
    assert (error.error.code, error.id) == (code, request_id)


async def test_an_error_of_any_kind_is_answered() -> None:
    sent = Sent()
    stream = AnsweredStream(Received(RecursionError(), REQUEST), sent)
    assert await stream.receive() is REQUEST
    assert sent.errors[0].error.code == -32700


async def test_messages_come_through_with_their_context_until_the_end() -> None:
    received = Received(REQUEST, REQUEST)
    async with AnsweredStream(received, Sent()) as stream:
        assert [item async for item in stream] == [REQUEST, REQUEST]
        assert stream.last_context is received.last_context is not None
    assert received.closed
