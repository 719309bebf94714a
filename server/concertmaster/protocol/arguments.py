"""Arguments of MCP tools that clients may give in more than one form."""

from typing import Annotated, cast

from pydantic import BeforeValidator, Discriminator, Field, Tag, WithJsonSchema

from concertmaster.tools.inputs import InlineInput


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
