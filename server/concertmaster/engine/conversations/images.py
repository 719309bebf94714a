"""The images that tools have returned in a conversation: shown until the provider refuses."""

from collections.abc import Iterable

from concertmaster.llm.protocol import Message, ToolMessage, ToolOutcome

NOT_SHOWN = "[The images of this result could not be shown to you.]"

REFUSED = (
    "The provider refused a request with images that a tool had returned; the worker went on "
    "without seeing any."
)


class Images:
    """Whether a model is shown the images of one conversation."""

    def __init__(self) -> None:
        self._refused = False

    def give_up(self) -> None:
        """Show none any more."""
        self._refused = True

    def among(self, messages: Iterable[Message]) -> bool:
        """Tell whether a request with these messages has images that are shown."""
        return not self._refused and any(
            outcome.images
            for message in messages
            if isinstance(message, ToolMessage)
            for outcome in message.outcomes
        )

    def shown(self, messages: Iterable[Message]) -> tuple[Message, ...]:
        """Return the messages as the model gets them."""
        return tuple(map(_in_words, messages)) if self._refused else tuple(messages)

    @property
    def notes(self) -> tuple[str, ...]:
        """Return a sentence if the model was shown none of the images that there were."""
        return (REFUSED,) if self._refused else ()


def _in_words(message: Message) -> Message:
    if not isinstance(message, ToolMessage):
        return message
    return ToolMessage(outcomes=tuple(map(_blind, message.outcomes)))


def _blind(outcome: ToolOutcome) -> ToolOutcome:
    if not outcome.images:
        return outcome
    return outcome.model_copy(update={"text": f"{outcome.text}\n{NOT_SHOWN}", "images": ()})
