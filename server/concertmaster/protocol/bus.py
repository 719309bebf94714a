"""Whom changes are told to: of a run, those alone who may read it."""

from collections import defaultdict
from collections.abc import Callable

from mcp.server.subscriptions import InMemorySubscriptionBus, ServerEvent


class RunBus:
    """Tells listeners what has changed. One who is somebody hears of their own runs alone."""

    def __init__(self, whose: Callable[[], str | None]) -> None:
        """Take what says for whom a listener is being added; None is whoever may see all."""
        self._whose = whose
        self._listeners = defaultdict[str | None, InMemorySubscriptionBus](InMemorySubscriptionBus)

    def subscribe(self, listener: Callable[[ServerEvent], None]) -> Callable[[], None]:
        """Add a listener; what is returned removes it."""
        return self._listeners[self._whose()].subscribe(listener)

    async def publish(self, event: ServerEvent) -> None:
        """Tell everybody."""
        for listeners in list(self._listeners.values()):
            await listeners.publish(event)

    async def publish_to(self, principal: str | None, event: ServerEvent) -> None:
        """Tell those who may see the runs of a principal."""
        for whose in dict.fromkeys((None, principal)):
            if whose in self._listeners:
                await self._listeners[whose].publish(event)
