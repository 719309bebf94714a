"""What every request handler can reach."""

import logging
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import TaskGroup, TaskStatus
from mcp.server.mcpserver import Context
from mcp.server.subscriptions import InMemorySubscriptionBus

from concertmaster.errors import ConcertmasterError
from concertmaster.protocol.callers import principal_of_caller
from concertmaster.protocol.subscriptions import RunUpdates, Work

if TYPE_CHECKING:
    # All that drives runs takes as long to import as the protocol itself, and clients start
    # servers merely to ask what they can do.
    from concertmaster.runs.principals import Principals, Runs
    from concertmaster.runs.service import RunService

log = logging.getLogger(__name__)

OpenService = Callable[[], AbstractAsyncContextManager["RunService"]]
"""Opens the run service of a server."""


class ServerState:
    """The run service, opened when it is first asked for, and whether its client has left."""

    def __init__(
        self,
        open_service: OpenService,
        *,
        at_once: bool = False,
        principals: "Principals | None" = None,
    ) -> None:
        """With `principals`, callers must have a token, and see their own runs only."""
        self.bus = InMemorySubscriptionBus()
        """Tells what of runs has changed."""
        self._open_service = open_service
        self._at_once = at_once
        self._principals = principals
        self._opening = anyio.Lock()
        self._service: RunService | None = None
        self._tasks: TaskGroup | None = None
        self.left = False
        """Calls cancelled from here on were not cancelled by a client: their runs are left."""
        self.ending = False
        """Runs that were left do not go on here."""
        self._waits: set[anyio.CancelScope] = set()

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator["ServerState"]:
        """Keep the run service open, once it is, for as long as the server is in use."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            if self._at_once:
                tasks.start_soon(self._open)
            try:
                yield self
            finally:
                tasks.cancel_scope.cancel()

    def start_soon(self, work: Work) -> None:
        """Have `work` done until the server is no longer in use."""
        self._in_use().start_soon(work)

    def _in_use(self) -> TaskGroup:
        if self._tasks is None:
            raise RuntimeError("the server is not in use")
        return self._tasks

    async def service(self) -> "Runs":
        """Return the runs that the caller may see.

        Raises:
            ConcertmasterError: the run service cannot be opened, which is tried again with the
                next call.
        """
        service = await self.opened()
        if self._principals is None:
            return service
        return self._principals.runs_of(service, principal_of_caller())

    async def opened(self) -> "RunService":
        """Return the run service, with the runs of everybody.

        Raises:
            ConcertmasterError: it cannot be opened, which is tried again with the next call.
        """
        async with self._opening:
            service = self._service
            if service is None:
                service = self._service = await self._in_use().start(self._keep_open)
            return service

    @property
    def runs_under_way(self) -> int:
        """Return how many runs this process drives."""
        return 0 if self._service is None else self._service.room.load

    async def idle(self) -> None:
        """Return when this process drives no run."""
        if self._service is not None:
            await self._service.room.idle()

    async def _open(self) -> None:
        try:
            await self.opened()
        except ConcertmasterError as exc:
            # Whoever calls next is told the same.
            log.warning("not opened: %s", exc)

    async def _keep_open(self, *, task_status: TaskStatus["RunService"]) -> None:
        try:
            async with self._open_service() as service:
                updates = RunUpdates(service, self.bus)
                task_status.started(service)
                await updates.publish()
        finally:
            self._service = None

    @contextmanager
    def waiting(self) -> Generator[None]:
        """Skip the rest of the block when the server ends."""
        with anyio.CancelScope() as scope:
            self._waits.add(scope)
            if self.left:
                # The call came in right before the end, and begins to wait after it.
                scope.cancel()
            try:
                yield
            finally:
                self._waits.discard(scope)

    def leave(self) -> None:
        """Let calls that wait for a run return at once, and leave their runs to go on."""
        self.left = True
        for scope in self._waits:
            scope.cancel()

    def end(self) -> None:
        """Let calls that wait for a run return at once, and leave their runs to be resumed."""
        self.ending = True
        self.leave()


Ctx = Context[ServerState, Any]
"""The context of a request, as tools and resource templates get it."""


def state_of(ctx: Ctx) -> ServerState:
    """Return the state of the server that answers a request."""
    return ctx.request_context.lifespan_context
