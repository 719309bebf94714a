"""The model as the rest of the program sees it; opens its connection when first asked."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread

from concertmaster.llm.anthropic.connection import Connection
from concertmaster.llm.messages import Draft, Reply, Request
from concertmaster.llm.pricing import Prices
from concertmaster.llm.usage import Usage

if TYPE_CHECKING:
    from concertmaster.llm.anthropic.client import Calls

CLOSE_SECONDS = 5
"""How long open connections may hold up the end."""


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

    def expected(self, model: str, usage: Usage, /) -> Usage:
        """Return `usage` with the price of one such call, if it is known."""
        usd = self._prices.cost(self._prices.resolve(model), usage)
        return usage.model_copy(update={"usd": usd})

    async def complete(self, request: Request, draft: Draft, /) -> Reply:
        """Return the reply, from one attempt.

        Raises:
            ModelRequestError: repeating the call would be useless.
            ModelUnavailableError: the provider did not answer, or not to the end.
            ModelReplyError: what came back is not a reply.
        """
        async with self._opening:
            if self._calls is None:
                # A cancelled call does not wait for the import; the next one finds it further on.
                self._calls = await to_thread.run_sync(
                    _open_calls, self._connection, self._prices, abandon_on_cancel=True
                )
                self._lifetime.push_async_callback(self._calls.aclose)
        return await self._calls.complete(request, draft)


def _open_calls(connection: Connection, prices: Prices) -> "Calls":
    # Importing the SDK takes seconds. Done here, and in a thread, it delays neither the start
    # nor, while the first call waits for it, anything else.
    from concertmaster.llm.anthropic.client import Calls  # noqa: PLC0415

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
