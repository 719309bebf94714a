"""MCP tools whose schemas are free of noise and whose errors are sentences."""

import json
import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, cast

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError, UnexpectedToolError
from mcp.server.mcpserver.tools import Tool
from mcp.types import CallToolResult, ToolAnnotations
from pydantic import (
    BaseModel,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    WithJsonSchema,
)
from pydantic.json_schema import models_json_schema

from concertmaster.engine.plan.plan import unknown_key
from concertmaster.errors import ConcertmasterError, did_you_mean
from concertmaster.llm.messages import JsonSchema
from concertmaster.mcp_server.elicitation import AnswerNeededError
from concertmaster.replies.markdown import one_line
from concertmaster.tools.inputs import InlineInput

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


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

_BOUNDS_IN_WORDS = {
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
        return f"{name} must be {_in_words(values)}, not {given}."
    if allowed := _allowed(item):
        return f"{name} must {allowed}, not {given}."
    return f"{name} ({given} was given): {item['msg'].removeprefix('Value error, ').rstrip('.')}."


def _allowed(item: "ErrorDetails") -> str:
    """Return what an argument must be or do; nothing, where the message of the error says it."""
    kind, context = item["type"], item.get("ctx", {})
    if kind in _TYPES:
        return f"be {_TYPES[kind]}"
    if kind in _BOUNDS_IN_WORDS:
        words, key = _BOUNDS_IN_WORDS[kind]
        return f"be {words} {context.get(key, 0):g}"
    return f"match {context.get('pattern')}" if kind == "string_pattern_mismatch" else ""


def _of_wrong_length(name: str, item: "ErrorDetails") -> str:
    words, key = _LENGTHS[item["type"]]
    limit = item.get("ctx", {}).get(key, 0)
    if limit == 1 and key == "min_length":
        return f"{name} must not be empty."
    found = len(cast("Sequence[object]", item["input"]))
    return f"{name} must have {words.format(limit)}, not {found}."


def _in_words(values: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(values[:-1]), values[-1])))


def _quoted(value: object) -> str:
    """Return a value as short JSON."""
    return one_line(json.dumps(value, ensure_ascii=False, default=str), GIVEN_CHARS)


class SentenceTool(Tool):
    """An MCP tool that tells its caller what is wrong, and nothing that is not its business."""

    def model_post_init(self, context: Any, /) -> None:
        """Clean the schema that was derived from the function."""
        super().model_post_init(context)
        self.parameters = input_schema(self.parameters)

    @classmethod
    def answering(
        cls,
        reply: type[BaseModel],
        call: Callable[..., Awaitable[CallToolResult]],
        *,
        output_schema: JsonSchema,
        title: str,
        description: str,
        annotations: ToolAnnotations,
    ) -> Tool:
        """Return the tool that `call` is, whose results have the form of `reply`.

        Clients see `output_schema`: what the SDK makes of `reply` takes long to make and to read.
        """
        tool = cls.from_function(
            call, title=title, description=description, annotations=annotations
        )
        tool.fn_metadata.output_model = reply
        tool.fn_metadata.output_schema = output_schema
        return tool

    async def run(
        self, arguments: dict[str, Any], context: Context[Any, Any], convert_result: bool = False
    ) -> Any:
        """Run the tool; what the caller can correct is said without a prefix.

        An optional argument that is null counts as left out: some clients send all of them.
        """
        self._refuse_unknown(arguments)
        required = self.parameters.get("required", ())
        arguments = {
            name: value
            for name, value in arguments.items()
            if value is not None or name in required
        }
        try:
            return await super().run(arguments, context, convert_result)
        except ToolError as exc:
            match exc.__cause__:
                case AnswerNeededError() as cause:
                    return cause.result
                case ConcertmasterError() as cause:
                    raise ToolError(str(cause)) from cause
                case ValidationError() as cause if not isinstance(exc, UnexpectedToolError):
                    given = self.fn_metadata.pre_parse_json(arguments)
                    problems = argument_problems(cause, given, self.parameters)
                    raise ToolError(" ".join(problems)) from cause
                case _:
                    raise

    def _refuse_unknown(self, arguments: Mapping[str, Any]) -> None:
        known = cast("dict[str, Any]", self.parameters["properties"])
        sentences = [
            f"{self.name} has no parameter {name!r}. {did_you_mean(name, known)}"
            for name in arguments
            if name not in known
        ]
        if sentences:
            raise ToolError(" ".join(sentences[:MOST_PROBLEMS]))
