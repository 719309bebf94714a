"""The plan of a run: its shape, and how it is read from what a planner wrote."""

import difflib
import itertools
import json
import re
from collections.abc import Collection, Mapping, Sequence
from hashlib import sha256
from typing import Annotated, Literal, TypeGuard, cast, get_args

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    Field,
    StringConstraints,
    ValidationError,
)

from concertmaster.errors import InvalidPlanError
from concertmaster.llm.messages import JsonSchema, closed_object
from concertmaster.llm.usage import Frozen, Text

MOST_PARTS = 100
"""How many parts one subtask may have."""

Weight = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]


class Single(Frozen):
    """One worker does it, once."""

    kind: Literal["single"]


class Revise(Frozen):
    """A critic judges the result, and the worker revises it until nothing is left to mend."""

    kind: Literal["revise"]
    critic: str = ""
    """The worker that judges; one without a role of its own where this is empty."""
    rounds: int = Field(default=2, ge=1, le=5)
    """How often the worker revises, at most."""


class Criterion(Frozen):
    """One of the things by which answers are scored."""

    name: Text = Field(min_length=1)
    weight: Weight = 1.0


class Voter(Frozen):
    """Who gives one of the answers, and how much it counts."""

    worker: str = ""
    """The subtask's own worker where this is empty."""
    model: str = ""
    """The worker's own model where this is empty."""
    weight: Weight = 1.0


class Vote(Frozen):
    """Several answers are given independently, and one is taken.

    `judge`: a model compares them and picks one. `rubric`: each is scored against the
    criteria, and the highest weighted sum wins. `consensus`: the answer that more than
    `share` of the voters give; `weighted` counts their weights instead of their heads.
    """

    kind: Literal["vote"]
    answers: int = Field(default=3, ge=2, le=9)
    """How many answers are given; with voters, one by each."""
    decide: Literal["judge", "rubric", "consensus", "weighted"] = "judge"
    criteria: tuple[Criterion, ...] = ()
    separate_criteria: bool = False
    """Score each criterion in a call of its own."""
    share: float = Field(default=0.5, gt=0, lt=1)
    voters: tuple[Voter, ...] = Field(default=(), max_length=9)

    @property
    def electorate(self) -> tuple[Voter, ...]:
        """Return the voters, one for each answer."""
        return self.voters or (Voter(),) * self.answers


def _pairs(value: object) -> object:
    """Return the mapping that a list of {key, value} stands for."""
    if isinstance(value, Mapping):
        return cast("Mapping[object, object]", value)
    pairs = cast("list[object]", value) if isinstance(value, list) else [value]
    return {pair["key"]: pair["value"] for pair in pairs if _is_pair(pair)}


def _is_pair(pair: object) -> TypeGuard[Mapping[str, object]]:
    if isinstance(pair, Mapping) and set(cast("Mapping[object, object]", pair)) == {"key", "value"}:
        return True
    raise ValueError('a context is an object, or a list of {"key": …, "value": …}')


Context = Annotated[dict[Text, Text], BeforeValidator(_pairs), Field(min_length=1)]
"""What sets one part apart from the others: locale: de, platform: ios."""


class Map(Frozen):
    """The same worker does the same to each part, knowing nothing of the others.

    `inputs`: each of the subtask's inputs is a part. `sections`: its inputs are cut at
    natural boundaries. `contexts`: each context is a part, with all of the inputs.
    """

    kind: Literal["map"]
    over: Literal["inputs", "sections", "contexts"] = "inputs"
    section_tokens: int = Field(default=4000, ge=100, le=100_000)
    """The longest section, by an estimate of four characters to a token."""
    contexts: tuple[Context, ...] = ()


def _named(value: object) -> object:
    """Return the strategy that its name alone stands for.

    Raises:
        ValueError: there is none of that kind.
    """
    if isinstance(value, str):
        value = {"kind": value}
    if not isinstance(value, Mapping):
        return value
    fields = cast("Mapping[object, object]", value)
    kind = fields.get("kind")
    if kind not in get_args(Kind):
        found = "it has no kind" if kind is None else f"its kind is {kind!r}"
        raise ValueError(f"{found}; kinds are {', '.join(get_args(Kind))}")
    return fields


Kind = Literal["single", "revise", "vote", "map"]

Strategy = Annotated[
    Single | Revise | Vote | Map, Field(discriminator="kind"), BeforeValidator(_named)
]

SINGLE = Single(kind="single")


def strategy_schema() -> JsonSchema:
    """Return the JSON Schema of the strategies that a planner may choose.

    Who votes, and with what weight, is for whoever knows the models: a user.
    """
    text = {"type": "string"}
    criterion = closed_object({"name": text, "weight": {"type": "number", "exclusiveMinimum": 0}})
    share = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
    pair = closed_object({"key": text, "value": text})
    return {
        "anyOf": [
            closed_object({"kind": {"const": "single"}}),
            closed_object(
                {
                    "kind": {"const": "revise"},
                    "critic": text,
                    "rounds": {"type": "integer", "minimum": 1, "maximum": 5},
                }
            ),
            closed_object(
                {
                    "kind": {"const": "vote"},
                    "answers": {"type": "integer", "minimum": 2, "maximum": 9},
                    "decide": {"enum": ["judge", "rubric", "consensus"]},
                    "criteria": {"type": "array", "items": criterion},
                    "separate_criteria": {"type": "boolean"},
                    "share": share,
                }
            ),
            closed_object(
                {
                    "kind": {"const": "map"},
                    "over": {"enum": ["inputs", "sections", "contexts"]},
                    "section_tokens": {"type": "integer", "minimum": 100, "maximum": 100_000},
                    "contexts": {"type": "array", "items": {"type": "array", "items": pair}},
                }
            ),
        ]
    }


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


def plan_digest(plan: Plan) -> str:
    """Return a SHA-256 of all that a plan says, in hexadecimal."""
    # Without defaults, so that a field that a later version adds changes nothing.
    fields = plan.model_dump(mode="json", exclude_defaults=True)
    text = json.dumps(fields, ensure_ascii=False, sort_keys=True)
    # Half a character is written to the journal as this too.
    return sha256(text.encode(errors="replace")).hexdigest()
