"""How many calls of one model may be in flight at once, learned as TCP learns a congestion window.

Slow start doubles the limit each round in which it is used up and no call is refused. The first
refusal ends it: what the provider did take of that burst is the limit. From there the limit
follows AIMD (additive increase, multiplicative decrease), with one addition. Plain AIMD would use
three quarters of what a provider with a fixed limit allows, and be refused all the time. So the
limit at which growth met a refusal is remembered: the way back to just below it is quick, and
going beyond it is tried rarely. A refusal anywhere else means that there is no fixed limit, and
the memory is dropped.

No I/O, and no clock of its own: the time is an argument, in seconds.
"""

import math
from dataclasses import dataclass
from typing import Literal

FIRST = 16
"""The limit before anything is known: what every account of the provider allows, and two runs with
their default slots."""
ROUND_SECONDS = 0.03
"""How long after the last request has been sent slow start waits for a refusal before it doubles
the limit. Refusals arrive within a round trip, long before replies do."""
MOST = 256
"""The highest limit: beyond it connections are the bottleneck, not the provider."""
PROBING = 16
"""How many times slower the limit grows near the last refusal: by one in sixteen rounds."""

Outcome = Literal["served", "refused", "neither"]
"""How a call ended: `refused` is the provider's word that there are too many calls."""


@dataclass(frozen=True, slots=True)
class Learned:
    """What one process has learned of a provider's limit, for the next process to start from."""

    width: int
    """The limit."""
    refused_at: int | None
    """The limit at which growth was refused, or None if it never was."""


class ConcurrencyLimit:
    """The limit for calls of one model. It is informed of every call's begin, sending and end."""

    def __init__(
        self,
        *,
        first: int = FIRST,
        most: int = MOST,
        share: float = 1.0,
        slow_start: bool = True,
        learned: Learned | None = None,
    ) -> None:
        """Start from `first`, or from what an earlier process has `learned`, and stay below `most`.

        Where other processes use the same provider, `share` is this one's part of it. It scales
        both bounds and the growth. Every process halves its limit at a refusal, so the one that
        grows more slowly also has less.
        """
        self._most = max(1.0, most * share)
        self._width = min(max(1.0, first * share), self._most)
        self._share = share
        self._slow_start = slow_start
        self._refused_at: int | None = None
        self._grown = False
        self._episode = 0
        self._burst = _Burst(episode=-1, size=0, taken=0)
        self._full_since: float | None = None
        self.in_flight = 0
        """Calls that have begun and not ended."""
        self._unsent = 0
        if learned is not None:
            self._continue_from(learned)

    def _continue_from(self, learned: Learned) -> None:
        if learned.refused_at is None:
            self._width = min(max(self._width, float(learned.width)), self._most)
            return
        self._width = min(max(1.0, float(learned.width), learned.refused_at - 1.0), self._most)
        self._slow_start = False
        self._refused_at = learned.refused_at

    @property
    def learned(self) -> Learned | None:
        """Return what is known of the provider; None before there is anything to know."""
        if self._slow_start and not self._grown:
            return None
        return Learned(self.width, self._refused_at)

    @property
    def width(self) -> int:
        """Return how many calls may be in flight."""
        return int(self._width)

    @property
    def has_room(self) -> bool:
        """Return whether another call may begin."""
        return self.in_flight < self.width

    @property
    def widens_at(self) -> float:
        """Return when slow start doubles the limit next, if no call is refused until then."""
        if self._full_since is None or not self._slow_start or self._width >= self._most:
            return math.inf
        return self._full_since + ROUND_SECONDS

    def widen(self, *, now: float) -> None:
        """Double the limit, if it has been used up for a round of slow start."""
        if now >= self.widens_at:
            self._width = min(2 * self._width, self._most)
            self._grown = True
            self._full_since = None

    def begin(self) -> int:
        """Count a call that begins; returns the episode to pass to `end`."""
        self.in_flight += 1
        self._unsent += 1
        self._full_since = None
        return self._episode

    def sent(self, *, now: float) -> None:
        """Note that the request of a call has been sent, which is some time after its begin."""
        self._unsent -= 1
        if not self._unsent and not self.has_room:
            self._full_since = now

    def end(self, episode: int, outcome: Outcome) -> None:
        """Count a call that began in `episode` and has ended. Its request has been `sent`."""
        # A call from an earlier episode says nothing about the limit since: calls that are
        # refused together reduce it once, and those served together do not restore it.
        if episode == self._episode:
            if outcome == "refused":
                self._decrease()
            elif outcome == "served" and not self.has_room:
                self._increase()
        elif outcome == "refused" and self._is_of_burst(episode):
            self._settle(self._burst.taken - 1)
        self.in_flight -= 1
        if self.has_room:
            self._full_since = None

    def _is_of_burst(self, episode: int) -> bool:
        return self._burst.episode == episode == self._episode - 1

    def _decrease(self) -> None:
        if self._slow_start:
            self._slow_start = False
            self._burst = _Burst(self._episode, size=self.in_flight, taken=self.in_flight)
            self._settle(self.in_flight - 1)
        else:
            self._halve()
        self._grown = False
        self._episode += 1

    def _settle(self, taken: int) -> None:
        """Limit calls to what the provider has `taken` of the burst that ended slow start."""
        self._burst.taken = taken
        self._width = max(1.0, min(float(taken), self._width))
        # A provider that took none has no limit of zero: it was busy, so the way back is quick.
        self._refused_at = (taken if taken > 0 else self._burst.size // 2) + 1

    def _halve(self) -> None:
        on_the_way_back = self._refused_at is not None and self.width < self._refused_at - 1
        met_while_growing = self._grown and not self.has_room and not on_the_way_back
        self._refused_at = self.width if met_while_growing else None
        self._width = max(1.0, self._width / 2)

    def _increase(self) -> None:
        if self._refused_at is not None and self._width >= self._refused_at + 1:
            self._refused_at = None
        if self._slow_start:
            grown = self._width + self._share
        elif self._refused_at is None:
            grown = self._width + self._share / self._width
        elif self._width < self._refused_at - 1:
            grown = min(self._width + 1, self._refused_at - 1)
        else:
            grown = self._width + self._share / (PROBING * self._width)
        self._width = min(grown, self._most)
        self._grown = True


@dataclass(slots=True)
class _Burst:
    """The calls that were in flight when slow start met its first refusal."""

    episode: int
    size: int
    taken: int
    """Those that have not been refused so far."""
