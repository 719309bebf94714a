"""Arguments of MCP tools: the forms that they may be given in, and what is wrong with others."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import BeforeValidator, Discriminator, Field, Tag, ValidationError, WithJsonSchema

from concertmaster.engine.plans.plan import unknown_key
from concertmaster.llm.protocol import JsonSchema
from concertmaster.protocol.lines import one_line
from concertmaster.tools.inputs import InlineInput

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


def _input_items(value: object) -> object:
    """Return a list of inputs, where a single one may have been given without a list."""
    items = cast("list[object]", value) if isinstance(value, list) else [value]
    for item in items:
        if not isinstance(item, str) and not _is_named_text(item):
            raise ValueError(
                'each input is a path, folder, glob or URI as text, or {"name": …, "text": …}'
            )
    return items


def _is_named_text(item: object) -> bool:
    if not isinstance(item, dict):
        return False
    fields = cast("dict[object, object]", item)
    return set(fields) == {"name", "text"} and all(isinstance(x, str) for x in fields.values())


def _kind_of_input(value: object) -> str:
    return "path" if isinstance(value, str) else "document"


_Input = Annotated[
    Annotated[str, Tag("path")] | Annotated[InlineInput, Tag("document")],
    Discriminator(_kind_of_input),
]
"""An `InputSpec`, of which only the form that was meant is checked."""

Inputs = Annotated[
    tuple[_Input, ...],
    BeforeValidator(_input_items),
    WithJsonSchema(
        {
            "type": "array",
            "items": {
                "anyOf": [
                    {"type": "string"},
                    {
                        "type": "object",
                        "required": ["name", "text"],
                    },
                ]
            },
        }
    ),
    Field(description="Paths, globs or file:// URIs under the server's roots, or {name, text}."),
]


def _several(value: object) -> object:
    """Return a list of texts, where a single one may have been given without a list."""
    return [value] if isinstance(value, str) else value


Texts = Annotated[tuple[str, ...], BeforeValidator(_several)]


MOST_PROBLEMS = 10
"""How many wrong arguments one refusal names."""

GIVEN_CHARS = 60
"""How much of a wrong argument a refusal quotes."""

_TYPES = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "an object",
    "mapping_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}
"""What an argument has to be, by the type of the error."""

_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}

_LENGTHS = {
    "string_too_short": ("at least {} characters", "min_length"),
    "string_too_long": ("at most {} characters", "max_length"),
    "too_short": ("at least {} items", "min_length"),
    "too_long": ("at most {} items", "max_length"),
}


def argument_problems(
    error: ValidationError, arguments: Mapping[str, Any], schema: JsonSchema
) -> list[str]:
    """Return one sentence for each wrong argument: which, what was given and what is allowed.

    `schema` is that of all arguments, as clients see it.
    """
    by_place: dict[str, list[ErrorDetails]] = {}
    places: dict[str, Sequence[int | str]] = {}
    for item in error.errors(include_url=False):
        place = tuple(_within(arguments, item["loc"], missing=item["type"] == "missing"))
        name = _named(place)
        places[name] = place
        by_place.setdefault(name, []).append(item)
    return [
        _sentence(name, items, _values(places[name], items, schema))
        for name, items in list(by_place.items())[:MOST_PROBLEMS]
    ]


def _within(
    arguments: Mapping[str, Any], place: Sequence[int | str], *, missing: bool
) -> Iterator[int | str]:
    """Yield the keys and indexes in a place, without the tags of unions that pydantic adds."""
    value: Any = arguments
    for number, part in enumerate(place):
        last = missing and number == len(place) - 1
        if (
            isinstance(value, list)
            and isinstance(part, int)
            and part < len(cast("list[Any]", value))
        ):
            value = cast("list[Any]", value)[part]
        elif isinstance(value, Mapping) and part in value:
            value = cast("Mapping[int | str, Any]", value)[part]
        elif not last:
            continue
        yield part


def _named(place: Iterable[int | str]) -> str:
    """Return a place in the way of programs: plan.subtasks[0].worker."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return "".join(parts).removeprefix(".")


def _values(
    place: Sequence[int | str], items: Sequence["ErrorDetails"], schema: JsonSchema
) -> Sequence[str]:
    """Return the values that an argument may have, as JSON, if it has another than those."""
    if not any(item["type"] in ("literal_error", "enum") for item in items):
        return []
    if len(place) == 1 and (values := schema["properties"].get(place[0], {}).get("enum")):
        return [json.dumps(value) for value in values]
    expected = [str(item.get("ctx", {}).get("expected", "")) for item in items]
    listed = ", ".join(text.replace(" or ", ", ") for text in expected if text)
    return [text.replace("'", '"') for text in listed.split(", ") if text]


def _sentence(name: str, items: Sequence["ErrorDetails"], values: Sequence[str]) -> str:
    item = items[0]
    if item["type"] == "missing":
        return f"{name} is required."
    if item["type"] == "extra_forbidden":
        what = unknown_key(item["loc"])
        return f"{name}: {what}" + ("" if what.endswith("?") else ".")
    if item["type"] in _LENGTHS:
        return _of_wrong_length(name, item)
    given = _quoted(item["input"])
    if values:
        return f"{name} must be {_alternatives(values)}, not {given}."
    if allowed := _allowed(item):
        return f"{name} must {allowed}, not {given}."
    return f"{name} ({given} was given): {item['msg'].removeprefix('Value error, ').rstrip('.')}."


def _allowed(item: "ErrorDetails") -> str:
    """Return what an argument must be or do; nothing, where the message of the error says it."""
    kind, context = item["type"], item.get("ctx", {})
    if kind in _TYPES:
        return f"be {_TYPES[kind]}"
    if kind in _BOUNDS:
        words, key = _BOUNDS[kind]
        return f"be {words} {context.get(key, 0):g}"
    return f"match {context.get('pattern')}" if kind == "string_pattern_mismatch" else ""


def _of_wrong_length(name: str, item: "ErrorDetails") -> str:
    words, key = _LENGTHS[item["type"]]
    limit = item.get("ctx", {}).get(key, 0)
    if limit == 1 and key == "min_length":
        return f"{name} must not be empty."
    found = len(cast("Sequence[object]", item["input"]))
    return f"{name} must have {words.format(limit)}, not {found}."


def _alternatives(values: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(values[:-1]), values[-1])))


def _quoted(value: object) -> str:
    """Return a value as short JSON."""
    return one_line(json.dumps(value, ensure_ascii=False, default=str), GIVEN_CHARS)
