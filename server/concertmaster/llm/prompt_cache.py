"""Calls that begin alike: one goes first and writes the provider's cache, the others read it.

Calls that start together would each write the same prefix, at 1.25 times the price of plain
input, because a cache entry can be read only once the reply to the call that wrote it has
begun. Read, it costs a tenth.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass

import anyio

from concertmaster.llm.messages import LLM, Draft, Reply, Request
from concertmaster.llm.pricing import MILLION, Prices
from concertmaster.llm.wrapper import Through

WORTH_USD = 0.01
"""What a call must save to wait for another to begin its reply, which takes a second or two."""

WORTH_TOKENS = 4000
"""How long a prefix must be for that, where the model's price is not known."""

TOKEN_CHARS = 4
"""How many characters a token has, about."""

LONGEST_WAIT = 10.0
"""Seconds after which a call no longer waits for one that does not get under way."""

WARM_SECONDS = 240.0
"""How long a prefix counts as cached; the provider keeps it five minutes from its last use."""


@dataclass(slots=True)
class _Prefix:
    """How calls begin, and whether the provider has it."""

    warm_until: float = 0.0
    begun: anyio.Event | None = None
    """Set when the call that goes first has begun to be answered, or has failed."""


class SharedPrefixes(Through):
    """Answers through another model, and keeps calls that begin alike from all paying for it."""

    def __init__(self, llm: LLM, prices: Prices) -> None:
        super().__init__(llm)
        self._prices = prices
        self._prefixes: dict[bytes, _Prefix] = {}

    async def complete(self, request: Request, draft: Draft, /) -> Reply:
        """Return the reply, having let a call with the same long prefix go first.

        Raises:
            ModelError: as the other model does.
        """
        if not self._worth_waiting(request):
            return await self._llm.complete(request, draft)
        prefix = self._prefix(request)
        with anyio.move_on_after(LONGEST_WAIT):
            while prefix.begun is not None:
                await prefix.begun.wait()
        if prefix.begun is None and prefix.warm_until <= anyio.current_time():
            return await self._go_first(request, draft, prefix)
        reply = await self._llm.complete(request, draft)
        prefix.warm_until = anyio.current_time() + WARM_SECONDS
        return reply

    async def _go_first(self, request: Request, draft: Draft, prefix: _Prefix) -> Reply:
        prefix.begun = begun = anyio.Event()

        def settle() -> None:
            if prefix.begun is begun:
                prefix.begun = None
                begun.set()

        def note(own: Draft) -> None:
            if own.text or own.usage.cache_write or own.usage.cache_read:
                prefix.warm_until = anyio.current_time() + WARM_SECONDS
                settle()

        try:
            own = Draft(_mirror(draft, note))
            own.may_repeat = draft.may_repeat
            reply = await self._llm.complete(request, own)
            prefix.warm_until = anyio.current_time() + WARM_SECONDS
            return reply
        finally:
            # Without a beginning, the next of those that wait goes first.
            settle()

    def _worth_waiting(self, request: Request) -> bool:
        tokens = (len(request.system) + len(request.shared)) / TOKEN_CHARS
        facts = self._prices.find(self.model_name(request.model))
        if facts is None or facts.cache_write is None or facts.cache_read is None:
            return tokens >= WORTH_TOKENS
        return tokens * (facts.cache_write - facts.cache_read) / MILLION >= WORTH_USD

    def _prefix(self, request: Request) -> _Prefix:
        now = anyio.current_time()
        self._prefixes = {
            key: prefix
            for key, prefix in self._prefixes.items()
            if prefix.begun is not None or prefix.warm_until > now
        }
        key = prefix_key(self.model_name(request.model), request)
        return self._prefixes.setdefault(key, _Prefix())


def prefix_key(model: str, request: Request) -> bytes:
    """Return what is the same for calls whose prefix the provider can share.

    It caches tools before the system prompt, and that before the messages; a schema for
    the reply becomes part of the prompt too.
    """
    tools = [[tool.name, tool.description, tool.input_schema] for tool in request.tools]
    served = [tool.name for tool in request.server_tools]
    parts = json.dumps(
        [model, tools, served, request.output_schema, request.system, request.shared]
    )
    return hashlib.sha256(parts.encode()).digest()


def _mirror(draft: Draft, note: Callable[[Draft], None]) -> Callable[[Draft], None]:
    def show(own: Draft) -> None:
        draft.update(text=own.text, usage=own.usage, allowance=own.allowance)
        note(own)

    return show
