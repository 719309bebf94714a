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
    if workers := _workers(schema):
        return json.dumps(_plan(schema, workers, subtasks))
    return json.dumps(_instance(schema, schema))


def _workers(schema: Json) -> list[str]:
    """Return the workers that there are, if this is the schema of a plan."""
    try:
        worker: Json = schema["properties"]["subtasks"]["items"]["properties"]["worker"]
        # A plan that may bring workers along may also name others.
        return worker.get("anyOf", [worker])[0]["enum"]
    except KeyError:
        return []


def _plan(schema: Json, workers: list[str], subtasks: int) -> Json:
    one: Json = schema["properties"]["subtasks"]["items"]
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
