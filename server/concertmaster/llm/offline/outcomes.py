"""What came of the tool calls that the offline model asked for."""

from collections.abc import Mapping, Sequence

from concertmaster.llm.fencing import unfenced
from concertmaster.llm.messages import Message, ToolMessage, ToolOutcome


def outcomes_of(messages: Sequence[Message]) -> Mapping[str, ToolOutcome]:
    """Return the outcomes of the calls that were made, by the ids of the calls.

    They are as the tools gave them: what takes nothing for an instruction needs no fences.
    """
    return {
        outcome.id: outcome.model_copy(update={"text": unfenced(outcome.text)})
        for message in messages
        if isinstance(message, ToolMessage)
        for outcome in message.outcomes
    }
