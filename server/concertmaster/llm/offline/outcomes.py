"""What came of the tool calls that the offline model asked for."""

from collections.abc import Mapping, Sequence

from concertmaster.llm.protocol import Message, ToolMessage, ToolOutcome


def outcomes_of(messages: Sequence[Message]) -> Mapping[str, ToolOutcome]:
    """Return the outcomes of the calls that were made, by the ids of the calls."""
    return {
        outcome.id: outcome
        for message in messages
        if isinstance(message, ToolMessage)
        for outcome in message.outcomes
    }
