"""What was asked of the scripted endpoint, and what it charged for it."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import accumulate

from pydantic import BaseModel, computed_field

from concertmaster.fake_api.behaviour import Fault

LIFETIME = 300.0
"""Seconds that a prefix is kept after it was last written or read."""
LOOKBACK = 20
"""Blocks before a marked one whose prefixes are looked for."""
MOST_MARKS = 4
MINIMUM_TOKENS = {"opus": 4096, "haiku": 4096, "sonnet": 1024}
"""The shortest prefix that is cached, by the family in a model's name."""
DEFAULT_MINIMUM = 1024

WRITE_FACTOR = 1.25
READ_FACTOR = 0.1
"""What a cached token costs, in input tokens."""


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a prompt."""

    text: str
    tokens: int
    marked: bool = False
    """Whether the prompt up to its end is to be cached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheUse:
    """How the tokens of one prompt are charged."""

    read: int
    write: int
    fresh: int
    """Tokens at the full price."""
    prefixes: tuple[str, ...]
    """What is in the cache once the reply has begun."""


class PromptCache:
    """The prefixes that are cached, each model's apart."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def look(self, model: str, blocks: Sequence[Block], *, now: float) -> CacheUse:
        """Return how a prompt that arrives now is charged."""
        lengths = list(accumulate(block.tokens for block in blocks))
        digests = _digests(model, blocks)
        marks = [at for at, block in enumerate(blocks) if block.marked]
        read_at = max(
            (
                at
                for mark in marks
                for at in range(max(mark - LOOKBACK, 0), mark + 1)
                if self._until.get(digests[at], 0.0) > now
            ),
            default=None,
        )
        kept = [mark for mark in marks if lengths[mark] >= minimum_tokens(model)]
        read = 0 if read_at is None else lengths[read_at]
        cached = max([read, *(lengths[mark] for mark in kept)])
        found = [] if read_at is None else [digests[read_at]]
        return CacheUse(
            read=read,
            write=cached - read,
            fresh=(lengths[-1] if lengths else 0) - cached,
            prefixes=(*found, *(digests[mark] for mark in kept)),
        )

    def keep(self, use: CacheUse, *, now: float) -> None:
        """Take in that a reply has begun: what its prompt wrote or read is there for others."""
        for prefix in use.prefixes:
            self._until[prefix] = now + LIFETIME


def minimum_tokens(model: str) -> int:
    """Return the shortest prefix that is cached for a model."""
    return next((n for family, n in MINIMUM_TOKENS.items() if family in model), DEFAULT_MINIMUM)


def _digests(model: str, blocks: Sequence[Block]) -> list[str]:
    digest = hashlib.sha256(model.encode())
    digests: list[str] = []
    for block in blocks:
        digest.update(f"{len(block.text)} {block.text}".encode())
        digests.append(digest.hexdigest())
    return digests


class Entry(BaseModel):
    """One request. The tokens are those that its reply has begun with, told of or sent so far."""

    request_id: str
    model: str = ""
    status: int
    fault: Fault | None = None
    tokens_in: int = 0
    tokens_out: int = 0
    cache_read: int = 0
    cache_write: int = 0
    searches: int = 0
    began: float
    """Seconds by the endpoint's own clock."""
    sent: float | None = None
    """When the last byte of a whole reply had been sent."""
    ended: float | None = None


class Totals(BaseModel):
    """What all requests come to."""

    requests: int = 0
    refused: int = 0
    """Answered with a status other than 200."""
    tokens_in: int = 0
    tokens_out: int = 0
    cache_read: int = 0
    cache_write: int = 0
    searches: int = 0

    @computed_field
    @property
    def charged_in(self) -> float:
        """Return the input in tokens at the full price."""
        return self.tokens_in + WRITE_FACTOR * self.cache_write + READ_FACTOR * self.cache_read


class Ledger(BaseModel):
    """All requests, in the order in which they came."""

    entries: list[Entry] = []

    @computed_field
    @property
    def totals(self) -> Totals:
        """Return the sums over all requests."""
        kinds = ("tokens_in", "tokens_out", "cache_read", "cache_write", "searches")
        return Totals(
            requests=len(self.entries),
            refused=sum(entry.status != 200 for entry in self.entries),
            **{kind: sum(getattr(entry, kind) for entry in self.entries) for kind in kinds},
        )


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
