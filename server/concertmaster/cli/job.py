"""The subcommand for ready-made jobs: `job`, with a command for each."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from pydantic import JsonValue
from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from concertmaster.cli.app import FAILED
from concertmaster.cli.approval import Begin, see_through
from concertmaster.cli.changes import make_changes, tell_changes, write_diff
from concertmaster.cli.follow import Followed, follow
from concertmaster.cli.job_options import command_of, given, usage
from concertmaster.cli.jobs import find_jobs
from concertmaster.cli.options import job_folders_option, json_option, load
from concertmaster.cli.terminal import print_aside, print_data, print_json, stderr
from concertmaster.cli.wiring import open_runs
from concertmaster.cli.wording import one_line
from concertmaster.cli.work import exit_status, named_outside, print_followed
from concertmaster.errors import RequestError, did_you_mean
from concertmaster.runs.job_files import JobsReading
from concertmaster.runs.jobs import Job, listed
from concertmaster.runs.service import RunService
from concertmaster.runs.state import RunState
from concertmaster.settings import Settings
from concertmaster.tools.changes import FileChange


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
