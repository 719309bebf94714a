"""The subcommands that have a run go on and follow it: `run`, `plan`, `worker`, `resume`."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import click
from pydantic import ValidationError

from concertmaster.catalog.frontmatter import read_json_or_yaml
from concertmaster.cli.app import FAILED, INTERRUPTED
from concertmaster.cli.bootstrap import open_runs
from concertmaster.cli.options import (
    background_options,
    budget_option,
    graph_option,
    json_option,
    load,
    name_of,
    order_options,
    planning_options,
    read_schema,
    running_options,
    schema_option,
    setup_options,
    task_text,
    text_of,
)
from concertmaster.cli.view.as_json import run_data
from concertmaster.cli.view.interactive import Begin, Followed, approval, follow, see_through
from concertmaster.cli.view.live import style_of
from concertmaster.cli.view.render import answer_text, summary, to_go_on
from concertmaster.cli.view.terminal import (
    print_aside,
    print_json,
    print_markdown,
    print_raw,
    stderr,
)
from concertmaster.engine.plan.plan import Plan, Verify, shape_problems
from concertmaster.engine.request import Mode
from concertmaster.errors import InvalidPlanError, RequestError
from concertmaster.replies.build import reused_line
from concertmaster.replies.graph import run_graph
from concertmaster.runs.orders import Order, PlanOrder, RunOrder, WorkerOrder
from concertmaster.runs.service import RunService
from concertmaster.runs.state import RunState
from concertmaster.tools.inputs import InputSpec

STATUSES = {"succeeded": 0, "partial": 3, "needs_approval": 3}
"""Exit statuses of runs that have an answer, or a plan to look at; all others are FAILED."""

_task = click.argument("task")
_files = click.argument("files", nargs=-1)


@click.command()
@_task
@_files
@click.option(
    "--plan",
    "plan_file",
    type=click.File("rb"),
    metavar="FILE",
    help="Run the plan in this file (JSON or YAML) instead of making one; - reads it from stdin.",
)
@planning_options
@running_options
@order_options
@schema_option
def run(
    task: str,
    files: tuple[str, ...],
    plan_file: BinaryIO | None,
    context: str,
    constraints: tuple[str, ...],
    workers: tuple[str, ...],
    mode: Mode,
    verify: Verify | None,
    guard: str,
    as_json: bool,
    output_schema: BinaryIO | None,
    **flags: Any,
) -> None:
    """Plan TASK, delegate it to workers, and print their answer.

    FILES are what the workers get to read: files, folders or globs. TASK - reads the task
    from stdin. The answer goes to stdout, all else to stderr.
    """
    schema = read_schema(output_schema)
    plan = read_plan(plan_file) if plan_file is not None else None
    order = RunOrder(
        task=task_text(task),
        context=context,
        constraints=constraints,
        inputs=files,
        plan=plan,
        workers=workers,
        mode=mode,
        verify=verify,
        guard=guard,
        output_schema=schema,
    )
    if plan_file is None:
        _work(order, flags, as_json)
        return
    file_name = name_of(plan_file)

    async def begin(service: RunService) -> RunState:
        try:
            return await service.start(order)
        except InvalidPlanError as exc:
            problems = " ".join(exc.problems)
            raise RequestError(f"The plan in {file_name} cannot be run. {problems}") from None

    _follow(flags, as_json, begin, inputs=files)


@click.command()
@_task
@_files
@planning_options
@order_options
@graph_option
def plan(
    task: str,
    files: tuple[str, ...],
    context: str,
    constraints: tuple[str, ...],
    workers: tuple[str, ...],
    mode: Mode,
    as_json: bool,
    as_graph: bool,
    **flags: Any,
) -> None:
    """Print the plan for TASK, without running it."""
    if as_graph and as_json:
        raise click.UsageError("--graph prints Mermaid text: not with --json.")
    order = PlanOrder(
        task=task_text(task),
        context=context,
        constraints=constraints,
        inputs=files,
        workers=workers,
        mode=mode,
    )
    _work(order, flags, as_json, as_graph=as_graph)


@click.command()
@click.argument("name")
@_task
@_files
@background_options
@click.option("--model", default="", metavar="MODEL", help="Use this model: an alias or an id.")
@order_options
@schema_option
def worker(
    name: str,
    task: str,
    files: tuple[str, ...],
    context: str,
    constraints: tuple[str, ...],
    model: str,
    as_json: bool,
    output_schema: BinaryIO | None,
    **flags: Any,
) -> None:
    """Have the worker NAME do TASK, without planning or synthesis."""
    schema = read_schema(output_schema)
    order = WorkerOrder(
        worker=name,
        task=task_text(task),
        context=context,
        constraints=constraints,
        inputs=files,
        model=model,
        output_schema=schema,
        deadline_seconds=flags["run_seconds"],
    )
    _work(order, flags, as_json)


@click.command()
@click.argument("run_id", metavar="RUN")
@click.option(
    "--plan",
    "plan_file",
    type=click.File("rb"),
    metavar="FILE",
    help="Run it anew with this plan, as `show RUN --plan` prints it.",
)
@click.option("--from", "redo", multiple=True, metavar="SUBTASK", help="Run it anew from there.")
@click.option("--approve", "approved", is_flag=True, help="Carry out its plan, as it is.")
@budget_option
@setup_options
@json_option
def resume(
    run_id: str,
    plan_file: BinaryIO | None,
    redo: tuple[str, ...],
    approved: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Go on with RUN, which was interrupted or cancelled, or did not succeed, or needs approval.

    What succeeded is kept; everything else is tried again. A run that is under way in another
    process is shown. Run anew, with --plan or --from, it is another run, which takes over the
    results that nothing has changed for.
    """
    plan = read_plan(plan_file) if plan_file is not None else None
    usd: float | None = flags["budget_usd"]
    if approved and (plan is not None or redo):
        raise click.UsageError("--approve is for the plan that RUN has: not with --plan or --from.")

    async def begin(service: RunService) -> RunState:
        if plan is None and not redo:
            return await service.resume(run_id, by=_BY, budget_usd=usd)
        return await service.rerun(run_id, plan=plan, redo=redo, budget_usd=usd)

    _follow(flags, as_json, approval(run_id, by=_BY, budget_usd=usd) if approved else begin)


