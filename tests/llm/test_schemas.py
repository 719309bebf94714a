"""Which JSON Schemas can constrain a reply, and what becomes of them."""

from typing import Any

import pytest

from concertmaster.engine.plan.validation import PlanRules, plan_schema
from concertmaster.llm.anthropic.request import closed_schema


def an_object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def test_objects_are_closed_at_every_depth() -> None:
    closed = closed_schema(
        an_object(items={"type": "array", "items": an_object(n={"type": "integer"})})
    )
    assert closed is not None
    assert closed["additionalProperties"] is False
    assert closed["properties"]["items"]["items"]["additionalProperties"] is False


def test_what_is_not_enforced_moves_into_the_description() -> None:
    closed = closed_schema(an_object(name={"type": "string", "minLength": 3}))
    assert closed is not None
    assert closed["properties"]["name"] == {"type": "string", "description": "{minLength: 3}"}


def test_a_choice_of_types_becomes_a_choice_of_schemas() -> None:
    closed = closed_schema(an_object(name={"type": ["string", "null"]}))
    assert closed is not None
    assert closed["properties"]["name"] == {"anyOf": [{"type": "string"}, {"type": "null"}]}


@pytest.mark.parametrize(
    "choice",
    [
        {"enum": ["a", None]},
        {"type": ["string", "null"], "enum": ["a", None]},
    ],
)
def test_a_choice_of_values_stays_one(choice: dict[str, Any]) -> None:
    closed = closed_schema(an_object(name=choice))
    assert closed is not None
    assert closed["properties"]["name"] == {"enum": ["a", None]}


def test_definitions_are_kept_and_closed() -> None:
    closed = closed_schema(
        an_object(a={"$ref": "#/$defs/part"}, b={"anyOf": [{"$ref": "#/$defs/part"}]})
        | {"$defs": {"part": an_object(n={"type": "integer"})}}
    )
    assert closed is not None
    assert closed["$defs"]["part"]["additionalProperties"] is False
    assert closed["properties"]["a"] == {"$ref": "#/$defs/part"}


def test_an_object_that_is_to_be_empty_is_no_open_one() -> None:
    assert closed_schema({"type": "object", "additionalProperties": False}) is not None


def test_the_schema_of_plans_has_a_closed_form() -> None:
    rules = PlanRules(workers=["analyst"], inputs=["a.py"], max_subtasks=8)
    assert closed_schema(plan_schema(rules)) is not None


@pytest.mark.parametrize(
    "part",
    [
        {},
        True,
        {"description": "anything"},
        {"type": "object"},
        {"type": "object", "additionalProperties": {"type": "string"}},
        an_object(n={"type": "integer"}) | {"patternProperties": {"^x": {"type": "string"}}},
        an_object(n={"type": "integer"}) | {"anyOf": [an_object(m={"type": "integer"})]},
        {"type": "array"},
        {"type": "array", "prefixItems": [{"type": "string"}]},
        {"enum": [{"a": 1}]},
        {"$ref": "#/$defs/nowhere"},
        {"$ref": "https://schemas.test/other.json"},
    ],
)
def test_a_schema_that_leaves_something_open_has_no_closed_form(part: Any) -> None:
    assert closed_schema(an_object(part=part)) is None
    assert closed_schema(an_object(parts={"type": "array", "items": part})) is None


def test_a_schema_that_refers_to_itself_has_no_closed_form() -> None:
    node = an_object(children={"type": "array", "items": {"$ref": "#/$defs/node"}})
    assert (
        closed_schema(an_object(root={"$ref": "#/$defs/node"}) | {"$defs": {"node": node}}) is None
    )
