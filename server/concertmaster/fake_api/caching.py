"""Prompt caching, accounted for as the provider documents it. No I/O; is told the time."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

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
