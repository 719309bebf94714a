"""When the next call may begin, by what the provider says. No I/O; is told the time."""

import math
from dataclasses import dataclass

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a provider says it will still take of calls of one model, as of now."""

    calls: int
    interval: float
    """Seconds until it takes one more; 0 where it already takes all it ever will."""


class Pace:
    """The provider's rate limit for one model, as its replies tell of it."""

    def __init__(self, *, share: float = 1.0) -> None:
        """Use a `share` of what the provider allows, where other processes have the rest."""
        self._share = share
        self._calls = math.inf
        self._interval = 0.0
        self._as_of = 0.0
        self._held_until = -math.inf

    def hold(self, *, until: float) -> None:
        """Let nothing begin before the time `until`."""
        self._held_until = max(self._held_until, until)

    def allow(self, allowance: Allowance, *, unheard: int, now: float) -> None:
        """Take in what a reply says, with so many other calls on their way.

        They count in full, since the provider may not have seen them when it said so.
        """
        self._calls = allowance.calls * self._share - unheard
        self._interval = allowance.interval / self._share
        self._as_of = now

    def begin(self, *, now: float) -> None:
        """Take in that a call begins."""
        self._calls = self._calls_at(now) - 1
        self._as_of = now

    def wait(self, *, now: float) -> float:
        """Return for how many seconds no call may begin."""
        missing = 1 - self._calls_at(now)
        refill = missing * self._interval if missing > _ROUNDING else 0.0
        return max(self._held_until - now, refill, 0.0)

    def _calls_at(self, now: float) -> float:
        refilled = (now - self._as_of) / self._interval if self._interval else 0.0
        return self._calls + refilled
