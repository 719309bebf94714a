"""JSON that a model is asked for: the schema it must be of, and the text it comes as."""

import json
from collections.abc import Iterable
from dataclasses import dataclass

from jsonschema_rs import (
    Draft202012Validator,
    RegexOptions,
    ValidationError,
    ValidationErrorKind,
)
from pydantic import JsonValue

from concertmaster.llm.messages import JsonSchema
from concertmaster.llm.usage import whole_characters

MOST_LEVELS = 100
"""How deep a value or a schema may be nested; the journal holds it some levels further down."""

_PATTERN_BYTES = 4 * 1024 * 1024
"""How large a pattern may be, compiled. The time that matching takes grows with it."""

_TOO_DEEP = f"it is nested more than {MOST_LEVELS} levels deep"


@dataclass(frozen=True, slots=True)
class SchemaProblem:
    """Why a schema cannot be used, as the rest of a sentence that begins with its name."""

    text: str
    path: tuple[str | int, ...] = ()
    """Where in the schema."""


def schema_problem(schema: JsonSchema) -> SchemaProblem | None:
    """Return why an output cannot be asked for by `schema`; None if it can."""
    if _levels(schema) > MOST_LEVELS:
        return SchemaProblem(f"cannot be used: {_TOO_DEEP}")
    try:
        _validator(schema)
    except ValidationError as exc:
        return SchemaProblem(_told(exc), tuple(exc.instance_path))
    except ValueError as exc:
        return SchemaProblem(f"is no JSON Schema: {exc}")
    if schema.get("type") != "object":
        return SchemaProblem('must describe an object: set its "type" to "object"')
    return None


def _validator(schema: JsonSchema) -> Draft202012Validator:
    # This engine matches in linear time. Others can be kept busy for ever by a short pattern.
    patterns = RegexOptions(size_limit=_PATTERN_BYTES)
    return Draft202012Validator(schema, pattern_options=patterns, offline=True)


def _told(exc: ValidationError) -> str:
    match exc.kind:
        case ValidationErrorKind.Format():
            return (
                f"has a pattern that cannot be used, {exc.instance!r}: it is malformed, too large, "
                "or has a look-around or a back-reference, with which matching may take for ever"
            )
        case ValidationErrorKind.Referencing():
            missing = exc.message.partition(" and retrieving it failed")[0]
            return (
                f"has a reference that leads nowhere: {missing}. Other documents are not fetched; "
                "put what they say under $defs and refer to it with #/$defs/…"
            )
        case _:
            return f"is no JSON Schema: {exc.message}"


def schema_errors(value: JsonValue, schema: JsonSchema) -> list[str]:
    """Return what makes `value` no instance of `schema`, a clause each.

    Raises:
        ValueError: `schema` cannot be used.
    """
    return [
        f"{_json_path(error.instance_path)}: {error.message}"
        for error in _validator(schema).iter_errors(value)
    ]


def _json_path(path: Iterable[str | int]) -> str:
    return "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)


def read_json(text: str) -> JsonValue:
    """Return the value that `text` spells in JSON, with whole characters.

    Raises:
        ValueError: it is no JSON, such as NaN, or is nested more than MOST_LEVELS deep.
    """
    try:
        value = whole_value(json.loads(text))
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    if _levels(value) > MOST_LEVELS:
        raise ValueError(_TOO_DEEP)
    return value


def whole_value(value: JsonValue) -> JsonValue:
    """Return `value` with whole characters in each of its texts.

    Raises:
        ValueError: it has a number that JSON cannot express.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return json.loads(whole_characters(text))


def _levels(value: JsonValue) -> int:
    """Return how deep `value` is nested; it may be deeper than calls may."""
    levels, layer = 0, [value]
    while layer := [part for item in layer for part in _parts(item)]:
        levels += 1
    return levels


def _parts(value: JsonValue) -> Iterable[JsonValue]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
