"""Spans of runs in the terms of OpenTelemetry's conventions for generative AI.

The conventions are in development: whatever they say next is said here and nowhere else.
"""

from collections.abc import Mapping, Sequence
from typing import cast

from pydantic import JsonValue

from concertmaster.llm.usage import NO_USAGE, Usage
from concertmaster.runs.trace import Span

Value = str | int | float | Sequence[str]
"""What an attribute may be."""

OPERATIONS = {
    "run": "invoke_workflow",
    "plan": "plan",
    "subtask": "invoke_agent",
    "synthesis": "invoke_agent",
    "call": "chat",
    "question": "ask",
    "tool": "execute_tool",
}

_OWN = ("run_id", "kind", "subtask_id", "step", "caller", "chars")
"""What a span says of itself that nobody has said in a run."""

_CONTENT = ("objective", "reasons", "errors", "error", "warnings", "problems", "reason", "guard")
"""What is in the words of those who asked, or of models."""


def usage_of(span: Span) -> Usage:
    """Return what the calls in a span took."""
    usage = span.attributes.get("usage")
    return Usage.model_validate(usage) if usage is not None else NO_USAGE


def attributes_of(span: Span, *, provider: str, content: bool) -> dict[str, Value]:
    """Return what a span is exported with; what was said, only with `content`."""
    found: dict[str, Value] = {"gen_ai.operation.name": OPERATIONS[span.kind]}
    found |= _names(span, provider)
    found |= _usage(usage_of(span))
    found["concertmaster.status"] = span.status
    if span.status == "failed":
        found["error.type"] = "failed"
    for name in (*_OWN, *(_CONTENT if content else ())):
        if (value := _value(span.attributes.get(name))) is not None:
            found[f"concertmaster.{name}"] = value
    return found


def _names(span: Span, provider: str) -> dict[str, Value]:
    subject = span.name.partition(" ")[2]
    match span.kind:
        case "run":
            return {"gen_ai.workflow.name": "concertmaster"}
        case "subtask" | "synthesis":
            return {"gen_ai.agent.name": subject}
        case "tool" | "question":
            return {"gen_ai.tool.name": subject, "gen_ai.tool.type": "function"}
        case "call":
            return _call(span, subject, provider)
        case _:
            return {}


def _call(span: Span, model: str, provider: str) -> dict[str, Value]:
    found: dict[str, Value] = {
        "gen_ai.provider.name": provider,
        "gen_ai.request.model": model,
        "gen_ai.response.model": usage_of(span).model or model,
    }
    if isinstance(reason := span.attributes.get("stop_reason"), str):
        found["gen_ai.response.finish_reasons"] = [reason]
    return found


def _usage(usage: Usage) -> dict[str, Value]:
    if usage == NO_USAGE:
        return {}
    found: dict[str, Value] = {
        "gen_ai.usage.input_tokens": tokens_in(usage),
        "gen_ai.usage.output_tokens": usage.tokens_out,
        "gen_ai.usage.cache_read.input_tokens": usage.cache_read,
        "gen_ai.usage.cache_creation.input_tokens": usage.cache_write,
    }
    if usage.searches:
        found["concertmaster.searches"] = usage.searches
    if usage.usd is not None:
        found["concertmaster.usd"] = usage.usd
    return found


def tokens_in(usage: Usage) -> int:
    """Return all tokens that were read, cached ones included, as the conventions count them."""
    return usage.tokens_in + usage.cache_read + usage.cache_write


def _value(value: JsonValue) -> Value | None:
    if isinstance(value, list):
        return [str(item) for item in value] or None
    return value if isinstance(value, str | int | float) and value != "" else None


def trace_context_of(span: Span) -> Mapping[str, str]:
    """Return the W3C trace context that the call for a run came with."""
    return cast("Mapping[str, str]", span.attributes.get("trace_context") or {})
