"""The subcommand `serve`: the MCP server, over stdio or HTTP."""

import logging
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
from anyio import to_thread

from concertmaster.cli.app import load_in_background, load_module
from concertmaster.cli.environment import answering, check_store
from concertmaster.cli.options import job_folders_option, load, run_async, setup_options
from concertmaster.errors import SettingsError
from concertmaster.settings.load import LoadedSettings, Settings

if TYPE_CHECKING:
    from concertmaster.runs.jobs import Job, JobsReading
    from concertmaster.runs.service import RunService


log = logging.getLogger(__name__)

AS_SERVER = "--as-background-server"
"""The flag, followed by an identity, with which the first client starts a background server."""
DRAIN_SECONDS = 3.0
"""How long calls under way may take to end over stdio; many clients kill a server after 4."""

AT_TERMINAL = """\
Waiting for an MCP client that writes JSON-RPC to stdin, one message a line. Clients usually start
this command themselves: add it to your client's configuration, for instance with
  claude mcp add concertmaster -- concertmaster serve --root .
To do a task from this terminal, use:    concertmaster run "Review this code" app.py
To serve clients over HTTP, use:         concertmaster serve --http
Press Ctrl+C to stop."""
"""What a person is told who starts a stdio server at a terminal, where it would only wait."""


@click.command()
@setup_options
@job_folders_option
@click.option("--http", is_flag=True, help="Serve Streamable HTTP instead of stdio.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address for --http.")
@click.option("--port", default=8000, show_default=True, help="Port for --http.")
@click.option("--accept-only", is_flag=True, help="Leave all runs to other processes on the store.")
@click.option(
    "--background",
    is_flag=True,
    default=None,
    help="Serve stdio from a server in the background, where runs outlive the client.",
)
@click.option(AS_SERVER, "identity", hidden=True)
def serve(
    http: bool, host: str, port: int, accept_only: bool, identity: str | None, **flags: Any
) -> None:
    """Serve MCP clients over stdio, or over HTTP at the path /mcp."""
    if http and flags["background"]:
        raise SettingsError(
            "--background is for stdio; over HTTP, runs outlive clients without it."
        )
    loaded = load(flags)
    seconds = loaded.settings.drain_seconds
    if not http and identity is None:
        seconds = min(seconds, DRAIN_SECONDS)
    served = Served(loaded=loaded, accept_only=accept_only, drain_seconds=seconds)
    if http:
        status = _serve_http(served, host=host, port=port)
    elif identity is not None:
        status = _serve_behind(served, identity)
    else:
        status = _serve_stdio(served)
    click.get_current_context().exit(status)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What is served, opened and imported when it is first needed: see ServiceOnDemand."""

    loaded: LoadedSettings
    accept_only: bool
    drain_seconds: float
    """How long calls under way may take to end."""

    @property
    def settings(self) -> Settings:
        """Return the settings in force."""
        return self.loaded.settings

    @property
    def at_once(self) -> bool:
        """Tell whether runs may wait for this process, so that it opens its service at start."""
        return self.settings.resume_interrupted or self.settings.store is not None

    def prepare(self) -> None:
        """Import in the background what calls will need, as no call is under way."""
        connected = answering(self.loaded) == "anthropic" and not self.accept_only
        load_in_background("first_call" if connected else "bootstrap")

    @asynccontextmanager
    async def open_service(self) -> AsyncGenerator["RunService"]:
        """Open the run service."""
        wiring = await to_thread.run_sync(load_module, "bootstrap")
        part = wiring.part_of(self.settings, accept_only=self.accept_only)
        async with (
            wiring.open_runs(self.loaded, roots=self.settings.roots, part=part) as service,
            wiring.tending(service, self.settings, part=part, most_seconds=self.drain_seconds),
        ):
            yield service

    async def load_jobs(self) -> Mapping[str, "Job"]:
        """Return the ready-made jobs; a faulty one is logged and left out."""
        jobs = await to_thread.run_sync(load_module, "bootstrap")
        reading: JobsReading = await to_thread.run_sync(jobs.find_jobs, self.settings)
        for error in reading.errors:
            log.warning("no job: %s", error)
        return reading.jobs


# Each way of serving is imported when it is known to be taken: clients start servers, and wait
# for them.


def _serve_http(served: Served, *, host: str, port: int) -> int:
    check_store(served.settings)
    http = load_module("commands.serve_http")
    options: dict[str, Any] = {
        "host": host,
        "port": port,
        "ready": _tell,
        "listed": served.prepare,
    }
    return run_async(
        lambda: http.serve(served.settings, served.open_service, served.load_jobs, **options)
    )


def _serve_behind(served: Served, identity: str) -> int:
    check_store(served.settings)
    server = load_module("commands.background_server")
    return server.serve_behind(
        served.loaded,
        served.open_service,
        served.load_jobs,
        identity=identity,
        accept_only=served.accept_only,
        at_once=served.at_once,
        listed=served.prepare,
    )


def _serve_stdio(served: Served) -> int:
    if sys.stdin.isatty():
        click.echo(AT_TERMINAL, err=True)
    if served.settings.background:
        background = load_module("commands.background")
        status: int | None = background.serve_from_background(
            served.loaded, as_server=AS_SERVER, accept_only=served.accept_only
        )
        if status is not None:
            return status
    check_store(served.settings)
    stdio = load_module("commands.serve_stdio")
    return run_async(
        lambda: stdio.serve(
            served.open_service,
            served.load_jobs,
            at_once=served.at_once,
            keep_days=served.settings.keep_days,
            drain_seconds=served.drain_seconds,
            listed=served.prepare,
        )
    )


def _tell(address: str) -> None:
    click.echo(f"Serving at {address}", err=True)
