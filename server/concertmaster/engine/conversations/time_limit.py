"""How much time a conversation has."""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

import anyio


class TimeLimit:
    """The time of a cancel scope, which stands still while a person is asked."""

    def __init__(self, scope: anyio.CancelScope) -> None:
        self._scope = scope
        self._stops = 0
        self._left = 0.0
        self._aside = AsyncExitStack()

    @asynccontextmanager
    async def stopped(
        self, aside: AbstractAsyncContextManager[None], *, until: float
    ) -> AsyncGenerator[None]:
        """Let no time pass in the block; but at `until`, by anyio's clock, it is over anyway.

        Of several such blocks at a time, the conversation is `aside` in the first until the
        last has ended, and learns if that has failed.
        """
        self._stops += 1
        try:
            if self._stops == 1:
                self._left = self._scope.deadline - anyio.current_time()
                self._scope.deadline = until
                await self._aside.enter_async_context(aside)
            yield
        except BaseException as exc:
            await self._go_on(until, exc)
            raise
        await self._go_on(until)

    async def _go_on(self, until: float, failure: BaseException | None = None) -> None:
        try:
            if self._stops == 1:
                if failure is None:
                    await self._aside.aclose()
                else:
                    trace = failure.__traceback__
                    await self._aside.__aexit__(type(failure), failure, trace)
        finally:
            self._stops -= 1
            if not self._stops:
                self._scope.deadline = min(until, anyio.current_time() + self._left)
