"""The front end of a background server: what a client starts whose runs are to outlive it."""

import sys

import click

from concertmaster.background.files import files_of
from concertmaster.background.front import reach
from concertmaster.background.relay import relay
from concertmaster.cli.app import FAILED
from concertmaster.cli.identity import identity_of
from concertmaster.errors import BackgroundError
from concertmaster.settings import LoadedSettings


def serve_from_background(
    loaded: LoadedSettings, *, as_server: str, accept_only: bool
) -> int | None:
    """Serve the client at stdin and stdout from the background server until either leaves.

    The command of this process becomes that of the server by the flag `as_server` and an
    identity. Returns the exit status, or nothing if there is no such server and none can be
    started, which has been told on stderr.
    """
    files = files_of(loaded.settings.data_folder, identity_of(loaded, accept_only=accept_only))
    # Started with the same flags, and with the environment and the working folder it inherits.
    # But with no module of that folder in the place of one of ours.
    program = [sys.executable, "-P", "-m", "concertmaster", *sys.argv[1:]]
    try:
        connection = reach(files, [*program, as_server, files.identity])
    except BackgroundError as exc:
        click.echo(
            f"Warning: The background server cannot be used. {exc} This process serves its client "
            "without it, and its runs are interrupted when the client quits.",
            err=True,
        )
        return None
    with connection:
        if relay(connection):
            return 0
    click.echo(
        "Error: The background server has ended. Runs that were under way can be resumed; to go "
        "on, connect again.",
        err=True,
    )
    return FAILED
