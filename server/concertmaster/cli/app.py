"""The command and its subcommands; the place where errors become sentences and statuses."""

import errno
import gc
import importlib
import io
import os
import sys
import threading
from contextlib import suppress
from typing import Any

import click

from concertmaster import __version__
from concertmaster.errors import ConcertmasterError, ModelError, StoreError, UnknownRunError


def load_module(name: str) -> Any:
    """Import and return the module of that name of this room."""
    name = f"concertmaster.cli.{name}"
    if name in sys.modules:
        # Else what is garbage by now would be kept with all the rest.
        return importlib.import_module(name)
    # What is imported stays. To look for garbage in it, while it arrives and ever after, is a
    # twelfth of what a client waits for a server to start.
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        gc.freeze()
        gc.enable()


def load_in_background(name: str) -> None:
    """Import a module of this room in a thread, so that it is there when it is needed.

    A module that cannot be imported is reported to the caller that needs it.
    """
    if f"concertmaster.cli.{name}" in sys.modules:
        return

    def load() -> None:
        with suppress(ImportError):
            load_module(name)

    threading.Thread(target=load, name=f"import {name}", daemon=True).start()


WRONG_USE = 2
FAILED = 1
INTERRUPTED = 130

OBJECTS_A_COLLECTION = 50_000
"""How many objects are made before Python looks for those that keep only each other alive."""

_COMMANDS = {
    "run": ("commands.run", "Plan a task, delegate it to workers, and print their answer."),
    "plan": ("commands.run", "Print the plan for a task, without running it."),
    "worker": ("commands.run", "Have one worker do one subtask."),
    "job": ("commands.jobs", "Do a ready-made job, such as review_code; or list them."),
    "runs": ("commands.runs", "List the latest runs."),
    "show": ("commands.runs", "Print a run, one of its subtasks, its trace or its diff."),
    "cancel": ("commands.runs", "Stop a run; what is finished stays."),
    "answer": ("commands.runs", "Allow a call of a tool that a run asks about, or deny it."),
    "resume": ("commands.run", "Go on with a run that was cut off or did not succeed."),
    "workers": ("commands.workers", "List the workers and check their files."),
    "servers": (
        "commands.servers",
        "List other MCP servers and their tools, or take over a client's.",
    ),
    "serve": ("commands.serve", "Serve MCP clients over stdio, or over HTTP."),
    "stop": ("commands.stop", "End the background servers."),
    "work": ("commands.work", "Work on runs that other processes accept."),
    "store": ("commands.store", "Set up the Postgres that keeps runs for several machines."),
    "dev": ("commands.dev", "Serve a scripted model endpoint, for demos and tests."),
    "doctor": ("commands.doctor", "Tell what is configured, what works and what is missing."),
}
"""For each subcommand the module that has it, and its help in one line."""


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_PRINT_AGAIN = "Runs are kept: concertmaster runs lists them, concertmaster show RUN prints one."


class _Commands(click.Group):
    """Subcommands that are imported when they are called, so that each starts quickly."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, known, rest = super().resolve_command(ctx, args)
        if name is None:
            return name, known, rest
        return name, getattr(load_module(_COMMANDS[name][0]), name), rest

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UnknownRunError as exc:
            click.echo(f"Error: No run {exc.run_id!r}. To list them: concertmaster runs", err=True)
            ctx.exit(WRONG_USE)
        except ConcertmasterError as exc:
            click.echo(f"Error: {exc}", err=True)
            ctx.exit(FAILED if isinstance(exc, StoreError | ModelError) else WRONG_USE)
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(INTERRUPTED)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="concertmaster")
def cli() -> None:
    """Give one task to many specialists and get one answer back.

    Concertmaster plans a task, delegates its parts to workers in parallel, and merges what
    they found. It serves MCP clients (`concertmaster serve`) and people (`concertmaster run`).
    """


for _name, (_, _line) in _COMMANDS.items():
    cli.add_command(click.Command(_name, short_help=_line))


def _open_closed_streams() -> None:
    """Put the null device in the place of each standard stream that this process began without.

    Else the first files to be opened get their numbers, and what is meant for a stream.
    """
    # In the order of their numbers, since a file gets the lowest that is free.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8"))


def _flush_output() -> None:
    """Write what is left, so that a failure comes where somebody can be told of it."""
    try:
        sys.stdout.flush()
    except OSError as exc:
        # Else it is tried again at the very end.
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)
        # Whoever does not want to read on gets no complaint.
        if exc.errno in _NO_ROOM:
            raise


def collect_rarely() -> None:
    """Have Python look less often for what is garbage: most objects live as long as their run.

    By default it looks at each 700th object that is made, which a quarter of the time went to
    in a process with a hundred runs.
    """
    gc.set_threshold(OBJECTS_A_COLLECTION, *gc.get_threshold()[1:])


def main() -> None:
    """Run the command line."""
    collect_rarely()
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        # An answer that was paid for is not lost over a character the terminal lacks.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        _run_command()
    except OSError as exc:
        if exc.errno not in _NO_ROOM:
            raise
        told = "The output could not be written"
        click.echo(f"Error: {told} ({exc.strerror}). {_PRINT_AGAIN}", err=True)
        sys.exit(FAILED)
    finally:
        # Python looks for garbage when it ends, among all that was imported too.
        gc.freeze()


def _run_command() -> None:
    try:
        cli(prog_name="concertmaster")
    finally:
        _flush_output()
