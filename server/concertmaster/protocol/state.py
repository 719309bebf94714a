"""What every request handler can reach."""

import logging
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import TaskGroup, TaskStatus
from mcp.server.mcpserver import Context

from concertmaster.errors import ConcertmasterError
from concertmaster.protocol.bus import RunBus
from concertmaster.protocol.callers import principal_of_caller
from concertmaster.protocol.others import RUNS, OthersUpdates
from concertmaster.protocol.subscriptions import RunUpdates, WatchNoMore, Work

if TYPE_CHECKING:
    # All that drives runs takes as long to import as the protocol itself, and clients start
    # servers merely to ask what they can do.
    from concertmaster.runs.principals import Principals, Runs
    from concertmaster.runs.service import RunService

log = logging.getLogger(__name__)

OpenService = Callable[[], AbstractAsyncContextManager["RunService"]]
"""Opens the run service of a server."""


class ServerState:
    """The run service, opened when it is first asked for, and whether the server is ending."""

    def __init__(
        self,
        open_service: OpenService,
        *,
        at_once: bool = False,
        principals: "Principals | None" = None,
    ) -> None:
        """With `principals`, callers must have a token, and see their own runs only."""
        self.bus = RunBus(self._caller)
        """Tells what of runs has changed."""
        self._open_service = open_service
        self._at_once = at_once
        self._principals = principals
        self._opening = anyio.Lock()
        self._service: RunService | None = None
        self._others: OthersUpdates | None = None
        self._tasks: TaskGroup | None = None
        self.ending = False
        """Calls cancelled from here on were not cancelled by a client: their runs are left."""
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

    def _caller(self) -> str | None:
        return None if self._principals is None else principal_of_caller()

    async def watch(self, uris: Sequence[str]) -> WatchNoMore:
        """Have changes of resources published that other processes make.

        Those that this one makes are published in any case.

        Raises:
            ConcertmasterError: the runs cannot be looked at.
        """
        if not any(uri.startswith(RUNS) for uri in uris):
            return lambda: None
        await self.opened()
        if self._others is None:
            raise RuntimeError("the run service is not open")
        return await self._others.watch(uris, whose=self._caller())

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

    async def _open(self) -> None:
        try:
            await self.opened()
        except ConcertmasterError as exc:
            # Whoever calls next is told the same.
            log.warning("not opened: %s", exc)

    async def _keep_open(self, *, task_status: TaskStatus["RunService"]) -> None:
        try:
            async with self._open_service() as service, anyio.create_task_group() as tasks:
                updates = RunUpdates(service, self.bus)
                self._others = OthersUpdates(service.elsewhere, updates, self.bus)
                task_status.started(service)
                tasks.start_soon(self._others.publish)
                await updates.publish()
        finally:
            self._service = None

    @contextmanager
    def waiting(self) -> Generator[None]:
        """Skip the rest of the block when the server ends."""
        with anyio.CancelScope() as scope:
            self._waits.add(scope)
            if self.ending:
                # The call came in right before the end, and begins to wait after it.
                scope.cancel()
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
