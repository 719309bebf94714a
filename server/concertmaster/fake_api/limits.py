"""How many requests the scripted endpoint takes. No I/O; is told the time."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime

MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not taken."""

    reason: str
    retry_after: int | None = None
    """Seconds after which there is room again, where that is known."""


class Limits:
    """The requests under way, and a bucket of those that may come, which refills all the time."""

    def __init__(self, *, concurrent: int | None, per_minute: int | None) -> None:
        self._concurrent = concurrent
        self._per_minute = per_minute
        self._level = float(per_minute or 0)
        self._as_of = 0.0
        self._under_way = 0

    def admit(self, *, now: float) -> Refusal | None:
        """Let a request in, or return why not."""
        if self._concurrent is not None and self._under_way >= self._concurrent:
            return Refusal(f"More than {self._concurrent} requests at once.")
        if self._per_minute is not None:
            self._refill(now, self._per_minute)
            if self._level < 1:
                seconds = (1 - self._level) * MINUTE / self._per_minute
                reason = f"More than {self._per_minute} requests per minute."
                return Refusal(reason, retry_after=math.ceil(seconds))
            self._level -= 1
        self._under_way += 1
        return None

    def leave(self) -> None:
        """Take in that a request which was let in has ended."""
        self._under_way -= 1

    def headers(self, *, now: float, clock: float) -> dict[str, str]:
        """Return what a response says of the limit; `clock` is the time in Unix seconds."""
        if self._per_minute is None:
            return {}
        self._refill(now, self._per_minute)
        full_in = (self._per_minute - self._level) * MINUTE / self._per_minute
        reset = datetime.fromtimestamp(math.ceil(clock + full_in), UTC)
        prefix = "anthropic-ratelimit-requests"
        return {
            f"{prefix}-limit": str(self._per_minute),
            f"{prefix}-remaining": str(math.floor(self._level)),
            f"{prefix}-reset": reset.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }

    def _refill(self, now: float, per_minute: int) -> None:
        gained = (now - self._as_of) * per_minute / MINUTE
        self._level = min(self._level + gained, float(per_minute))
        self._as_of = now
