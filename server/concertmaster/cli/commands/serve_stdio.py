"""Serving the client that has started this process."""

from collections.abc import Callable

from concertmaster.mcp_server.lazy_service import OpenService
from concertmaster.mcp_server.prompts import LoadJobs
from concertmaster.mcp_server.server import create_server
from concertmaster.mcp_server.transports.stdio import serve_stdio


async def serve(
    open_service: OpenService,
    load_jobs: LoadJobs,
    *,
    at_once: bool,
    keep_days: float | None,
    drain_seconds: float,
    listed: Callable[[], object],
) -> int:
    """Serve until the client leaves or a signal comes; return the exit status."""
    server = create_server(
        open_service, load_jobs, at_once=at_once, keep_days=keep_days, listed=listed
    )
    return await serve_stdio(server, drain_seconds=drain_seconds)
