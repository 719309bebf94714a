"""The subcommand for ready-made jobs: `job`, with a command for each."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from pydantic import JsonValue
from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from concertmaster.cli.app import FAILED
from concertmaster.cli.bootstrap import find_jobs, open_runs
from concertmaster.cli.commands.run import exit_status, named_outside, print_followed
from concertmaster.cli.options import (
    bounds_options,
    job_folders_option,
    json_option,
    load,
    setup_options,
)
from concertmaster.cli.view.diff import diff_target, make_changes, tell_changes, write_diff
from concertmaster.cli.view.formatting import one_line
from concertmaster.cli.view.interactive import Begin, Followed, follow, see_through
from concertmaster.cli.view.terminal import print_aside, print_data, print_json, stderr
from concertmaster.errors import DefinitionError, RequestError, did_you_mean
from concertmaster.runs.jobs import Job, JobArgument, JobsReading, listed
from concertmaster.runs.service import RunService
from concertmaster.runs.state import RunState
from concertmaster.settings.load import Settings
from concertmaster.tools.changes import FileChange

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


class _Jobs(click.Group):
    """A command for each job; which there are depends on the folders."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_reading(ctx).jobs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        jobs = _reading(ctx).jobs
        if cmd_name not in jobs:
            raise RequestError(_unknown(cmd_name, _reading(ctx)))
        job = jobs[cmd_name]

        def run(**flags: Any) -> None:
            _run(job, flags)

        return command_of(job, run)


def _unknown(name: str, reading: JobsReading) -> str:
    sentence = f"There is no job {name!r}. {did_you_mean(name, reading.jobs)}"
    # It may be the job of a file that cannot be read.
    return " ".join([sentence, *(f"A file is faulty: {error}" for error in reading.errors)])


def _reading(ctx: click.Context) -> JobsReading:
    flags = {"job_folders": ctx.params.get("job_folders", ())}
    return find_jobs(Settings.load(flags).settings)


@click.group(cls=_Jobs, invoke_without_command=True)
@job_folders_option
@json_option
@click.pass_context
def job(ctx: click.Context, as_json: bool, **_: Any) -> None:
    """Do a ready-made job; without a name, list the jobs there are.

    A job has its plan: say what it is about, and its workers begin.
    """
    if ctx.invoked_subcommand is not None:
        return
    reading = _reading(ctx)
    if as_json:
        print_json([_data(item) for item in reading.jobs.values()])
    else:
        print_data(*_listing(reading.jobs.values()))
        print_aside("For the options of one: concertmaster job NAME --help", "dim")
    for error in reading.errors:
        print_aside(f"Error: {error}", "red")
    ctx.exit(FAILED if reading.errors else 0)


def _listing(jobs: Iterable[Job]) -> Iterator[RenderableType]:
    for item in jobs:
        arguments = " ".join(usage(argument) for argument in item.arguments)
        yield Text.assemble((item.name, "bold"), f" {arguments}")
        yield Padding(one_line(item.description), (0, 0, 0, 4))


def _data(item: Job) -> JsonValue:
    return {
        "name": item.name,
        "title": item.title,
        "description": item.description,
        "arguments": [argument.model_dump(mode="json") for argument in item.arguments],
        "changes_files": item.changes_files,
        "file": str(item.file),
    }


@dataclass(frozen=True, slots=True)
class _Done(Followed):
    changes: tuple[FileChange, ...] = ()


def _run(item: Job, flags: dict[str, Any]) -> None:
    arguments = item.check(given(item, flags))
    as_json, apply = flags.pop("as_json"), flags.pop("apply", False)
    diff_file: Path | None = flags.pop("diff_file", None)
    loaded = load(flags)
    roots = loaded.settings.roots or (Path.cwd(),)
    inputs = item.inputs(arguments)
    named = named_outside(inputs, roots)
    if apply and named:
        raise RequestError(
            f"--apply changes files under {listed([str(root) for root in roots])} alone, and "
            f"{named[0]} is not. Name its folder with --root, or leave --apply out."
        )

    async def begin(service: RunService) -> RunState:
        order = item.order(arguments, await service.input_names(inputs))
        return await service.start(order)

    async def work(begin: Begin) -> _Done:
        async with open_runs(loaded, roots=roots, named=named) as service:
            state, seconds = await begin(service), loaded.settings.drain_seconds
            followed = await follow(service, state, stderr(), drain_seconds=seconds)
            changes = await service.changes(state.run_id)
            return _Done(followed.state, followed.stopped, followed.ended_by, changes)

    done = see_through(begin, work)
    print_followed(done, as_json)
    status = exit_status(done)
    if done.ended_by:
        # What it changes is not known yet.
        click.get_current_context().exit(status)
    if diff_file is not None:
        status = write_diff(done.changes, diff_file, status)
    if item.changes_files:
        status = _settle(done, apply, status, roots)
    click.get_current_context().exit(status)


def _settle(done: _Done, apply: bool, status: int, roots: Sequence[Path]) -> int:
    """Change files or tell which would change, and return the exit status."""
    state = done.state
    if apply and done.changes and status == 0:
        return make_changes(done.changes, state, roots)
    if apply and status != 0:
        print_aside(f"Nothing was changed, since the run is {state.status}.", "yellow")
    tell_changes(done.changes, state)
    return status
