"""Flags that several subcommands share, and the settings they make up with all else."""

import codecs
import functools
import logging
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import anyio
import click
from pydantic import TypeAdapter, ValidationError

from concertmaster.errors import ConcertmasterError, RequestError
from concertmaster.llm.messages import JsonSchema
from concertmaster.settings.load import LoadedSettings, Settings

T = TypeVar("T")
Command = Callable[..., Any]

_JSON_OBJECT: TypeAdapter[JsonSchema] = TypeAdapter(JsonSchema)

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

FOLDER = click.Path(path_type=Path)


def _together(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    return lambda command: functools.reduce(
        lambda wrapped, option: option(wrapped), reversed(options), command
    )


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")

data_option = click.option(
    "--data-folder", type=FOLDER, metavar="DIR", help="Keep runs here, or find them here."
)

definition_options = _together(
    click.option(
        "--workers-dir",
        "worker_folders",
        type=FOLDER,
        metavar="DIR",
        multiple=True,
        help="Also use the worker files in this folder. May be given again.",
    ),
    click.option(
        "--prompts-dir",
        "prompt_folders",
        type=FOLDER,
        metavar="DIR",
        multiple=True,
        help="Use the prompt files in this folder over the built-in ones.",
    ),
)

job_folders_option = click.option(
    "--jobs-dir",
    "job_folders",
    type=FOLDER,
    metavar="DIR",
    multiple=True,
    help="Also use the job files in this folder. May be given again.",
)

setup_options = _together(
    click.option(
        "--root",
        "roots",
        type=FOLDER,
        metavar="DIR",
        multiple=True,
        help="A folder that inputs may come from. May be given again.",
    ),
    definition_options,
    click.option(
        "--offline", is_flag=True, default=None, help="Use no language model, even with a key."
    ),
    data_option,
)

budget_option = click.option(
    "--budget", "budget_usd", type=float, metavar="USD", help="Spend no more on the run."
)

bounds_options = _together(
    click.option(
        "--deadline", "run_seconds", type=float, metavar="SECONDS", help="Time for the whole run."
    ),
    budget_option,
    click.option(
        "--budget-tokens",
        type=int,
        metavar="N",
        help="Use no more tokens, but for those read from a cache.",
    ),
    click.option(
        "--reuse-hours",
        type=float,
        metavar="HOURS",
        help="Take over results of the same subtask that are not older than this.",
    ),
)

order_options = _together(
    setup_options,
    click.option("--max-subtasks", type=int, metavar="N", help="Plan no more subtasks."),
    bounds_options,
    json_option,
)

background_options = _together(
    click.option(
        "--context", default="", metavar="TEXT", help="Background that everyone at work is given."
    ),
    click.option(
        "--constraint",
        "constraints",
        metavar="TEXT",
        multiple=True,
        help="What the work must or must not do. May be given again.",
    ),
)

planning_options = _together(
    background_options,
    click.option(
        "--worker",
        "workers",
        metavar="NAME",
        multiple=True,
        help="Use this worker only, or these. May be given again.",
    ),
    click.option(
        "--mode",
        type=click.Choice(["auto", "static", "adaptive"]),
        default="auto",
        help="Plan once, or plan anew as results come in; auto leaves it to the planner.",
    ),
    click.option(
        "--decomposition",
        type=click.Choice(["constrained", "hybrid", "dynamic"]),
        help="Let the planner write no workers of its own, one, or any number.",
    ),
)

running_options = _together(
    click.option(
        "--verify",
        type=click.Choice(["none", "report", "mend"]),
        help="Check results against one another, and have workers mend what is found.",
    ),
    click.option(
        "--guard",
        default="",
        metavar="WORKER",
        help="Have this worker screen the task and its inputs before anything gets out.",
    ),
    click.option(
        "--approve",
        type=click.Choice(["never", "over_budget", "always"]),
        help="Ask before the plan is carried out: if it may cost more than the budget, or always.",
    ),
)

graph_option = click.option(
    "--graph", "as_graph", is_flag=True, help="Print a flowchart instead, as Mermaid text."
)

schema_option = click.option(
    "--output-schema",
    type=click.File("rb"),
    metavar="FILE",
    help="A JSON Schema that the answer must have; - reads it from stdin.",
)


def load(flags: dict[str, Any]) -> LoadedSettings:
    """Return the settings in force with these flags, and set logging up by them."""
    loaded = Settings.load(flags)
    for warning in loaded.warnings:
        click.echo(f"Warning: {warning}", err=True)
    logging.basicConfig(
        stream=sys.stderr,
        level=loaded.settings.log_level.upper(),
        format=LOG_FORMAT,
    )
    # Below warnings they write whole requests, and so people's documents, and addresses.
    for library in ("anthropic", "httpx2", "httpcore2"):
        logging.getLogger(library).setLevel(logging.WARNING)
    # It writes what servers say wrongly, whole; what is worth knowing of it is told by errors.
    logging.getLogger("mcp.client").setLevel(logging.CRITICAL)
    return loaded


def task_text(task: str) -> str:
    """Return the task, which `-` says to read from stdin."""
    if task != "-":
        return task
    try:
        text = sys.stdin.read()
        # Where the locale names no encoding, whatever comes is read.
        text.encode()
    except UnicodeError:
        raise RequestError("What comes from stdin is no text, so it is no task.") from None
    return text


def name_of(file: BinaryIO) -> str:
    """Return the name of an open file, as a message has it."""
    return str(getattr(file, "name", "<stdin>"))


def text_of(file: BinaryIO) -> str:
    """Return the text in an open file: UTF-8, or UTF-16 as PowerShell writes it with `>`."""
    data = file.read()
    marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError:
        raise RequestError(
            f"{name_of(file)} is no text in UTF-8. Save it in that encoding."
        ) from None


def read_schema(file: BinaryIO | None) -> JsonSchema | None:
    """Return the JSON Schema in an open file, if there is one."""
    if file is None:
        return None
    try:
        return _JSON_OBJECT.validate_json(text_of(file))
    except ValidationError as exc:
        problem = exc.errors(include_url=False, include_input=False)[0]["msg"]
        raise RequestError(
            f"The output schema {name_of(file)} is no JSON object: {problem}."
        ) from None


def run_async(work: Callable[[], Awaitable[T]]) -> T:
    """Run `work` to its end and return what it returns, or raise the one error it ended with."""
    try:
        return anyio.run(work)
    except BaseExceptionGroup as group:
        raise _told(group) from group


def _told(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error in a group that its reader can do something about."""
    leaves = list(_leaves(group))
    ours = [leaf for leaf in leaves if isinstance(leaf, ConcertmasterError | KeyboardInterrupt)]
    return (ours or leaves)[0]


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from _leaves(inner)
    else:
        yield error
