"""What came of the tool calls that the offline model asked for."""

import itertools
from collections.abc import Sequence

from concertmaster.llm.fencing import unfenced
from concertmaster.llm.protocol import AssistantMessage, Message, ToolMessage, ToolOutcome


def outcomes_of(messages: Sequence[Message]) -> Sequence[ToolOutcome] | None:
    """Return the outcomes of the calls that were asked for; None when none were."""
    for asked, answered in itertools.pairwise(messages):
        if isinstance(asked, AssistantMessage) and isinstance(answered, ToolMessage):
            by_id = {outcome.id: outcome for outcome in answered.outcomes}
            outcomes = [by_id[call.id] for call in asked.tool_calls]
            # Nothing is taken for an instruction here, so that nothing has to be kept apart.
            return [_plain(outcome) for outcome in outcomes]
    return None


def _plain(outcome: ToolOutcome) -> ToolOutcome:
    return outcome.model_copy(update={"text": unfenced(outcome.text)})
