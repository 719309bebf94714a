"""The subcommands about runs that exist: `runs`, `show`, `cancel`."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import click
from pydantic import JsonValue

from concertmaster.cli.app import FAILED
from concertmaster.cli.data import run_data, run_line, subtask_data
from concertmaster.cli.options import data_option, json_option, load, run_async
from concertmaster.cli.show import answer_text, run_parts, runs_table, trace_tree
from concertmaster.cli.terminal import (
    print_aside,
    print_data,
    print_json,
    print_markdown,
    print_raw,
)
from concertmaster.cli.wiring import open_history
from concertmaster.engine.events import SubtaskResult
from concertmaster.runs.service import RunService
from concertmaster.tools.changes import unified_diff

T = TypeVar("T")


@click.command()
@click.option("--limit", type=click.IntRange(1, 1000), default=20, help="How many, at most.")
@data_option
@json_option
def runs(limit: int, as_json: bool, **flags: Any) -> None:
    """List the latest runs, newest first."""
    recent = _ask(flags, lambda service: service.recent(limit))
    for sentence in recent.unreadable:
        print_aside(sentence, "yellow")
    if as_json:
        print_json([run_line(state) for state in recent.states])
    elif recent.states:
        print_data(runs_table(recent.states))
    elif not recent.unreadable:
        print_aside('There are no runs yet. Start one: concertmaster run "…" FILES')


@click.command()
@click.argument("run_id", metavar="RUN")
@click.option("--subtask", "subtask_id", metavar="ID", help="Print one result in full.")
@click.option("--trace", "as_trace", is_flag=True, help="Print the tree of everything it did.")
@click.option("--content", is_flag=True, help="With --trace: what tools were told and said.")
@click.option("--diff", "as_diff", is_flag=True, help="Print how it changes files, as a diff.")
@data_option
@json_option
def show(
    run_id: str,
    subtask_id: str | None,
    as_trace: bool,
    content: bool,
    as_diff: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Print a run, one of its subtasks, its trace, or how it changes files."""
    if as_diff:
        _show_diff(run_id, as_json, flags)
    elif subtask_id is not None:
        _show_subtask(run_id, subtask_id, as_json, flags)
    elif as_trace:
        span = _ask(flags, lambda service: service.trace(run_id, content=content))
        if as_json:
            print_json(span.model_dump(mode="json"))
        else:
            print_data(trace_tree(span))
    else:
        _show_run(run_id, as_json, flags)


def _show_diff(run_id: str, as_json: bool, flags: dict[str, Any]) -> None:
    changes = _ask(flags, lambda service: service.changes(run_id))
    diff = unified_diff(changes)
    if as_json:
        files: list[JsonValue] = [change.name for change in changes]
        print_json({"run_id": run_id, "files": files, "diff": diff})
    elif diff:
        print_raw(diff)
    else:
        print_aside("The run changes no file.")


def _show_run(run_id: str, as_json: bool, flags: dict[str, Any]) -> None:
    state = _ask(flags, lambda service: service.get(run_id))
    if as_json:
        print_json(run_data(state))
        return
    print_data(*run_parts(state))
    if text := answer_text(state):
        print_data("")
        print_markdown(text)


def _show_subtask(run_id: str, subtask_id: str, as_json: bool, flags: dict[str, Any]) -> None:
    async def ask(service: RunService) -> tuple[SubtaskResult, str]:
        result = await service.result(run_id, subtask_id)
        state = await service.get(run_id)
        return result, state.subtasks[subtask_id].subtask.objective

    result, objective = _ask(flags, ask)
    if as_json:
        print_json(subtask_data(run_id, objective, result))
        return
    print_markdown(result.text or f"{subtask_id} has no text ({result.status}).")
    for note in result.notes:
        print_aside(note)
    for error in result.errors:
        print_aside(error, "yellow")


@click.command()
@click.argument("run_id", metavar="RUN")
@data_option
@json_option
def cancel(run_id: str, as_json: bool, **flags: Any) -> None:
    """Stop a run; what is finished stays."""
    state = _ask(flags, lambda service: service.cancel(run_id, reason="cancelled by command"))
    if as_json:
        print_json(run_data(state))
    else:
        print_aside(f"{run_id}: {state.status}")
    click.get_current_context().exit(0 if state.still else FAILED)


def _ask(flags: dict[str, Any], question: Callable[[RunService], Awaitable[T]]) -> T:
    loaded = load(flags)

    async def ask() -> T:
        async with open_history(loaded.settings) as service:
            return await question(service)

    return run_async(ask)
