"""How much time a conversation has."""

from collections.abc import Generator
from contextlib import contextmanager

import anyio


class TimeLimit:
    """The time of a cancel scope, which stands still while a person is asked."""

    def __init__(self, scope: anyio.CancelScope) -> None:
        self._scope = scope
        self._stops = 0
        self._left = 0.0

    @contextmanager
    def stopped(self, *, until: float) -> Generator[None]:
        """Let no time pass in the block; but at `until`, by anyio's clock, it is over anyway."""
        if not self._stops:
            self._left = self._scope.deadline - anyio.current_time()
            self._scope.deadline = until
        self._stops += 1
        try:
            yield
        finally:
            self._stops -= 1
            if not self._stops:
                self._scope.deadline = min(until, anyio.current_time() + self._left)
