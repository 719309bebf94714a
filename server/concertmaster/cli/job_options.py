"""A job's arguments as click knows them: its files as an argument, all else as options."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from concertmaster.cli.changes import diff_target
from concertmaster.cli.options import bounds_options, json_option, setup_options
from concertmaster.errors import DefinitionError
from concertmaster.runs.jobs import Job, JobArgument

PREFIX = "argument_"
"""Begins the names of parameters that are a job's own, so that none is taken for a setting."""

Command = Callable[..., Any]

_diff_option = click.option(
    "--diff",
    "diff_file",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    callback=diff_target,
    metavar="FILE",
    help="Write the changes to this file, as a unified diff.",
)
_apply_option = click.option(
    "--apply",
    "apply",
    is_flag=True,
    help="Change the files, if the run succeeds and nobody has changed them meanwhile.",
)


def command_of(job: Job, run: Command) -> click.Command:
    """Return the command that calls `run` with a job's arguments and the usual flags.

    Raises:
        DefinitionError: an argument has the name of one of these flags.
    """
    own = [_parameter(argument) for argument in job.arguments]
    usual = [_diff_option, _apply_option] if job.changes_files else []
    for decorate in reversed([*own, *usual, setup_options, bounds_options, json_option]):
        run = decorate(run)
    command = click.command(job.name, help=_help(job), short_help=job.description)(run)
    options = [option for parameter in command.params for option in parameter.opts]
    for argument in job.arguments:
        if options.count(flag(argument)) > 1:
            problem = f"{flag(argument)} is a flag of all jobs; give the argument another name"
            raise DefinitionError(problem, file=job.file)
    return command


def _help(job: Job) -> str:
    files = f"\n\n{job.files.name.upper()}: {job.files.description}" if job.files else ""
    return f"{job.description}{files}"


def _parameter(argument: JobArgument) -> Callable[[Command], Command]:
    name = f"{PREFIX}{argument.name}"
    if argument.kind == "files":
        return click.argument(
            name,
            nargs=-1 if argument.several else 1,
            required=argument.required,
            metavar=usage(argument),
        )
    again = f" {argument.amount} with commas between them, or the option again for each."
    return click.option(
        flag(argument),
        name,
        type=click.Choice(argument.choices) if argument.choices and not argument.several else str,
        metavar="|".join(argument.choices) or "TEXT",
        required=argument.required,
        multiple=argument.several,
        help=argument.description + again * argument.several,
    )


def flag(argument: JobArgument) -> str:
    """Return the option that an argument is."""
    return f"--{argument.name.replace('_', '-')}"


def usage(argument: JobArgument) -> str:
    """Return how an argument is written on the command line, in short."""
    if argument.kind == "files":
        word = f"{argument.name.upper()}{'…' * argument.several}"
    else:
        word = f"{flag(argument)} {'|'.join(argument.choices) or '…'}"
    return word if argument.required else f"[{word}]"


def given(job: Job, flags: dict[str, Any]) -> dict[str, Sequence[str]]:
    """Return the job's own values, which are taken out of the `flags`."""
    values: dict[str, Sequence[str]] = {}
    for argument in job.arguments:
        match flags.pop(f"{PREFIX}{argument.name}"):
            case (str(text),) if argument.kind != "files":
                values |= job.split({argument.name: text})
            case (*texts,):
                values[argument.name] = texts
            case text:
                values[argument.name] = (text,) if text else ()
    return values
