"""What a client writes to a stdio server: each line is a message, or is answered with an error."""

import json
import re
from collections.abc import Iterator
from contextvars import Context
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, cast

import anyio
from mcp.shared.message import SessionMessage
from mcp.types import INVALID_REQUEST, PARSE_ERROR, ErrorData, JSONRPCError
from pydantic import ValidationError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


Item = SessionMessage | Exception
"""A message, or why a line is none."""

_ESCAPE = re.compile(
    r"""
      \\u[dD][89abAB][0-9a-fA-F]{2} \\u[dD][c-fC-F][0-9a-fA-F]{2}
    | (?P<half> \\u[dD][89a-fA-F][0-9a-fA-F]{2} )
    | \\.
    """,
    re.VERBOSE,
)


_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[{]+|[\]}]+|[,:]|[^\s"\[\]{},:]+', re.DOTALL)
"""A part of JSON: a string, brackets of one kind in a row, a comma or colon, another value."""

SCANNED_CHARS = 1_000_000
"""How much of a text is searched for the id of a request."""

NO_JSON = "This line is no JSON that can be read."
TOO_DEEP = "This message is nested too deeply; fewer than 200 levels can be read."


def mended(line: str) -> str:
    r"""Return a line of JSON with `\ufffd` for each escape that stands for half a character.

    JSON can spell those and some clients do, when they cut a text; no parser of ours takes them.
    """
    return _ESCAPE.sub(lambda found: r"\ufffd" if found["half"] else found[0], line)


class Incoming(Protocol):
    """Where messages come from."""

    async def receive(self) -> Item:
        """Return the next message."""
        ...

    async def aclose(self) -> None:
        """Take no more of them."""
        ...


class Answering(Protocol):
    """Whatever takes messages to a client."""

    async def send(self, item: SessionMessage, /) -> None:
        """Send a message."""
        ...


class Outgoing(Answering, Protocol):
    """Where messages go to."""

    async def aclose(self) -> None:
        """Send no more of them."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool | None: ...


class AnsweredStream:
    """The messages of a stream; what is no message is answered, so that no client waits for ever.

    The SDK drops it without a word.
    """

    def __init__(self, incoming: Incoming, outgoing: Answering) -> None:
        self._incoming = incoming
        self._outgoing = outgoing

    @property
    def last_context(self) -> Context | None:
        """Return the context variables that the last message came with."""
        return getattr(self._incoming, "last_context", None)

    async def receive(self) -> Item:
        """Return the next message."""
        while isinstance(item := await self._incoming.receive(), Exception):
            await self._outgoing.send(SessionMessage(_refusal(item)))
        return item

    async def aclose(self) -> None:
        """Take no more messages."""
        await self._incoming.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        await self.aclose()


def _refusal(error: Exception) -> JSONRPCError:
    problems = error.errors(include_url=False) if isinstance(error, ValidationError) else []
    if not problems or problems[0]["type"] == "json_invalid":
        return _unreadable(problems[0] if problems else None)
    data = ErrorData(code=INVALID_REQUEST, message="This line is no JSON-RPC message.")
    whole = (_request_id(problem["input"]) for problem in problems)
    request_id = next((number for number in whole if number is not None), None)
    return JSONRPCError(jsonrpc="2.0", id=request_id, error=data)


def _unreadable(problem: "ErrorDetails | None") -> JSONRPCError:
    """Return the answer to a line that cannot be parsed."""
    too_deep = problem is not None and "recursion limit" in problem["msg"]
    data = ErrorData(code=PARSE_ERROR, message=TOO_DEEP if too_deep else NO_JSON)
    found = None if problem is None else request_id_in(str(problem["input"]))
    return JSONRPCError(jsonrpc="2.0", id=found, error=data)


def request_id_in(text: str) -> int | str | None:
    """Return the id of what was meant as a request, though it cannot be parsed as JSON.

    Only the members of the outermost object are looked at, and no more than the beginning of a
    very long text.
    """
    outermost = list(_outermost(text))
    members = {
        name: value
        for name, colon, value in zip(outermost, outermost[1:], outermost[2:], strict=False)
        if colon == ":" and value not in ",:"
    }
    return _plain_id(members.get('"id"', "")) if '"method"' in members else None


def _outermost(text: str) -> Iterator[str]:
    """Yield the tokens of the outermost object, without those of arrays and objects in it."""
    depth = 0
    for found in _TOKEN.finditer(text, 0, SCANNED_CHARS):
        token = found[0]
        if token[0] in "[{":
            depth += len(token)
        elif token[0] in "]}":
            depth -= len(token)
        elif depth == 1:
            yield token


def _plain_id(token: str) -> int | str | None:
    try:
        given: object = json.loads(token)
    except ValueError:
        return None
    return given if isinstance(given, int | str) and not isinstance(given, bool) else None


def _request_id(message: object) -> int | str | None:
    """Return the id of what was meant as a request; an answer to one of ours has none to us."""
    if not isinstance(message, dict) or "method" not in message:
        return None
    given = cast("dict[str, object]", message).get("id")
    return given if isinstance(given, int | str) and not isinstance(given, bool) else None
