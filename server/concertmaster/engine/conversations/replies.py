"""Whether a reply is what was asked for, and what is wrong with it if not."""

from dataclasses import dataclass, replace

from pydantic import JsonValue

from concertmaster.engine.record.events import PartResult, SubtaskStatus
from concertmaster.llm import structured
from concertmaster.llm.outcomes import Outcome, Report, read_report
from concertmaster.llm.protocol import JsonSchema, Reply
from concertmaster.llm.server_tools import Source

SHOWN_ERRORS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a reply is worth: `succeeded`, `partial` with something usable, or `failed`."""

    status: SubtaskStatus
    text: str = ""
    value: JsonValue = None
    problem: str = ""
    """What is wrong, as a sentence for the model and for the reader."""
    parts: tuple[PartResult, ...] = ()
    """What it is made of, where there are parts."""
    sources: tuple[Source, ...] = ()
    """What the answer cites."""
    notes: tuple[str, ...] = ()
    """How the answer came about, where more than one model's word decided it."""
    outcome: Outcome = "met"
    """What the worker reports of its objective, in a reply that has the form asked for."""

    @property
    def usable(self) -> bool:
        """Tell whether there is an answer in the form asked for, to at least a part of it."""
        return self.status == "succeeded" or self.outcome == "partly_met"

    def with_problem(self, problem: str) -> "Verdict":
        """Return the verdict that what there is, is incomplete: one more thing is wrong."""
        whole = " ".join(filter(None, [self.problem, problem]))
        usable = self.text and self.outcome != "not_met"
        return replace(self, status="partial" if usable else "failed", problem=whole)

    def with_notes(self, *notes: str) -> "Verdict":
        """Return the verdict with notes on how the answer came about."""
        return replace(self, notes=(*self.notes, *notes))


def judge_reply(reply: Reply, schema: JsonSchema | None) -> Verdict:
    """Return what `reply` is worth to whoever asked for text, or for JSON of `schema`."""
    text = reply.text.strip()
    if reply.stop_reason == "refusal":
        return Verdict(status="failed", problem=_sentence("The model refused", reply.detail))
    if reply.tool_calls:
        return _usable_at_best(text, "The model went on asking for tools instead of answering.")
    if reply.stop_reason in ("max_tokens", "context_full", "pause"):
        return _usable_at_best(text, _cut(reply))
    if not text:
        return Verdict(status="failed", problem="The reply was empty.")
    if schema is None:
        return Verdict(status="succeeded", text=text)
    return _judge_json(text, schema)


def judge_work(reply: Reply, schema: JsonSchema | None) -> Verdict:
    """Return what a worker's reply is worth, by its form and by what it reports itself."""
    if reply.stop_reason == "refusal":
        return judge_reply(reply, schema)
    report, text = read_report(reply.text.strip(), schema)
    if report.outcome == "partly_met" and schema is None:
        # Some say in that one line all that there is to say.
        text = text or report.reason
    verdict = judge_reply(reply.model_copy(update={"text": text}), schema)
    if report.outcome == "not_met" and reply.stop_reason == "end":
        # What could be established need not have the form of a result, nor need there be any.
        verdict = replace(verdict, problem="")
    return reported(verdict, report)


def reported(verdict: Verdict, report: Report) -> Verdict:
    """Return the verdict on a reply that also reports on the worker's objective."""
    match report.outcome:
        case "not_met":
            problem = " ".join(filter(None, [report.sentence, verdict.problem]))
            return replace(verdict, status="failed", problem=problem, outcome="not_met")
        case "partly_met" if verdict.status == "succeeded":
            return replace(verdict.with_problem(report.sentence), outcome="partly_met")
        case "partly_met":
            return verdict.with_problem(report.sentence)
        case _:
            return verdict


def _cut(reply: Reply) -> str:
    if reply.stop_reason == "max_tokens":
        return f"The reply was cut after {reply.usage.tokens_out} tokens."
    if reply.stop_reason == "context_full":
        return "The reply was cut because the model's context window was full."
    return _sentence("The model paused before it had finished", reply.detail)


def _sentence(start: str, detail: str) -> str:
    return f"{start}: {detail}" if detail else f"{start}."


def _usable_at_best(text: str, problem: str) -> Verdict:
    return Verdict(status="partial" if text else "failed", text=text, problem=problem)


def _judge_json(text: str, schema: JsonSchema) -> Verdict:
    try:
        value = structured.read_json(text)
    except ValueError as exc:
        return Verdict(status="partial", text=text, problem=f"The reply is no JSON: {exc}.")
    try:
        errors = schema_errors(value, schema)
    except ValueError as exc:
        problem = f"The reply cannot be checked against the output schema: {exc}."
        return Verdict(status="partial", text=text, problem=problem)
    if errors:
        problem = "The reply does not match the output schema: " + "; ".join(errors) + "."
        return Verdict(status="partial", text=text, problem=problem)
    return Verdict(status="succeeded", text=text, value=value)


def schema_errors(value: JsonValue, schema: JsonSchema) -> list[str]:
    """Return what makes `value` no instance of `schema`, a clause each; the first few.

    Raises:
        ValueError: `schema` cannot be used.
    """
    found = structured.schema_errors(value, schema)
    more = [f"and {len(found) - SHOWN_ERRORS} more"] if len(found) > SHOWN_ERRORS else []
    return found[:SHOWN_ERRORS] + more
