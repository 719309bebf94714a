"""The subcommand `work`: a process that works on runs which others accept."""

from typing import Any

import anyio
import click
from anyio.abc import TaskStatus

from concertmaster.cli.bootstrap import open_runs, tending
from concertmaster.cli.environment import check_store, place_of_runs
from concertmaster.cli.options import load, run_async, setup_options
from concertmaster.cli.view.formatting import count
from concertmaster.cli.view.terminal import print_aside
from concertmaster.signals import ending_signals, leave_closed_terminal


@click.command()
@setup_options
def work(**flags: Any) -> None:
    """Work on runs that others accept, until SIGTERM, Ctrl-C, or the end of its terminal.

    Then no call begins any more, those under way may end, and the runs are handed back, to go
    on in another process.
    """
    loaded = load(flags)
    settings = loaded.settings
    check_store(settings)
    place = place_of_runs(settings)

    async def serve_runs() -> None:
        async with (
            open_runs(loaded, roots=settings.roots, part="works") as service,
            tending(service, settings, part="works"),
            anyio.create_task_group() as tasks,
        ):
            ended = anyio.Event()
            await tasks.start(_await_signal, ended)
            most = count(settings.runs_at_once, "run")
            print_aside(f"Working on {most} at a time, kept in {place}. Ctrl-C ends it.")
            await ended.wait()
            if load := service.room.load:
                print_aside(f"Letting calls end, then handing back {count(load, 'run')}.")
            tasks.cancel_scope.cancel()

    run_async(serve_runs)


async def _await_signal(ended: anyio.Event, *, task_status: TaskStatus[None]) -> None:
    try:
        with anyio.open_signal_receiver(*ending_signals()) as signals:
            task_status.started()
            leave_closed_terminal(await anext(signals))
            ended.set()
    except NotImplementedError:
        # On Windows, where event loops receive no signals, Ctrl-C ends the process as usual.
        task_status.started()
