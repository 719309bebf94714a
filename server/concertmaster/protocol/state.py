"""What every request handler can reach."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import anyio
from mcp.server.mcpserver import Context

from concertmaster.runs.service import RunService


class ServerState:
    """The run service, and whether its server is on its way out."""

    def __init__(self, service: RunService) -> None:
        self.service = service
        self.ending = False
        """Calls cancelled from here on were not cancelled by a client: their runs are left."""
        self._waits: set[anyio.CancelScope] = set()

    @contextmanager
    def waiting(self) -> Generator[None]:
        """Skip the rest of the block when the server ends."""
        with anyio.CancelScope() as scope:
            self._waits.add(scope)
            try:
                yield
            finally:
                self._waits.discard(scope)

    def end(self) -> None:
        """Let calls that wait for a run return at once, and leave their runs to be resumed."""
        self.ending = True
        for scope in self._waits:
            scope.cancel()


Ctx = Context[ServerState, Any]
"""The context of a request, as tools and resource templates get it."""


def state_of(ctx: Ctx) -> ServerState:
    """Return the state of the server that answers a request."""
    return ctx.request_context.lifespan_context
