"""When two answers count as the same."""

import json
import re
import unicodedata
from typing import cast

from pydantic import JsonValue

from concertmaster.engine.conversations.replies import Verdict

_MARKS = re.compile(r"[*_`#>]+")
_ENDS = " \t\n.,;:!?\"'()[]"


def normal_form(verdict: Verdict) -> str:
    """Return a text that is the same for answers that differ in spelling alone.

    Case, white space, Markdown's marks and punctuation at the ends do not count; in a value,
    neither does the order of keys.
    """
    if verdict.value is None:
        return _text(verdict.text)
    return json.dumps(_value(verdict.value), sort_keys=True, ensure_ascii=False)


def _value(value: JsonValue) -> JsonValue:
    match value:
        case str():
            return _text(value)
        case list():
            return [_value(item) for item in cast("list[JsonValue]", value)]
        case dict():
            return {key: _value(item) for key, item in cast("dict[str, JsonValue]", value).items()}
        case float() if value.is_integer():
            return int(value)
        case _:
            return value


def _text(text: str) -> str:
    plain = _MARKS.sub("", unicodedata.normalize("NFKC", text)).casefold()
    return " ".join(plain.split()).strip(_ENDS)
