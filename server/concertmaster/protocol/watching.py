"""Who may be told that a resource has changed: whoever may read it."""

from collections.abc import Iterator
from typing import Any, cast

from mcp import MCPError
from mcp.server.context import CallNext, HandlerResult, ServerMiddleware, ServerRequestContext
from mcp.types import INVALID_PARAMS

from concertmaster.errors import RequestError
from concertmaster.protocol.state import ServerState

RUNS = "runs://"
LATEST = "runs://recent"


class GuardedSubscriptions(ServerMiddleware[Any]):
    """Turns away who wants to be told of runs that are not theirs."""

    def __init__(self, server: ServerState) -> None:
        self._server = server

    async def __call__(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """Pass a message on, unless it subscribes to what its sender may not read."""
        for uri in _watched(ctx):
            if uri.startswith(RUNS) and uri != LATEST:
                run_id = uri.removeprefix(RUNS).partition("/")[0]
                try:
                    await (await self._server.service()).get(run_id)
                except RequestError as exc:
                    raise MCPError(INVALID_PARAMS, str(exc), {"uri": uri}) from exc
        return await call_next(ctx)


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
            yield from _of_tasks(given.get("taskIds"))
    if isinstance(uris, list):
        yield from (uri for uri in cast("list[object]", uris) if isinstance(uri, str))


def _of_tasks(ids: object) -> Iterator[str]:
    """Yield the addresses of the runs that tasks are."""
    if isinstance(ids, list):
        yield from (f"{RUNS}{item}" for item in cast("list[object]", ids))
