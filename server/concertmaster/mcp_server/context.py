"""What every request handler can reach."""

import re
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import TaskGroup
from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.provider import AccessToken, principal_components
from mcp.server.mcpserver import Context

from concertmaster.errors import RequestError
from concertmaster.mcp_server.lazy_service import ServiceOnDemand
from concertmaster.mcp_server.subscriptions import RunBus, WatchNoMore, Work

if TYPE_CHECKING:
    from concertmaster.runs.principals import Principals, Runs
    from concertmaster.runs.service import RunService


TRACE_CONTEXT = {
    "traceparent": re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}"),
    "tracestate": re.compile(r"[\x20-\x7e]{1,512}"),
}
"""What `_meta` may say of the trace that a call belongs to, in the forms of W3C."""


def principal_of(token: AccessToken) -> str:
    """Return whom a token stands for: the same person, whatever the client it was given to."""
    client, issuer, subject = principal_components(token)
    return f"{issuer}#{subject or client}" if issuer else client


def principal_of_caller() -> str:
    """Return whom the call under way is made for.

    Raises:
        RequestError: it came without a token.
    """
    token = get_access_token()
    if token is None:
        raise RequestError("This server answers nobody without a token. Send one.")
    return principal_of(token)


def trace_context(ctx: Context[Any, Any]) -> dict[str, str]:
    """Return the trace context that a client sent along with its call."""
    meta = ctx.request_context.meta or {}
    return {
        name: value
        for name, form in TRACE_CONTEXT.items()
        if isinstance(value := meta.get(name), str) and form.fullmatch(value)
    }


class ServerState:
    """The run service that a server gives access to, and whether its client has left."""

    def __init__(
        self,
        service: ServiceOnDemand,
        *,
        shares_service: bool = False,
        principals: "Principals | None" = None,
    ) -> None:
        """With `principals`, callers must have a token, and see their own runs only.

        A service that is shared is kept open by somebody else.
        """
        self._service = service
        self._shares_service = shares_service
        self._principals = principals
        self._tasks: TaskGroup | None = None
        self.left = False
        """Calls cancelled from here on were not cancelled by a client: their runs are left."""
        self.ending = False
        """Runs that were left do not go on here."""
        self._waits: set[anyio.CancelScope] = set()

    @property
    def tells_people_apart(self) -> bool:
        """Tell whether callers must have a token, and see their own runs only."""
        return self._principals is not None

    @property
    def bus(self) -> RunBus:
        """Return what tells of changes in runs."""
        return self._service.bus

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator["ServerState"]:
        """Keep the run service open, once it is, for as long as the server is in use."""
        kept_open = nullcontext() if self._shares_service else self._service.lifespan()
        async with kept_open, anyio.create_task_group() as tasks:
            self._tasks = tasks
            try:
                yield self
            finally:
                tasks.cancel_scope.cancel()

    def start_soon(self, work: Work) -> None:
        """Have `work` done until the server is no longer in use."""
        if self._tasks is None:
            raise RuntimeError("the server is not in use")
        self._tasks.start_soon(work)

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

    async def watch(self, uris: Sequence[str]) -> WatchNoMore:
        """Have changes of resources published that other processes make.

        Those that this one makes are published in any case.

        Raises:
            ConcertmasterError: the runs cannot be looked at.
        """
        return await self._service.watch(uris)

    async def opened(self) -> "RunService":
        """Return the run service, with the runs of everybody.

        Raises:
            ConcertmasterError: it cannot be opened, which is tried again with the next call.
        """
        return await self._service.opened()

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
