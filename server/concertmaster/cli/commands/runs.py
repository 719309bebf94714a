"""The subcommands about runs that exist: `runs` and what it can do, `show`, `cancel`, `answer`."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import click
from pydantic import JsonValue

from concertmaster.cli.app import FAILED
from concertmaster.cli.bootstrap import open_history, retention_of
from concertmaster.cli.options import data_option, graph_option, json_option, load, run_async
from concertmaster.cli.view.as_json import run_data, run_line, subtask_data
from concertmaster.cli.view.formatting import count, size
from concertmaster.cli.view.render import answer_text, run_parts, runs_table, to_go_on, trace_tree
from concertmaster.cli.view.terminal import (
    print_aside,
    print_data,
    print_json,
    print_markdown,
    print_raw,
)
from concertmaster.engine.events import SubtaskResult
from concertmaster.errors import RequestError
from concertmaster.replies.graph import run_graph
from concertmaster.runs.service import RunService
from concertmaster.runs.state import RunState
from concertmaster.tools.changes import unified_diff

T = TypeVar("T")


@click.group(invoke_without_command=True)
@click.option("--limit", type=click.IntRange(1, 1000), default=20, help="How many, at most.")
@data_option
@json_option
@click.pass_context
def runs(ctx: click.Context, limit: int, as_json: bool, **flags: Any) -> None:
    """List the latest runs, newest first; or delete runs."""
    if ctx.invoked_subcommand is not None:
        return
    recent = _ask(flags, lambda service: service.recent(limit))
    for sentence in recent.unreadable:
        print_aside(sentence, "yellow")
    if as_json:
        print_json([run_line(state) for state in recent.states])
    elif recent.states:
        print_data(runs_table(recent.states))
    elif not recent.unreadable:
        print_aside('There are no runs yet. Start one: concertmaster run "…" FILES')


@runs.command()
@click.argument("run_ids", metavar="RUN…", nargs=-1, required=True)
@data_option
def delete(run_ids: tuple[str, ...], **flags: Any) -> None:
    """Delete runs for good, with their inputs, results and traces."""

    async def ask(service: RunService) -> None:
        for run_id in run_ids:
            await service.delete(run_id)
            print_aside(f"{run_id}: deleted")

    _ask(flags, ask)


@runs.command()
@click.option("--keep-days", type=float, metavar="N", help="Delete what is older.")
@click.option("--keep-runs", type=int, metavar="N", help="Delete all but the newest N.")
@click.option("--keep-megabytes", type=float, metavar="N", help="Delete what is more.")
@data_option
@json_option
def prune(as_json: bool, **flags: Any) -> None:
    """Delete the runs that are not to be kept, by the settings or these options.

    Runs that are under way stay.
    """
    settings = load(flags).settings
    retention = retention_of(settings)
    if not retention:
        raise RequestError(
            "There is no bound to what is kept. Give --keep-days, --keep-runs or "
            "--keep-megabytes, or have the settings of these names."
        )
    deleted = _ask(flags, lambda service: service.prune(retention))
    if as_json:
        print_json([run.run_id for run in deleted])
    else:
        freed = f", {size(sum(run.size for run in deleted))}" if deleted else ""
        print_aside(f"Deleted {count(len(deleted), 'run')}{freed}.")


@click.command()
@click.argument("run_id", metavar="RUN")
@click.option("--subtask", "subtask_id", metavar="ID", help="Print one result in full.")
@click.option("--plan", "as_plan", is_flag=True, help="Print its plan as JSON, to edit it.")
@click.option("--trace", "as_trace", is_flag=True, help="Print the tree of everything it did.")
@click.option("--content", is_flag=True, help="With --trace: what tools were told and said.")
@click.option("--diff", "as_diff", is_flag=True, help="Print how it changes files, as a diff.")
@graph_option
@data_option
@json_option
def show(
    run_id: str,
    subtask_id: str | None,
    as_plan: bool,
    as_trace: bool,
    content: bool,
    as_diff: bool,
    as_graph: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Print a run, one of its subtasks, its plan, trace or flowchart, or how it changes files."""
    if content and not as_trace:
        raise click.UsageError("--content is a part of the trace: give --trace too.")
    if as_graph:
        _show_graph(run_id, as_json, flags)
    elif as_plan:
        _show_plan(run_id, flags)
    elif as_diff:
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


def _show_graph(run_id: str, as_json: bool, flags: dict[str, Any]) -> None:
    if as_json:
        raise click.UsageError("--graph prints Mermaid text: not with --json.")
    print_raw(run_graph(_ask(flags, lambda service: service.get(run_id))))


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


def _show_plan(run_id: str, flags: dict[str, Any]) -> None:
    plan = _ask(flags, lambda service: service.get(run_id)).plan
    if plan is None:
        raise RequestError(f"Run {run_id} has no plan.")
    print_json(plan.model_dump(mode="json"))


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

    async def ask(service: RunService) -> tuple[RunState, RunState]:
        before = await service.get(run_id)
        return before, await service.cancel(run_id, reason="cancelled by command")

    before, state = _ask(flags, ask)
    if as_json:
        print_json(run_data(state))
    elif not state.still:
        print_aside(f"{run_id}: {state.status}; its process has not stopped it yet. Try again.")
    elif before.still and before.status == state.status:
        print_aside(f"{run_id}: {state.status} already; nothing was stopped.")
    else:
        go_on = to_go_on(state)
        print_aside(f"{run_id}: {state.status}" + (f". To go on: {go_on}" if go_on else ""))
    click.get_current_context().exit(0 if state.still else FAILED)


@click.command()
@click.argument("run_id", metavar="RUN")
@click.argument("question_id", metavar="QUESTION")
@click.argument("said", metavar="yes|no", type=click.Choice(["yes", "no"]))
@data_option
def answer(run_id: str, question_id: str, said: str, **flags: Any) -> None:
    """Allow the call of a tool that RUN asks about, or deny it.

    `show RUN` prints what is asked. A yes is for this one call; a no is for the tool and the
    rest of the subtask.
    """
    allowed = said == "yes"

    async def ask(service: RunService) -> None:
        await service.answer(run_id, question_id, allowed=allowed, by="the operator")

    _ask(flags, ask)
    print_aside(f"{question_id}: {'allowed' if allowed else 'denied'}")


def _ask(flags: dict[str, Any], question: Callable[[RunService], Awaitable[T]]) -> T:
    loaded = load(flags)

    async def ask() -> T:
        async with open_history(loaded.settings) as service:
            return await question(service)

    return run_async(ask)
