"""How one subtask can be done: by one worker once, or by one of the patterns of the field."""

from collections.abc import Mapping
from typing import Annotated, Literal, TypeGuard, cast, get_args

from pydantic import BeforeValidator, Field

from concertmaster.llm.protocol import Frozen, JsonSchema, Text, closed_object

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
