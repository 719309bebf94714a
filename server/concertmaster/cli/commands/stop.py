"""The subcommand `stop`: it ends background servers."""

from pathlib import Path

import click

from concertmaster.background.client import inquire
from concertmaster.background.files import ServerFiles, files_of_all
from concertmaster.background.handshake import Report
from concertmaster.cli.app import FAILED
from concertmaster.cli.options import data_option, load
from concertmaster.cli.view.formatting import count
from concertmaster.cli.view.terminal import print_aside
from concertmaster.errors import BackgroundError

END_SECONDS = 10
"""How long a server may take to end, once it is drained."""


@click.command()
@data_option
def stop(data_folder: Path | None) -> None:
    """End the background servers of the data folder.

    Runs that are under way in them are interrupted, and can be resumed. Exits with 1 if a server
    cannot be ended.
    """
    settings = load({"data_folder": data_folder}).settings
    alive = [files for files in files_of_all(settings.data_folder) if files.alive]
    if not alive:
        print_aside("There is no background server.")
    failed = False
    for files in alive:
        try:
            report = _end(files, seconds=END_SECONDS + settings.drain_seconds)
        except BackgroundError as exc:
            failed = True
            print_aside(f"Error: {_name(files)} cannot be ended. {exc}", "red")
        else:
            print_aside(f"Ended process {report.pid}{_left(report)}")
    click.get_current_context().exit(FAILED if failed else 0)


def _end(files: ServerFiles, *, seconds: float) -> Report:
    report = inquire(files, "end")
    # Its lock is to be had the moment it has ended.
    with files.living(seconds=seconds):
        return report


def _name(files: ServerFiles) -> str:
    try:
        return f"Background server, process {files.record().pid}"
    except BackgroundError:
        return "A background server that is starting or ending"


def _left(report: Report) -> str:
    if not report.runs:
        return ""
    return f"; {count(report.runs, 'run')} interrupted, to list them: concertmaster runs"