def read_plan(file: BinaryIO) -> Plan:
    """Return the plan in an open file, which is JSON or YAML."""
    text = text_of(file)
    try:
        return Plan.model_validate(read_json_or_yaml(text))
    except ValidationError as exc:
        problems = " ".join(shape_problems(exc))
    except ValueError as exc:
        problems = f"{exc}."
    raise RequestError(f"{name_of(file)} is no plan. {problems}")


_BY = "concertmaster resume"


def _work(order: Order, flags: dict[str, Any], as_json: bool, *, as_graph: bool = False) -> None:
    inputs = order.inputs
    _follow(flags, as_json, lambda service: service.start(order), inputs=inputs, as_graph=as_graph)


def _follow(
    flags: dict[str, Any],
    as_json: bool,
    begin: Begin,
    *,
    inputs: Iterable[InputSpec] = (),
    as_graph: bool = False,
) -> None:
    """Begin something, follow it to its end, print what came of it, and exit."""
    loaded = load(flags)
    roots = loaded.settings.roots or (Path.cwd(),)

    async def work(begin: Begin) -> Followed:
        async with open_runs(loaded, roots=roots, named=named_outside(inputs, roots)) as service:
            state = await begin(service)
            seconds = loaded.settings.drain_seconds
            return await follow(service, state, stderr(), drain_seconds=seconds)

    followed = see_through(begin, work)
    print_followed(followed, as_json, as_graph=as_graph)
    click.get_current_context().exit(exit_status(followed))


def exit_status(followed: Followed) -> int:
    """Return the exit status that tells how a run came to its end."""
    if followed.ended_by:
        return 128 + followed.ended_by
    return INTERRUPTED if followed.stopped else STATUSES.get(followed.state.status, FAILED)


def named_outside(inputs: Iterable[InputSpec], roots: Iterable[Path]) -> tuple[Path, ...]:
    """Return what a person has named outside the roots, and so has opened for reading."""
    named: list[Path] = []
    for spec in inputs:
        # What is no usable path is told by whoever reads the inputs.
        with suppress(OSError, RuntimeError):
            named.append(Path(str(spec)).expanduser().resolve())
    folders = [root.resolve() for root in roots]
    return tuple(
        path for path in named if not any(path.is_relative_to(folder) for folder in folders)
    )


def print_followed(followed: Followed, as_json: bool, *, as_graph: bool = False) -> None:
    """Print the answer of a run, and what is to be said about it; nothing if it was left."""
    if followed.ended_by:
        return
    state = followed.state
    if as_graph and state.plan is not None:
        print_raw(run_graph(state))
    elif as_json:
        print_json(run_data(state))
    else:
        _print_answer(state)
    _print_remarks(state)


def _print_answer(state: RunState) -> None:
    if text := answer_text(state):
        # A value is for programs to read, and has no room for a remark.
        noted = bool(state.notice) and state.value is None
        print_markdown(f"{text}\n\n_{state.notice}_" if noted else text)


def _print_remarks(state: RunState) -> None:
    for finding in state.findings:
        print_aside(f"Results do not agree: {finding.what}", "yellow")
    for reason in state.reasons:
        print_aside(reason, "yellow")
    if reused := reused_line(state):
        print_aside(f"Taken over: {reused}")
    if state.request.kind == "plan" and state.plan is not None and state.plan.subtasks:
        print_aside(
            f"To run it, edited or not: concertmaster show {state.run_id} --plan > plan.json, "
            f"then concertmaster resume {state.run_id} --plan plan.json"
        )
    if state.rest is not None or state.status == "needs_approval":
        print_aside(f"To go on: {to_go_on(state)}", "yellow")
    print_aside(summary(state), style_of(state.status))
