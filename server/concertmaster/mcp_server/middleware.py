"""Clients that want to be told of changes: of what, and that they may read it."""

from collections.abc import Iterator, Sequence
from typing import Any, cast

from mcp import MCPError
from mcp.server.context import CallNext, HandlerResult, ServerMiddleware, ServerRequestContext
from mcp.types import INVALID_PARAMS

from concertmaster.errors import RequestError
from concertmaster.mcp_server.context import ServerState
from concertmaster.mcp_server.results import request_errors
from concertmaster.mcp_server.subscriptions import RUNS, WatchNoMore, run_of


class GuardedSubscriptions(ServerMiddleware[Any]):
    """Turns away who wants to be told of runs that are not theirs."""

    def __init__(self, server: ServerState) -> None:
        self._server = server

    async def __call__(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """Pass a message on, unless it subscribes to what its sender may not read."""
        for uri in _watched(ctx):
            if run_id := run_of(uri):
                try:
                    await (await self._server.service()).get(run_id)
                except RequestError as exc:
                    raise MCPError(INVALID_PARAMS, str(exc), {"uri": uri}) from exc
        return await call_next(ctx)


async def watch(server: ServerState, uris: Sequence[str]) -> WatchNoMore:
    """Have changes of resources published that other processes make.

    Raises:
        MCPError: the runs cannot be looked at.
    """
    with request_errors():
        return await server.watch(uris)


class FollowedListening(ServerMiddleware[Any]):
    """Has what other processes do published to who listens, as long as they do."""

    def __init__(self, server: ServerState) -> None:
        self._server = server

    async def __call__(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """Pass a message on."""
        if ctx.method != "subscriptions/listen":
            return await call_next(ctx)
        watch_no_more = await watch(self._server, list(_watched(ctx)))
        try:
            return await call_next(ctx)
        finally:
            watch_no_more()


def _watched(ctx: ServerRequestContext[Any, Any]) -> Iterator[str]:
    """Yield what a message subscribes to; what is malformed is left to those who check it."""
    params = ctx.params or {}
    uris: object = None
    if ctx.method == "resources/subscribe":
        uris = [params.get("uri")]
    elif ctx.method == "subscriptions/listen":
        wanted: object = params.get("notifications")
        if isinstance(wanted, dict):
            given = cast("dict[str, object]", wanted)
            uris = given.get("resourceSubscriptions")
            yield from (f"{RUNS}{task_id}" for task_id in _texts(given.get("taskIds")))
    yield from _texts(uris)


def _texts(given: object) -> Sequence[str]:
    items = cast("list[object]", given) if isinstance(given, list) else []
    return [item for item in items if isinstance(item, str)]
