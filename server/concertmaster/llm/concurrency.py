"""How many calls may be under way at once, learnt from how calls end. No I/O, no clock.

The limit grows by one while as many calls as it allows are served, and is halved when the
provider refuses one. Plain growth of that kind would use three quarters of what a provider
with a fixed limit allows, and run into it all the time. So it is remembered where growth met
a refusal: the way back to just below that is quick, and going beyond is tried rarely. A
refusal anywhere else says that it is no fixed limit, and the memory is dropped.
"""

from typing import Literal

FIRST = 8
"""Calls at once before anything is known: one run with its default slots. Every account of the
provider takes as many, and growing from there to fifty takes as long as six calls."""
MOST = 256
"""More at once would be held up by connections and not by the provider."""
PROBING = 16
"""How many times as long growth takes near the last refusal: one call in sixteen rounds."""

Outcome = Literal["served", "refused", "neither"]
"""How a call ended: `refused` is the provider's word that there are too many calls."""


class ConcurrencyLimit:
    """The limit for calls of one model. Feed it the begin and the end of every call."""

    def __init__(self, *, first: int = FIRST, most: int = MOST, share: float = 1.0) -> None:
        """Learn which `share` of the provider is there, where other processes have the rest.

        It begins and ends with that part of `first` and `most`. All halve what they have at
        a refusal, so that who grows by less also has less.
        """
        self._width = max(1.0, first * share)
        self._most = max(1.0, most * share)
        self._share = share
        self._refused_at: int | None = None
        self._grown = False
        self._episode = 0
        self.under_way = 0
        """Calls that have begun and not ended."""

    @property
    def width(self) -> int:
        """Return how many calls may be under way."""
        return int(self._width)

    @property
    def has_room(self) -> bool:
        """Tell whether another call may begin."""
        return self.under_way < self.width

    def begin(self) -> int:
        """Take in that a call begins; returns the episode that its end has to be told with."""
        self.under_way += 1
        return self._episode

    def end(self, episode: int, outcome: Outcome) -> None:
        """Take in how a call that began in `episode` ended."""
        # What began before the last halving says nothing about the limit since: the calls that
        # are refused together halve it once, and those served together do not restore it.
        if episode == self._episode:
            if outcome == "refused":
                self._halve()
            elif outcome == "served" and not self.has_room:
                self._grow()
        self.under_way -= 1

    def _halve(self) -> None:
        on_the_way_back = self._refused_at is not None and self.width < self._refused_at - 1
        met_while_growing = self._grown and not self.has_room and not on_the_way_back
        self._refused_at = self.width if met_while_growing else None
        self._width = max(1.0, self._width / 2)
        self._grown = False
        self._episode += 1

    def _grow(self) -> None:
        if self._refused_at is not None and self._width >= self._refused_at + 1:
            self._refused_at = None
        if self._refused_at is None:
            grown = self._width + self._share / self._width
        elif self._width < self._refused_at - 1:
            grown = min(self._width + 1, self._refused_at - 1)
        else:
            grown = self._width + self._share / (PROBING * self._width)
        self._width = min(grown, self._most)
        self._grown = True
