"""What the scripted endpoint answers: a plan, JSON of a schema, or words."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from pydantic import JsonValue

from concertmaster.fake_api.requests import Json, MessagesRequest

CHARS_PER_TOKEN = 4
WORDS = "Some words of an answer that nobody thought about, one after another. "
REPORTS = {
    "not_met": "Not done: It was scripted so.\n\n",
    "partly_met": "Partly done: It was scripted so.\n\n",
}
"""How a worker's reply in words begins, by the value that is given for `outcome`."""


def answer(
    request: MessagesRequest, *, subtasks: int, tokens: int, values: Mapping[str, JsonValue]
) -> str:
    """Return a whole answer to `request`; in JSON, properties have these `values` by name.

    Words begin with the report that a value for `outcome` stands for.
    """
    schema = request.output_schema
    if schema is None:
        chars = tokens * CHARS_PER_TOKEN
        report = REPORTS.get(str(values.get("outcome")), "")
        return report + (WORDS * (chars // len(WORDS) + 1))[:chars]
    scripted = _Scripted(schema, values)
    if workers := _workers(schema):
        return json.dumps(_plan(scripted, workers, subtasks))
    return json.dumps(scripted.instance(schema))


def _workers(schema: Json) -> list[str]:
    """Return the workers that there are, if this is the schema of a plan."""
    try:
        worker: Json = schema["properties"]["subtasks"]["items"]["properties"]["worker"]
        # A plan that may bring workers along may also name others.
        return worker.get("anyOf", [worker])[0]["enum"]
    except KeyError:
        return []


def _plan(scripted: "_Scripted", workers: list[str], subtasks: int) -> Json:
    one: Json = scripted.root["properties"]["subtasks"]["items"]
    return {
        "analysis": "A plan that was written beforehand.",
        "direct_answer": None,
        "subtasks": [
            scripted.instance(one)
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


@dataclass(frozen=True, slots=True)
class _Scripted:
    """The plainest values that the parts of a schema allow, but for properties that are given."""

    root: Json
    values: Mapping[str, JsonValue]

    def instance(self, schema: Json) -> Any:
        """Return the value for a part of the schema."""
        if reference := schema.get("$ref"):
            return self.instance(self.root["$defs"][reference.rpartition("/")[2]])
        for key in ("anyOf", "oneOf", "allOf"):
            if key in schema:
                return self.instance(schema[key][0])
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return schema["enum"][0]
        kind: str | list[str] = schema.get("type", "string")
        return self._of_type(kind if isinstance(kind, str) else kind[0], schema)

    def _of_type(self, kind: str, schema: Json) -> Any:
        match kind:
            case "object":
                properties = cast("dict[str, Json]", schema.get("properties", {}))
                return {name: self._property(name, part) for name, part in properties.items()}
            case "array":
                return [self.instance(schema["items"])] if "items" in schema else []
            case "integer" | "number":
                return 1
            case "boolean":
                return False
            case "null":
                return None
            case _:
                return "words"

    def _property(self, name: str, schema: Json) -> Any:
        return self.values[name] if name in self.values else self.instance(schema)
