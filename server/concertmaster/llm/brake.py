"""How a process ends without losing what it pays for: what has begun ends, nothing begins."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

from concertmaster.llm.protocol import LLM, Draft, Reply, Request
from concertmaster.llm.through import Through


class Brake:
    """Counts the calls under way, of models and of tools, and keeps others from beginning."""

    def __init__(self) -> None:
        self._pulled = False
        self._under_way = 0
        self._stopped = anyio.Event()

    @property
    def pulled(self) -> bool:
        """Tell whether no further call begins."""
        return self._pulled

    @asynccontextmanager
    async def call(self) -> AsyncGenerator[None]:
        """Make a call in this block; once the brake is pulled, wait for ever before it."""
        if self._pulled:
            await anyio.sleep_forever()
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            if self._pulled and not self._under_way:
                self._stopped.set()

    async def pull(self) -> None:
        """Let no further call begin, and return when those under way have ended."""
        self._pulled = True
        if self._under_way:
            await self._stopped.wait()


class Braked(Through):
    """Answers through another model, until a brake is pulled."""

    def __init__(self, llm: LLM, brake: Brake) -> None:
        super().__init__(llm)
        self._brake = brake

    async def complete(self, request: Request, draft: Draft, /) -> Reply:
        """Return the reply.

        Raises:
            ModelError: as the other model does.
        """
        async with self._brake.call():
            return await self._llm.complete(request, draft)
