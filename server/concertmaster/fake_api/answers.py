"""What the scripted endpoint answers: a plan, JSON of a schema, or words."""

import json
from typing import Any, cast

from concertmaster.fake_api.requests import Json, MessagesRequest

CHARS_PER_TOKEN = 4
WORDS = "Some words of an answer that nobody thought about, one after another. "


def answer(request: MessagesRequest, *, subtasks: int, tokens: int) -> str:
    """Return a whole answer to `request`."""
    schema = request.output_schema
    if schema is None:
        chars = tokens * CHARS_PER_TOKEN
        return (WORDS * (chars // len(WORDS) + 1))[:chars]
    if "subtasks" in schema.get("properties", {}):
        return json.dumps(_plan(schema, subtasks))
    return json.dumps(_instance(schema, schema))


def _plan(schema: Json, subtasks: int) -> Json:
    one: Json = schema["properties"]["subtasks"]["items"]
    workers: list[str] = one["properties"]["worker"]["enum"]
    return {
        "analysis": "A plan that was written beforehand.",
        "direct_answer": None,
        "subtasks": [
            _instance(one, schema)
            | {
                "id": f"s{number}",
                "worker": workers[(number - 1) % len(workers)],
                "objective": f"Do part {number} of {subtasks}.",
                "depends_on": [],
                "inputs": [],
            }
            for number in range(1, subtasks + 1)
        ],
    }


def _instance(schema: Json, root: Json) -> Any:
    """Return the plainest value that a schema allows."""
    if reference := schema.get("$ref"):
        return _instance(root["$defs"][reference.rpartition("/")[2]], root)
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return _instance(schema[key][0], root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    kind: str | list[str] = schema.get("type", "string")
    return _of_type(kind if isinstance(kind, str) else kind[0], schema, root)


def _of_type(kind: str, schema: Json, root: Json) -> Any:
    match kind:
        case "object":
            properties = cast("dict[str, Json]", schema.get("properties", {}))
            return {name: _instance(part, root) for name, part in properties.items()}
        case "array":
            return [_instance(schema["items"], root)] if "items" in schema else []
        case "integer" | "number":
            return 1
        case "boolean":
            return False
        case "null":
            return None
        case _:
            return "words"
