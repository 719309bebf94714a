"""The subcommand for ready-made jobs: `job`, with a command for each."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import click
from pydantic import JsonValue
from rich.table import Table

from concertmaster.cli.app import FAILED
from concertmaster.cli.follow import Followed, follow
from concertmaster.cli.job_options import command_of, given, usage
from concertmaster.cli.jobs import find_jobs
from concertmaster.cli.options import job_folders_option, json_option, load, run_async
from concertmaster.cli.terminal import print_aside, print_data, print_json, stderr, table_of
from concertmaster.cli.wiring import open_runs
from concertmaster.cli.wording import count, one_line
from concertmaster.cli.work import exit_status, named_outside, print_followed
from concertmaster.errors import RequestError, did_you_mean
from concertmaster.runs.job_files import JobsReading
from concertmaster.runs.jobs import Job
from concertmaster.settings import Settings
from concertmaster.tools.changes import FileChange, apply_changes, unified_diff


class _Jobs(click.Group):
    """A command for each job; which there are depends on the folders."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_reading(ctx).jobs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        jobs = _reading(ctx).jobs
        if cmd_name not in jobs:
            raise RequestError(f"There is no job {cmd_name!r}. {did_you_mean(cmd_name, jobs)}")
        job = jobs[cmd_name]

        def run(**flags: Any) -> None:
            _run(job, flags)

        return command_of(job, run)


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
        print_data(_table(reading))
    for error in reading.errors:
        print_aside(f"Error: {error}", "red")
    ctx.exit(FAILED if reading.errors else 0)


def _table(reading: JobsReading) -> Table:
    table = table_of("job", "arguments", "description")
    for item in reading.jobs.values():
        arguments = " ".join(usage(argument) for argument in item.arguments)
        table.add_row(item.name, arguments, one_line(item.description))
    return table


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
class _Done:
    followed: Followed
    changes: tuple[FileChange, ...]


def _run(item: Job, flags: dict[str, Any]) -> None:
    arguments = item.check(given(item, flags))
    as_json, apply = flags.pop("as_json"), flags.pop("apply", False)
    diff_file: BinaryIO | None = flags.pop("diff_file", None)
    loaded = load(flags)
    roots = loaded.settings.roots or (Path.cwd(),)
    inputs = item.inputs(arguments)

    async def work() -> _Done:
        named = named_outside(inputs, roots)
        async with open_runs(loaded, roots=roots, named=named) as service:
            order = item.order(arguments, await service.input_names(inputs))
            followed = await follow(service, await service.start(order), stderr())
            return _Done(followed, await service.changes(followed.state.run_id))

    done = run_async(work)
    print_followed(done.followed, as_json)
    status = exit_status(done.followed)
    if diff_file is not None:
        diff_file.write(unified_diff(done.changes).encode())
    if item.changes_files:
        status = _tell_changes(done, apply, status, roots)
    click.get_current_context().exit(status)


def _tell_changes(done: _Done, apply: bool, status: int, roots: Sequence[Path]) -> int:
    """Change files or tell which would change, and return the exit status."""
    if apply and status == 0:
        return _apply(done.changes, roots)
    names = ", ".join(change.name for change in done.changes) or "none"
    print_aside(f"Nothing was written. Files that the run changes: {names}")
    if done.changes:
        print_aside(f"To see how: concertmaster show {done.followed.state.run_id} --diff")
    return status


def _apply(changes: Sequence[FileChange], roots: Sequence[Path]) -> int:
    """Change the files, tell how that went, and return the exit status."""
    try:
        paths = apply_changes(changes, roots=roots)
    except RequestError as exc:
        print_aside(f"Error: {exc}", "red")
        return FAILED
    print_aside(f"Changed {count(len(paths), 'file')}: {', '.join(map(str, paths))}")
    return 0
