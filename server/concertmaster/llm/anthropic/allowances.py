"""What the headers of a response say of the provider's rate limits."""

import email.utils
import time
from collections.abc import Mapping
from datetime import datetime

from concertmaster.llm.pace import Allowance

_PREFIX = "anthropic-ratelimit"
_TOKENS = ("tokens", "input-tokens", "output-tokens")
_LONGEST_INTERVAL = 60.0
"""Limits are per minute; a reset that lies further off is a clock that is wrong."""


def read_allowance(headers: Mapping[str, str]) -> Allowance | None:
    """Return what the provider will still take, if it says so."""
    now = _sent_at(headers)
    for kind in _TOKENS:
        if _count(headers, kind, "remaining") == 0:
            # What the next call will take is not known, so it waits until it may take anything.
            return Allowance(0, _until_reset(headers, kind, now))
    calls = _count(headers, "requests", "remaining")
    if calls is None:
        return None
    # The limit refills all the time, and the reset is when it will be full again.
    limit = _count(headers, "requests", "limit")
    missing = limit - calls if limit is not None and limit > calls else 1
    return Allowance(calls, _until_reset(headers, "requests", now) / missing)


def _count(headers: Mapping[str, str], kind: str, what: str) -> int | None:
    try:
        return max(int(headers.get(f"{_PREFIX}-{kind}-{what}", "")), 0)
    except ValueError:
        return None


def _until_reset(headers: Mapping[str, str], kind: str, now: float) -> float:
    try:
        reset = datetime.fromisoformat(headers.get(f"{_PREFIX}-{kind}-reset", "")).timestamp()
    except ValueError:
        return 0.0
    return min(max(reset - now, 0.0), _LONGEST_INTERVAL)


def _sent_at(headers: Mapping[str, str]) -> float:
    """Return the time by the provider's clock, which its reset times go by."""
    try:
        return email.utils.parsedate_to_datetime(headers.get("date", "")).timestamp()
    except ValueError:
        return time.time()
