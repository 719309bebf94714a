"""What a part of the offline model answers, before it becomes a reply."""

from dataclasses import dataclass

from concertmaster.llm.messages import StopReason, ToolCall


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The text, or the tool calls needed before there is one."""

    text: str = ""
    stop_reason: StopReason = "end"
    tool_calls: tuple[ToolCall, ...] = ()
    detail: str = ""

    @classmethod
    def refused(cls, reason: str) -> "Answer":
        """Return the answer to what rules cannot do: a subtask so answered has failed."""
        return cls(text=reason, stop_reason="refusal", detail=reason)
