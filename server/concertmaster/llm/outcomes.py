"""What a worker reports of its objective: whether it was met, and why not.

A reply in free text begins with a line for it where the objective was not wholly met
(`Not done: …`, `Partly done: …`). A reply that the provider holds to a schema is wrapped: an
object with the result that was asked for, and the report beside it.
"""

import json
import re
from dataclasses import dataclass
from typing import Any, Literal, cast

from pydantic import JsonValue

from concertmaster.llm.messages import JsonSchema, closed_object
from concertmaster.llm.structured import read_json, schema_errors

Outcome = Literal["met", "partly_met", "not_met"]

_WORDS: dict[str, Outcome] = {"not": "not_met", "partly": "partly_met", "partially": "partly_met"}

_FIRST_LINE = re.compile(
    r"""
    (?: [>\#]+ [ ]+ )? [*_`]*
    (?: (?P<named> (?:the[ ])? (?:outcome|objective|status) ) \b [*_`:]* [ ]* (?:(?:was|is)[ ])?
        [*_`]* )?
    (?: only[ ] )? (?: (?P<word> not|partly|partially ) [ _-] )? (?P<verb> done|met ) [*_`]*
    (?: [ ]* (?: : | [-\u2013\u2014](?=\s) ) | [.!]? (?=\s*(?:\n|$)) | \. )
    (?P<reason> [^\n]* )
    """,
    re.IGNORECASE | re.VERBOSE,
)
"""The first line of a reply, in the spellings that models use for it."""

_BEFORE_RESULT = re.compile(r'\s*\{\s*"result"\s*:\s*')


@dataclass(frozen=True, slots=True)
class Report:
    """A worker's statement on its objective."""

    outcome: Outcome = "met"
    reason: str = ""

    @property
    def sentence(self) -> str:
        """Return the report as a sentence; nothing where the objective was met."""
        if self.outcome == "met":
            return ""
        degree = "was not met" if self.outcome == "not_met" else "was met in part only"
        reason = self.reason or "no reason was given"
        end = "" if reason.endswith((".", "!", "?")) else "."
        return f"The worker reports that its objective {degree}: {reason}{end}"


NOTHING_REPORTED = Report()
"""A worker that reports nothing has met its objective."""


def with_report(schema: JsonSchema) -> JsonSchema:
    """Return the schema of a reply that has a result of `schema` and the report beside it."""
    # References of the schema are to definitions at the root.
    result = {key: value for key, value in schema.items() if key not in ("$defs", "$schema")}
    outcome = {
        "enum": ["met", "partly_met", "not_met"],
        "description": "Whether the objective was met.",
    }
    reason = {
        "type": "string",
        "description": "Why it was not wholly met, in one sentence; empty if it was met.",
    }
    null = {"type": "null", "description": "Only if nothing of the objective could be done."}
    # The result comes first, so that the report is written when the work has been done.
    whole = closed_object(
        {"result": {"anyOf": [result, null]}, "outcome": outcome, "reason": reason}
    )
    return whole | ({"$defs": schema["$defs"]} if "$defs" in schema else {})


def read_report(text: str, schema: JsonSchema | None) -> tuple[Report, str]:
    """Return the report in a reply, and the reply without it.

    The reply may be free text, or JSON of `schema` in any of the forms that models give it:
    wrapped with its report, by itself, or below a first line.
    """
    if schema is not None:
        unwrapped = _unwrapped(text, schema)
        if unwrapped is not None:
            return unwrapped
    return _below_first_line(text)


def _unwrapped(text: str, schema: JsonSchema) -> tuple[Report, str] | None:
    """Return the report and the result of a reply that is wrapped, or cut and was to be."""
    try:
        value = read_json(text)
    except ValueError:
        start = _BEFORE_RESULT.match(text)
        known = cast("dict[str, Any]", schema.get("properties", {}))
        if start is None or "result" in known:
            return None
        return NOTHING_REPORTED, text[start.end() :]
    report = _report_in(value)
    if report is None or not isinstance(value, dict) or _is_instance(value, schema):
        return None
    result = value["result"]
    return report, "" if result is None else json.dumps(result, ensure_ascii=False)


def _report_in(value: JsonValue) -> Report | None:
    if not isinstance(value, dict) or not {"result", "outcome"} <= value.keys():
        return None
    match value:
        case {"outcome": "met" | "partly_met" | "not_met" as outcome, **rest} if rest.keys() <= {
            "result",
            "reason",
        } and isinstance(rest.get("reason", ""), str):
            return Report(outcome, str(rest.get("reason", "")).strip())
        case _:
            return None


def _is_instance(value: dict[str, JsonValue], schema: JsonSchema) -> bool:
    """Tell whether a value that looks wrapped is of a schema that looks the same itself."""
    if "result" not in cast("dict[str, Any]", schema.get("properties", {})):
        return False
    try:
        return not schema_errors(value, schema) and bool(schema_errors(value["result"], schema))
    except ValueError:
        return False


def _below_first_line(text: str) -> tuple[Report, str]:
    found = _FIRST_LINE.match(text)
    if found is None:
        return NOTHING_REPORTED, text
    word = (found["word"] or "").casefold()
    # "Done" and "met" alone are ordinary words; what they are said of has to be named.
    if not found["named"] and (not word or found["verb"].casefold() == "met"):
        return NOTHING_REPORTED, text
    reason = _plain(found["reason"])
    rest = text[found.end() :].strip()
    outcome = _WORDS.get(word, "met")
    if outcome == "met":
        return (NOTHING_REPORTED, text) if reason else (NOTHING_REPORTED, rest)
    if not reason:
        paragraph, _, rest = rest.partition("\n\n")
        reason, rest = _plain(" ".join(paragraph.split())), rest.strip()
    return Report(outcome, reason), rest


def _plain(reason: str) -> str:
    return reason.strip().strip("*_`").strip()
