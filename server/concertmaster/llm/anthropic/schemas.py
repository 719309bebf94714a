"""What the provider's structured output can promise of a JSON Schema."""

from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from typing import Any, cast

from anthropic import transform_schema

from concertmaster.llm.protocol import JsonSchema

_DEFINITION = "#/$defs/"
_CHOICES = ("anyOf", "oneOf", "allOf")


class OpenSchemaError(ValueError):
    """The schema leaves open what structured output has to be told."""


def closed_schema(schema: JsonSchema) -> JsonSchema | None:
    """Return `schema` as the provider accepts it, or None when it would lose its meaning.

    Objects are closed, and constraints that the provider does not enforce move into the
    descriptions, so a reply has yet to be validated. A schema that somewhere allows any
    value or any property, or that refers to itself, has no such form.
    """
    try:
        _check_references(schema)
        return transform_schema(_with_single_types(schema))
    except ValueError:
        return None


def _with_single_types(schema: object) -> JsonSchema:
    """Return `schema` with a choice of schemas wherever it has a choice of types."""
    if not isinstance(schema, dict):
        raise OpenSchemaError
    single = dict(cast("JsonSchema", schema))
    for key in ("properties", "$defs"):
        if key in single:
            parts = cast("JsonSchema", single[key])
            single[key] = {name: _with_single_types(part) for name, part in parts.items()}
    for key in _CHOICES:
        if key in single:
            single[key] = [_with_single_types(part) for part in single[key]]
    if "items" in single:
        single["items"] = _with_single_types(single["items"])
    _check_closed(single)
    if isinstance(single.get("type"), list) and "enum" not in single:
        variants = [{**single, "type": name} for name in single["type"]]
        return {"anyOf": [_with_single_types(variant) for variant in variants]}
    return single


def _check_closed(schema: JsonSchema) -> None:
    kind = schema.get("type")
    structured = any(key in schema for key in ("properties", "items"))
    if structured and any(key in schema for key in _CHOICES):
        raise OpenSchemaError
    if kind == "object" and (
        "patternProperties" in schema
        or not (schema.get("properties") or schema.get("additionalProperties") is False)
    ):
        raise OpenSchemaError
    if kind == "array" and "items" not in schema:
        raise OpenSchemaError


def _check_references(schema: JsonSchema) -> None:
    definitions = cast("dict[str, Any]", schema.get("$defs", {}))
    graph = {name: set(_references(part)) for name, part in definitions.items()}
    graph[""] = set(_references({**schema, "$defs": {}}))
    unknown = set[str]().union(*graph.values()) - set(definitions)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError:
        raise OpenSchemaError from None
    if unknown:
        raise OpenSchemaError


def _references(value: object) -> Iterator[str]:
    """Yield what `value` refers to: names of definitions, where it is well-behaved."""
    if isinstance(value, list):
        for item in cast("list[object]", value):
            yield from _references(item)
    elif isinstance(value, dict):
        for key, item in cast("dict[str, object]", value).items():
            if key == "$ref" and isinstance(item, str):
                yield item.removeprefix(_DEFINITION)
            else:
                yield from _references(item)
