"""One request over the SDK: sent, received and accounted for, whatever becomes of it."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar, cast

import anyio
import anyio.lowlevel
import httpx2
from anthropic import APIStatusError, AsyncAnthropic, DefaultAsyncHttpxClient, Omit

from concertmaster.errors import ModelAccessError
from concertmaster.llm.anthropic.connection import Connection
from concertmaster.llm.anthropic.errors import (
    FAILURES,
    Failures,
    NoStreamError,
    NotSentError,
    may_have_been_charged,
)
from concertmaster.llm.anthropic.request import ToolNames, message_params
from concertmaster.llm.anthropic.response import Incoming, read_allowance
from concertmaster.llm.messages import Draft, Reply, Request
from concertmaster.llm.pricing import Prices
from concertmaster.llm.token_count import most_tokens_in
from concertmaster.llm.usage import Usage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anthropic import AsyncStream
    from anthropic.types import RawMessageStreamEvent


T = TypeVar("T")

GRACE_SECONDS = 0.1
"""How long a cancelled call may still take to read what has arrived of its reply.

The provider charges for it, and only the reply's end reports how much it charges.
"""

END_SECONDS = 0.02
"""How long a response that has brought its whole reply may take to end. Nothing it still says
matters, and the reply is not safe before it is handed on."""


class Calls:
    """An open client of the Messages API."""

    def __init__(self, connection: Connection, prices: Prices) -> None:
        self._client = _open_client(connection)
        sends_key = connection.api_key and connection.auth_header == "bearer"
        bearer = sends_key or connection.auth_token
        self._headers = {} if bearer else {"Authorization": Omit()}
        self._prices = prices
        self._failures = Failures(connection, host=self._client.base_url.host)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def complete(self, request: Request, draft: Draft) -> Reply:
        """Return the reply to `request`, or raise a ModelError with what there was of it."""
        model = self._prices.resolve(request.model)
        call = _Call(model, request, self._prices, draft)
        try:
            return await _with_grace(lambda: self._reply(request, call))
        except FAILURES as exc:
            call.sent &= may_have_been_charged(exc)
            if isinstance(exc, APIStatusError) and not exc.response.is_success:
                draft.update(allowance=read_allowance(exc.response.headers))
            raise self._failures.translate(
                exc, request, model=model, usage=call.account(), text=call.incoming.text
            ) from exc
        except anyio.get_cancelled_exc_class():
            call.account()
            raise

    async def _reply(self, request: Request, call: "_Call") -> Reply:
        await self._receive(await self._send(request, call), call)
        return ToolNames.of(request).in_ours(call.incoming.reply(call.account()))

    async def _send(self, request: Request, call: "_Call") -> "AsyncStream[RawMessageStreamEvent]":
        try:
            params = message_params(request, model=call.incoming.usage.model)
            call.sent = True
            call.account()
            return await self._client.messages.create(**params, extra_headers=self._headers)
        except ValueError as exc:
            call.incoming.withdraw()
            raise NotSentError(str(exc)) from exc

    async def _receive(self, stream: "AsyncStream[RawMessageStreamEvent]", call: "_Call") -> None:
        async with stream:
            call.draft.update(allowance=read_allowance(stream.response.headers))
            events = aiter(stream)
            async for event in events:
                call.take(event)
                if call.incoming.whole:
                    break
            await _read_to_end(events)
        content_type = stream.response.headers.get("content-type", "text/event-stream")
        if not call.incoming.started and not content_type.startswith("text/event-stream"):
            raise NoStreamError(content_type)


async def _with_grace(make: Callable[[], Awaitable[T]]) -> T:
    """Return what `make` returns; when cancelled, give it a moment to read what has arrived."""
    outcome: T | Exception | None = None
    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope(shield=True) as shielded:
            tasks.start_soon(_limit_once_cancelled, shielded)
            try:
                outcome = await make()
            except Exception as exc:  # noqa: BLE001 (raised below, outside of the task group)
                outcome = exc
        await anyio.lowlevel.checkpoint_if_cancelled()
        tasks.cancel_scope.cancel()
    if isinstance(outcome, Exception):
        raise outcome
    return cast("T", outcome)


async def _limit_once_cancelled(shielded: anyio.CancelScope) -> None:
    try:
        await anyio.sleep_forever()
    finally:
        shielded.deadline = anyio.current_time() + GRACE_SECONDS


async def _read_to_end(events: "AsyncIterator[RawMessageStreamEvent]") -> None:
    """Read the rest of a response, as far as it comes soon, so that others get its connection."""
    with anyio.move_on_after(END_SECONDS), suppress(*FAILURES):
        async for _ in events:
            pass


class _Call:
    """A call under way, and the draft that shows how far it is."""

    def __init__(self, model: str, request: Request, prices: Prices, draft: Draft) -> None:
        self.incoming = Incoming(model, request)
        self.sent = False
        """Whether the request has left, and may be charged for."""
        self._request = request
        self._prices = prices
        self.draft = draft
        self._started_at = anyio.current_time()
        draft.measure = self._measure
        self.account()

    def take(self, event: "RawMessageStreamEvent") -> None:
        """Receive an event."""
        self.incoming.take(event)
        match event.type:
            case "content_block_delta":
                self.draft.update(text=self.incoming.text)
            case "message_start" | "message_delta":
                self.account()
            case _:
                pass

    def account(self) -> Usage:
        """Return what the call has taken so far, having put it into the draft."""
        usage = self._measure()
        self.draft.update(usage=usage)
        return usage

    def _measure(self) -> Usage:
        usage = self.incoming.usage
        charged = self.sent or self.incoming.started
        if self.sent and not self.incoming.started:
            tokens = most_tokens_in(self._request).all
            usage = usage.model_copy(update={"tokens_in": tokens, "estimated_in": tokens})
        # What was not sent costs nothing, even if the model's price is unknown.
        usd = self._prices.cost(usage.model, usage) if charged else 0.0
        saved = self._prices.saving(usage.model, usage)
        seconds = anyio.current_time() - self._started_at
        return usage.model_copy(update={"usd": usd, "saved_usd": saved, "seconds": seconds})


def warm_up() -> None:
    """Import what the SDK imports only for its first client."""
    DefaultAsyncHttpxClient()


def _open_client(connection: Connection) -> AsyncAnthropic:
    own_header = connection.api_key and connection.auth_header == "x-api-key"
    try:
        return AsyncAnthropic(
            # An empty key keeps the SDK from looking for credentials, and sending what it finds
            # to an address that they were not meant for.
            api_key=None if connection.auth_token else connection.api_key or "",
            auth_token=connection.auth_token or None,
            base_url=connection.base_url,
            default_headers={"X-Api-Key": connection.api_key or ""} if own_header else None,
            # Calls are repeated elsewhere, where it is counted what each attempt costs.
            max_retries=0,
            timeout=httpx2.Timeout(connection.idle_seconds, connect=connection.connect_seconds),
            http_client=DefaultAsyncHttpxClient(
                transport=connection.transport,
                # A redirect could carry the key to another host.
                follow_redirects=False,
            ),
        )
    except httpx2.InvalidURL as exc:
        raise ModelAccessError(f"CONCERTMASTER_BASE_URL is no address: {exc}.") from None
