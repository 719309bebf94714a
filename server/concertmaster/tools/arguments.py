"""What a model calls a worker tool with: checked for the tool, and as a person is shown it."""

import json
import re
from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, JsonValue, ValidationError

from concertmaster.errors import ToolCallError
from concertmaster.tools.redaction import MASK, Masking

SHOWN_CHARS = 1_000
"""How much of a call's arguments a person is shown."""

VALUE_CHARS = 200
"""How much of one value, so that none can hide what comes after it."""

_SECRET_NAME = re.compile(
    r"pass(word|phrase|wd)?$|secret|token$|api.?key|authori[sz]|credential", re.I
)

Arguments = TypeVar("Arguments", bound=BaseModel)


def parse_arguments(model: type[Arguments], arguments: Mapping[str, JsonValue]) -> Arguments:
    """Return the arguments of a tool call as a `model`.

    Raises:
        ToolCallError: they are not of its shape; the message has a clause for each fault.
    """
    try:
        return model.model_validate(arguments)
    except ValidationError as exc:
        faults = [
            f"{'.'.join(str(part) for part in error['loc'])}: {error['msg']}"
            for error in exc.errors(include_url=False, include_input=False)
        ]
        raise ToolCallError(f"The arguments are wrong. {'; '.join(faults)}.") from None


def shown(arguments: Mapping[str, JsonValue], masking: Masking) -> str:
    """Return arguments as JSON in one line, shortened, and without what looks like a secret."""
    text = json.dumps(_shown(dict(arguments), masking), ensure_ascii=False)
    # Nothing that is not printed, or turns the direction of text, is to hide from who reads it.
    text = "".join(char if char.isprintable() else "�" for char in text)
    return _cut(text, SHOWN_CHARS)


def _shown(value: JsonValue, masking: Masking) -> JsonValue:
    match value:
        case str():
            return _cut(masking(value), VALUE_CHARS)
        case list():
            return [_shown(item, masking) for item in value]
        case dict():
            return {
                _cut(masking(key), VALUE_CHARS): MASK
                if isinstance(item, str) and _SECRET_NAME.search(key)
                else _shown(item, masking)
                for key, item in value.items()
            }
        case _:
            return value


def _cut(text: str, most: int) -> str:
    left = len(text) - most
    return text if left <= 0 else f"{text[:most]}… [{left:,} more characters]"
