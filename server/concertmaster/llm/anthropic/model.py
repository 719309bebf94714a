"""The model as the rest of the program sees it; opens its connection when first asked."""

import re
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import anyio
from anyio import to_thread

from concertmaster.errors import SettingsError
from concertmaster.llm.prices import Prices
from concertmaster.llm.protocol import Draft, Reply, Request

if TYPE_CHECKING:
    import httpx2

    from concertmaster.llm.anthropic.calls import Calls

CLOSE_SECONDS = 5
"""How long open connections may hold up the end."""

_SENDABLE = re.compile(r"[\x21-\x7e]+")
"""What a header can carry. Anything else would fail deep below, in an error that quotes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """How to reach the provider. Its representation shows no secret.

    Raises:
        SettingsError: there is no key, more than one, or one that cannot be sent.
    """

    api_key: str | None = field(default=None, repr=False)
    auth_token: str | None = field(default=None, repr=False)
    """A bearer token, instead of a key."""
    base_url: str | None = None
    """None is Anthropic's own, which needs a key or a token; others may do without."""
    auth_header: Literal["bearer", "x-api-key"] = "bearer"
    """How the key is sent; a token is always sent as a bearer token."""
    idle_seconds: float = 60.0
    """A provider that sends nothing at all for so long is given up."""
    connect_seconds: float = 10.0
    transport: "httpx2.AsyncBaseTransport | None" = None
    """What carries the requests, in place of the network."""

    def __post_init__(self) -> None:
        if self.api_key and self.auth_token:
            raise SettingsError("Both api_key and auth_token are set; keep one of them.")
        if not (self.api_key or self.auth_token or self.base_url):
            raise SettingsError(
                "There is no key for a language model. Set CONCERTMASTER_API_KEY or "
                "ANTHROPIC_API_KEY."
            )
        for name, secret in (("api_key", self.api_key), ("auth_token", self.auth_token)):
            if secret and not _SENDABLE.fullmatch(secret):
                raise SettingsError(
                    f"{name} has a space, a line break or a character outside ASCII. "
                    "Copy it again, alone."
                )


class AnthropicLLM:
    """Answers through the Messages API, always streaming."""

    notice = ""

    def __init__(self, connection: Connection, prices: Prices, lifetime: AsyncExitStack) -> None:
        """Close what will be opened when `lifetime` ends."""
        self._connection = connection
        self._prices = prices
        self._lifetime = lifetime
        self._opening = anyio.Lock()
        self._calls: Calls | None = None

    def model_name(self, model: str, /) -> str:
        """Return the id of the model that `model`, an id or alias, stands for."""
        return self._prices.resolve(model)

    async def complete(self, request: Request, draft: Draft, /) -> Reply:
        """Return the reply, from one attempt.

        Raises:
            ModelRequestError: repeating the call would be useless.
            ModelUnavailableError: the provider did not answer, or not to the end.
            ModelReplyError: what came back is not a reply.
        """
        async with self._opening:
            if self._calls is None:
                self._calls = await to_thread.run_sync(_open_calls, self._connection, self._prices)
                self._lifetime.push_async_callback(self._calls.aclose)
        return await self._calls.complete(request, draft)


def _open_calls(connection: Connection, prices: Prices) -> "Calls":
    # Importing the SDK takes seconds. Done here, and in a thread, it delays neither the start
    # nor, while the first call waits for it, anything else.
    from concertmaster.llm.anthropic.calls import Calls  # noqa: PLC0415

    return Calls(connection, prices)


@asynccontextmanager
async def open_anthropic(connection: Connection, *, prices: Prices) -> AsyncGenerator[AnthropicLLM]:
    """Open the model that `connection` reaches; nothing is sent before the first request."""
    lifetime = AsyncExitStack()
    try:
        yield AnthropicLLM(connection, prices, lifetime)
    finally:
        with anyio.move_on_after(CLOSE_SECONDS, shield=True):
            await lifetime.aclose()
