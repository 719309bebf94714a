"""Usage that calls have reported so far, until they end or are lost with their process."""

from collections.abc import Sequence

from concertmaster.engine.record.events import CallFailed, CallFinished, CallProgressed


class UnsettledCalls:
    """The latest usage of each call that is under way.

    A step whose process was killed may be attempted again in a later epoch, so each epoch
    begins with `lose`.
    """

    def __init__(self) -> None:
        self._latest: dict[str, CallProgressed] = {}

    def apply(self, event: CallProgressed | CallFinished | CallFailed) -> None:
        """Note what a call has taken so far, or that it has ended and says so itself."""
        match event:
            case CallProgressed(step=step):
                self._latest[step] = event
            case CallFinished(name=step):
                self._latest.pop(step, None)
            case CallFailed(step=step):
                self._latest.pop(step, None)

    def lose(self) -> Sequence[CallProgressed]:
        """Return what the calls had taken that never ended, as estimates, and forget them."""
        lost = [
            event.model_copy(update={"usage": event.usage.as_estimate})
            for event in self._latest.values()
        ]
        self._latest.clear()
        return lost
