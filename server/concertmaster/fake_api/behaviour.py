"""How the scripted endpoint behaves: speed, limits, and what goes wrong how often."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from pydantic import JsonValue

from concertmaster.errors import SettingsError, did_you_mean

Fault = Literal[
    "rate_limit",
    "rate_limit_bare",
    "overloaded",
    "server_error",
    "reset",
    "cut",
    "error_event",
    "malformed",
    "wrong_schema",
    "refusal",
    "max_tokens",
    "empty",
    "silence",
    "not_a_stream",
    "redirect",
    "forbidden",
]
"""What can go wrong with a call.

`rate_limit` is a 429 with retry-after and `rate_limit_bare` one without, `overloaded` a 529,
`server_error` a 500. In the middle of a stream, `reset` drops the connection, `cut` ends the
stream as if it were whole, `error_event` and `malformed` send an error and broken JSON, and
`silence` sends nothing for a while. `not_a_stream` is a 200 that is JSON, `redirect` a 302 and
`forbidden` a 403, as gateways send them for single requests. The others are replies: of another
schema, refused, cut at the token limit, without content.
"""

FAULTS: tuple[Fault, ...] = get_args(Fault)


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """What an operator of the endpoint chooses.

    Raises:
        SettingsError: the shares of faults are no shares, or the spread is no part.
    """

    tokens_per_second: float = 0.0
    """Speed of each reply; 0 is as fast as it can be sent."""
    first_token_seconds: float = 0.0
    """Time from a request to the beginning of its reply."""
    reply_tokens: int = 400
    """Length of a reply that is plain text."""
    spread: float = 0.0
    """By which part of its length such a reply is shorter or longer, at most."""
    values: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])
    """What properties of these names are in replies that are JSON; else the plainest value."""
    subtasks: int = 5
    """Subtasks of a plan."""
    concurrent: int | None = None
    """Requests that may be under way at once."""
    per_minute: int | None = None
    """Requests that may come per minute, by a bucket that refills all the time."""
    key: str | None = None
    """The key that requests must have; without it any will do, and none."""
    faults: Mapping[Fault, float] = field(default_factory=dict[Fault, float])
    """For each fault, the share of requests that it happens to."""
    seed: int = 0
    silence_seconds: float = 5.0
    pause: bool = False
    """Whether a reply that searches the web pauses after it, to be gone on with."""
    retry_after: int = 1
    """What `rate_limit` asks to wait, in seconds."""

    def __post_init__(self) -> None:
        shares = self.faults.values()
        if any(not 0 <= share <= 1 for share in shares) or sum(shares) > 1 + 1e-9:
            raise SettingsError("The shares of faults are from 0 to 1, and add up to at most 1.")
        if not 0 <= self.spread <= 1:
            raise SettingsError("The spread of lengths is a part, from 0 to 1.")


def parse_faults(text: str) -> dict[Fault, float]:
    """Return the shares that a text such as `overloaded=0.1,reset=0.05` gives.

    `all=0.2` spreads a share evenly over all faults.

    Raises:
        SettingsError: a name is no fault, or a share no number.
    """
    shares: dict[Fault, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, share = part.partition("=")
        try:
            value = float(share)
        except ValueError:
            raise SettingsError(f"{part!r} is no share of a fault, such as reset=0.05.") from None
        if name == "all":
            shares |= dict.fromkeys(FAULTS, value / len(FAULTS))
        else:
            shares[_fault(name)] = value
    return shares


def _fault(name: str) -> Fault:
    for fault in FAULTS:
        if fault == name:
            return fault
    raise SettingsError(f"There is no fault {name!r}. {did_you_mean(name, (*FAULTS, 'all'))}")


def parse_values(texts: Iterable[str]) -> dict[str, JsonValue]:
    """Return the values that texts such as `allowed=true` give, in JSON.

    Raises:
        SettingsError: a text names nothing, or its value is no JSON.
    """
    values: dict[str, JsonValue] = {}
    for text in texts:
        name, given, value = text.partition("=")
        try:
            values[name] = json.loads(value)
        except ValueError:
            given = ""
        if not (name and given):
            raise SettingsError(
                f"{text!r} gives no value, such as allowed=true or reason='\"why\"'."
            )
    return values


class _Draws:
    """Numbers from 0 to 1: one for each request, by a seed and how often it came before."""

    def __init__(self, seed: int | str) -> None:
        self._seed = seed
        self._seen: Counter[str] = Counter()

    def next(self, body: bytes) -> float:
        digest = hashlib.sha256(body).hexdigest()
        self._seen[digest] += 1
        drawn = hashlib.sha256(f"{self._seed} {digest} {self._seen[digest]}".encode()).digest()
        return int.from_bytes(drawn[:8]) / 2**64


class FaultMix:
    """Which fault happens to which request.

    That depends on the seed, the request and how often it came before, and not on when it
    comes: the same load meets the same faults however its calls overlap.
    """

    def __init__(self, behaviour: Behaviour) -> None:
        self._shares = behaviour.faults
        self._draws = _Draws(behaviour.seed)

    def next(self, body: bytes) -> Fault | None:
        """Return what goes wrong with a request, if anything does."""
        point = self._draws.next(body)
        for fault, share in self._shares.items():
            point -= share
            if point < 0:
                return fault
        return None


class Lengths:
    """How long replies are that are plain text; as with faults, the same load gets the same."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._tokens = behaviour.reply_tokens
        self._spread = behaviour.spread
        self._draws = _Draws(f"{behaviour.seed} length")

    def next(self, body: bytes) -> int:
        """Return how many tokens the reply to a request has."""
        away = self._spread * (2 * self._draws.next(body) - 1)
        return max(round(self._tokens * (1 + away)), 1)
