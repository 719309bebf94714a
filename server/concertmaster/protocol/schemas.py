"""JSON Schemas for clients: free of noise, and made soon."""

import json
import re
from collections.abc import Collection, Mapping
from typing import cast

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from concertmaster.llm.protocol import JsonSchema

_BOUNDS = frozenset(
    {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength"}
)

_DEFINITION = re.compile(r'"#/\$defs/([^"]+)"')


def schemas_of(
    *models: type[BaseModel], lines: Collection[type[BaseModel]] = ()
) -> dict[type[BaseModel], JsonSchema]:
    """Return the output schema of each model, short: clients read all before they make a call.

    Fields have their types and descriptions; objects in them are left open, except for the items
    of lists that are among `lines`. Fields that it does not name are allowed everywhere.
    """
    references, whole = models_json_schema([(model, "validation") for model in models])
    parts = tidy(whole)["$defs"]
    outline = _Outline(parts, {model.__name__ for model in lines})
    return {model: outline.of(references[model, "validation"]) for model in models}


def brief(schema: JsonSchema, names: Collection[str], *, description: str) -> JsonSchema:
    """Return an output schema with the types of the named fields alone."""
    properties = {name: _shape(schema["properties"][name]) for name in names}
    required = [name for name in schema["required"] if name in names]
    return {
        "type": "object",
        "description": description,
        "properties": properties,
        "required": required,
    }


class _Outline:
    def __init__(self, parts: Mapping[str, JsonSchema], lines: Collection[str]) -> None:
        self._parts = parts
        self._lines = lines

    def of(self, reference: JsonSchema) -> JsonSchema:
        schema = self._parts[_name_of(reference)]
        if "anyOf" not in schema:
            properties = {name: self._field(field) for name, field in schema["properties"].items()}
            required = {"required": schema["required"]} if "required" in schema else {}
            return {"type": "object", "properties": properties, **required}
        # One object with the fields of all: not every client knows alternatives at the root.
        merged: dict[str, JsonSchema] = {}
        for alternative in schema["anyOf"]:
            for name, field in self.of(alternative)["properties"].items():
                merged[name] = _either(merged[name], field) if name in merged else field
        return {"type": "object", "properties": merged}

    def _field(self, field: JsonSchema) -> JsonSchema:
        shape = _shape(field)
        if (name := _name_of(field.get("items", {}))) in self._lines:
            inner = self._parts[name]["properties"]
            properties = {name: _shape(part, values=False) for name, part in inner.items()}
            shape["items"] = {"type": "object", "properties": properties}
        return shape | {key: field[key] for key in ("description",) if key in field}


def _shape(field: JsonSchema, *, values: bool = True) -> JsonSchema:
    """Return the type of a field, and the values that it may have."""
    keys = ("type", "anyOf", "enum") if values else ("type", "anyOf")
    shape: JsonSchema = {key: field[key] for key in keys if key in field}
    if not shape:
        # A reference, or alternatives that are all objects.
        return {"type": "object"}
    if "items" in field:
        shape["items"] = _shape(field["items"], values=False)
    return shape


def _either(one: JsonSchema, other: JsonSchema) -> JsonSchema:
    """Return the schema of a field that two kinds of replies have."""
    if "enum" not in one:
        return one
    return one | {"enum": [*dict.fromkeys([*one["enum"], *other["enum"]])]}


def _name_of(reference: JsonSchema) -> str:
    """Return which definition a schema refers to; an empty name if it does not."""
    return "".join(_DEFINITION.findall(json.dumps(reference.get("$ref", ""))))


def input_schema(schema: JsonSchema) -> JsonSchema:
    """Return the schema of a tool's arguments, as published.

    Some clients check arguments against it and tell their model what their own validator says. So
    it has no bounds and forbids no other arguments; this server refuses those in a sentence.
    """
    properties = {
        name: {key: part for key, part in field.items() if key not in _BOUNDS}
        for name, field in tidy(schema)["properties"].items()
    }
    return tidy(schema) | {"properties": properties}


def tidy(schema: JsonSchema) -> JsonSchema:
    """Return a JSON Schema without generated titles, null alternatives and empty defaults."""
    kept: JsonSchema = {}
    for key, value in schema.items():
        if key in ("properties", "$defs"):
            kept[key] = {name: tidy(inner) for name, inner in value.items()}
        elif key == "anyOf":
            kept |= _alternatives([tidy(inner) for inner in value])
        elif key in ("items", "additionalProperties") and isinstance(value, dict):
            kept[key] = tidy(cast("JsonSchema", value))
        elif not _is_noise(key, value, schema):
            kept[key] = value
    return kept


def _alternatives(schemas: list[JsonSchema]) -> JsonSchema:
    real = [schema for schema in schemas if schema != {"type": "null"}]
    return real[0] if len(real) == 1 else {"anyOf": real}


def _is_noise(key: str, value: object, schema: JsonSchema) -> bool:
    generated_default = key == "default" and value in (None, "", [], {})
    of_a_class = key == "description" and "properties" in schema
    return key == "title" or generated_default or of_a_class
