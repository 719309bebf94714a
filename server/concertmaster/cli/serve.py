"""The subcommand `serve`: the MCP server, over stdio or HTTP."""

import importlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import click
from anyio import to_thread

from concertmaster.cli.options import load, run_async, setup_options
from concertmaster.protocol.server import create_server
from concertmaster.protocol.serving import serve_http, serve_stdio

if TYPE_CHECKING:
    from concertmaster.runs.service import RunService


@click.command()
@setup_options
@click.option("--http", is_flag=True, help="Serve Streamable HTTP instead of stdio.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address for --http.")
@click.option("--port", default=8000, show_default=True, help="Port for --http.")
def serve(http: bool, host: str, port: int, **flags: Any) -> None:
    """Serve MCP clients over stdio, or over HTTP at the path /mcp."""
    loaded = load(flags)

    @asynccontextmanager
    async def open_service() -> AsyncGenerator["RunService"]:
        # Imported when a call first needs it: see ServerState.
        wiring = await to_thread.run_sync(importlib.import_module, "concertmaster.cli.wiring")
        async with wiring.open_runs(loaded, roots=loaded.settings.roots) as service:
            if loaded.settings.resume_interrupted:
                await service.resume_interrupted(by="the server that started")
            yield service

    async def work() -> int:
        server = create_server(open_service, at_once=loaded.settings.resume_interrupted)
        if http:
            return await serve_http(server, host=host, port=port, ready=_tell)
        return await serve_stdio(server)

    click.get_current_context().exit(run_async(work))


def _tell(address: str) -> None:
    click.echo(f"Serving at {address}", err=True)
