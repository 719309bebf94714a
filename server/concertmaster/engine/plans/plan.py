"""The plan of a run: its shape, and how it is read from what a planner wrote."""

import difflib
import itertools
import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Literal, cast, get_args

from pydantic import AliasChoices, BaseModel, Field, StringConstraints, ValidationError

from concertmaster.engine.plans.strategy import SINGLE, Map, Revise, Strategy, Vote
from concertmaster.errors import InvalidPlanError
from concertmaster.llm.protocol import Frozen

Priority = Literal["high", "medium", "low"]
"""How much the answer depends on a subtask; decides who gets a slot first."""

PRIORITIES: tuple[Priority, ...] = get_args(Priority)
"""From the most important to the least."""

PlanMode = Literal["static", "adaptive"]
"""Whether the plan stands, or the orchestrator is asked again as results come in."""

Verify = Literal["none", "report", "mend"]
"""Whether results are checked against one another; and whether that goes back to the workers."""


Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
"""Text that says something."""

ID_CHARS = 40
"""The longest id of a subtask."""

_DECODER = json.JSONDecoder()

ID_PATTERN = rf"^[A-Za-z][A-Za-z0-9_-]{{0,{ID_CHARS - 1}}}$"


class Subtask(Frozen):
    """One unit of a plan: a worker, its objective, and what it depends on."""

    # The second name of a key is accepted when a plan is read, and never written.
    id: str = Field(pattern=ID_PATTERN, validation_alias=AliasChoices("id", "task_id"))
    worker: str = Field(min_length=1, validation_alias=AliasChoices("worker", "task_type"))
    objective: str = Field(min_length=1, validation_alias=AliasChoices("objective", "description"))
    why: str = ""
    depends_on: tuple[str, ...] = Field(
        default=(), validation_alias=AliasChoices("depends_on", "dependencies")
    )
    priority: Priority = "medium"
    inputs: tuple[str, ...] = ()
    """Names of the run's inputs that the worker gets; it gets no others."""
    expects: str = ""
    """What the result should look like."""
    needs_all: bool = False
    """Skip this subtask when a dependency failed, rather than run it with the failure named."""
    decisive: bool = False
    """In an adaptive run, ask what to do next as soon as this one has ended."""
    strategy: Strategy = SINGLE
    timeout_seconds: float | None = Field(default=None, gt=0)
    """Time for each piece of the work: the one worker, an answer of a vote, a part of a map."""
    max_tokens: int | None = Field(default=None, gt=0)
    budget_usd: float | None = Field(default=None, gt=0)
    """What all calls for it may cost; within the budget of the run either way."""


class CustomWorker(Frozen):
    """A worker written for one run, because the catalog has none for the work."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")
    description: Words
    instructions: Words
    why: Words
    """Why no worker of the catalog will do."""


class Plan(Frozen):
    """The subtasks of a run, or the direct answer that makes them unnecessary."""

    analysis: str = ""
    direct_answer: str | None = None
    mode: PlanMode = "static"
    why: str = ""
    """Why it is done in this mode, or answered directly."""
    verify: Verify = "none"
    subtasks: tuple[Subtask, ...] = Field(
        default=(), validation_alias=AliasChoices("subtasks", "tasks")
    )
    custom_workers: tuple[CustomWorker, ...] = ()


_MODELS: Mapping[str, type[BaseModel]] = {
    "plan": Plan,
    **dict.fromkeys(("subtasks", "tasks", "add"), Subtask),
    "custom_workers": CustomWorker,
    "vote": Vote,
    "revise": Revise,
    "map": Map,
}
"""What is read at a place in a plan, by the last name on the way there."""


def free_id(subtask_id: str, taken: Collection[str]) -> str:
    """Return an id that is not taken: this one, or one that is numbered."""
    name, number = subtask_id, 1
    while name in taken:
        number += 1
        suffix = f"_{number}"
        name = subtask_id[: ID_CHARS - len(suffix)] + suffix
    return name


def read_plan(text: str, *, lenient: bool = False) -> Plan:
    """Return the plan that a planner's JSON reply describes, not yet checked against rules.

    Text around the plan does not matter. A `lenient` reader leaves out keys that a plan does not
    have.

    Raises:
        InvalidPlanError: it is no JSON, or not of a plan's shape.
    """
    text = _plan_within(text)
    try:
        return Plan.model_validate_json(text)
    except ValidationError as exc:
        unknown = [item["loc"] for item in exc.errors() if item["type"] == "extra_forbidden"]
        if not lenient or not unknown:
            raise InvalidPlanError(shape_problems(exc)) from None
    plan = json.loads(text)
    for place in unknown:
        _remove(plan, place)
    return read_plan(json.dumps(plan))


def _remove(value: object, place: Sequence[int | str]) -> None:
    for before, part in itertools.pairwise(("", *place[:-1])):
        if isinstance(value, list):
            value = cast("list[object]", value)[int(part)]
        # What follows it in a place is the strategy's kind, and no key of it.
        elif before != "strategy":
            value = cast("dict[str, object]", value)[str(part)]
    del cast("dict[str, object]", value)[str(place[-1])]


def shape_problems(error: ValidationError) -> list[str]:
    """Return one sentence for each thing that is wrong with a plan's shape."""
    problems: list[str] = []
    root = "plan" if error.title == Plan.__name__ else ""
    for item in error.errors(include_url=False, include_input=False):
        where = ".".join(str(part) for part in item["loc"])
        what = item["msg"].removeprefix("Value error, ").rstrip(".")
        if item["type"] == "extra_forbidden":
            what = unknown_key((root, *item["loc"]))
        end = "" if what.endswith("?") else "."
        problems.append(f"{where}: {what}{end}" if where else f"{what}{end}")
    return problems


def _plan_within(text: str) -> str:
    """Return the JSON of the plan that a reply wraps in prose; of several, the longest one."""
    found: list[str] = []
    at = text.find("{")
    while at >= 0:
        try:
            value, end = _DECODER.raw_decode(text, at)
        except json.JSONDecodeError as exc:
            # What is broken from there on is not looked into: parts of a plan are no plan.
            end = max(exc.pos, at + 1)
        except RecursionError:
            break
        else:
            if value.keys() & {"subtasks", "tasks", "direct_answer"}:
                found.append(text[at:end])
        at = text.find("{", end)
    return max(found, key=len, default=_strip_fence(text))


def unknown_key(place: Sequence[int | str]) -> str:
    """Return what is wrong with the key at a place in a plan, and which key was probably meant.

    A place begins with "plan", and is made of the keys and indexes that lead to the key.
    """
    key = str(place[-1])
    parents = [part for part in place[:-1] if isinstance(part, str)]
    model = _MODELS.get(parents[-1]) if parents else None
    if model is None:
        return "there is no such key; leave it out"
    names = {
        str(name): field_name
        for field_name, field in model.model_fields.items()
        for name in _names_of(field.validation_alias, field_name)
    }
    if key in names:
        return f"it means the same as {names[key]!r}, which is given too; leave one of them out"
    if near := difflib.get_close_matches(key.lower(), names, n=1):
        return f"there is no such key; did you mean {names[near[0]]!r}?"
    return f"there is no such key; leave it out, or use one of {', '.join(model.model_fields)}"


def _names_of(alias: object, name: str) -> Sequence[object]:
    return alias.choices if isinstance(alias, AliasChoices) else [name]


def _strip_fence(text: str) -> str:
    fenced = re.fullmatch(r"\s*```(?:json)?\s*\n(.*)\n\s*```\s*", text, flags=re.DOTALL)
    return fenced.group(1) if fenced else text
