"""JSON Schemas for clients: free of noise, and made soon."""

import json
import re
from typing import cast

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from concertmaster.llm.protocol import JsonSchema

_DEFINITION = re.compile(r'"#/\$defs/([^"]+)"')


def schemas_of(*models: type[BaseModel]) -> dict[type[BaseModel], JsonSchema]:
    """Return the schema of each model, tidied. What they have in common is made once."""
    references, whole = models_json_schema([(model, "validation") for model in models])
    parts = tidy(whole)["$defs"]
    return {
        model: _with_its_parts(*_names_in(references[model, "validation"]), parts=parts)
        for model in models
    }


def _with_its_parts(own: str, *, parts: dict[str, JsonSchema]) -> JsonSchema:
    """Return the part of a name, with the definitions of those that it refers to."""
    found: set[str] = set()
    new = {own}
    while new:
        found |= new
        new = {name for each in new for name in _names_in(parts[each])} - found
    return {"$defs": {name: parts[name] for name in sorted(found - {own})}, **parts[own]}


def _names_in(schema: JsonSchema) -> set[str]:
    return set(_DEFINITION.findall(json.dumps(schema)))


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
