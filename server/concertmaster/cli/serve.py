"""The subcommand `serve`: the MCP server, over stdio or HTTP."""

import importlib
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import click
from anyio import to_thread

from concertmaster.cli.extras import check_store
from concertmaster.cli.options import job_folders_option, load, run_async, setup_options
from concertmaster.protocol.server import create_server
from concertmaster.protocol.serving import serve_stdio

if TYPE_CHECKING:
    from concertmaster.runs.job_files import JobsReading
    from concertmaster.runs.jobs import Job
    from concertmaster.runs.service import RunService

log = logging.getLogger(__name__)

DRAIN_SECONDS = 3.0
"""How long calls under way may take to end over stdio; many clients kill a server after 4."""


@click.command()
@setup_options
@job_folders_option
@click.option("--http", is_flag=True, help="Serve Streamable HTTP instead of stdio.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address for --http.")
@click.option("--port", default=8000, show_default=True, help="Port for --http.")
@click.option("--accept-only", is_flag=True, help="Leave all runs to other processes on the store.")
def serve(http: bool, host: str, port: int, accept_only: bool, **flags: Any) -> None:
    """Serve MCP clients over stdio, or over HTTP at the path /mcp."""
    loaded = load(flags)
    settings = loaded.settings
    drain_seconds = settings.drain_seconds if http else min(settings.drain_seconds, DRAIN_SECONDS)
    check_store(settings)

    @asynccontextmanager
    async def open_service() -> AsyncGenerator["RunService"]:
        # Imported when a call first needs it: see ServerState.
        wiring = await to_thread.run_sync(importlib.import_module, "concertmaster.cli.wiring")
        part = wiring.part_of(settings, accept_only=accept_only)
        async with (
            wiring.open_runs(loaded, roots=settings.roots, part=part) as service,
            wiring.tending(service, settings, part=part, most_seconds=drain_seconds),
        ):
            yield service

    async def load_jobs() -> Mapping[str, "Job"]:
        jobs = await to_thread.run_sync(importlib.import_module, "concertmaster.cli.jobs")
        reading: JobsReading = await to_thread.run_sync(jobs.find_jobs, settings)
        for error in reading.errors:
            log.warning("no job: %s", error)
        return reading.jobs

    async def work() -> int:
        if not http:
            at_once = settings.resume_interrupted or settings.store is not None
            server = create_server(
                open_service, load_jobs, at_once=at_once, keep_days=settings.keep_days
            )
            return await serve_stdio(server, drain_seconds=drain_seconds)
        # Imported when it is needed: clients start servers over stdio, and wait for them.
        serving = await to_thread.run_sync(importlib.import_module, "concertmaster.cli.http")
        options: dict[str, Any] = {"host": host, "port": port, "ready": _tell}
        return await serving.serve(loaded.settings, open_service, load_jobs, **options)

    click.get_current_context().exit(run_async(work))


def _tell(address: str) -> None:
    click.echo(f"Serving at {address}", err=True)
