"""How figures and texts from elsewhere are written for a person."""

import math
import re
from collections.abc import Callable, Iterable

from concertmaster.engine.events import Estimate, ToolAsked
from concertmaster.engine.plan.plan import Subtask
from concertmaster.llm.usage import Usage
from concertmaster.replies.build import strategy_phrase
from concertmaster.runs.retention import MEGABYTE
from concertmaster.runs.state import RunState, SubtaskState

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Characters that move the cursor, colour the screen or turn the direction of text."""


def harmless(text: str) -> str:
    """Return `text` without what a terminal would obey rather than show."""
    return _CONTROLS.sub("", text)


def one_line(text: str) -> str:
    """Return `text` in one line, without what a terminal would obey rather than show."""
    return harmless(" ".join(text.split()))


def seconds(value: float) -> str:
    """Return a span of time, such as `4.2s` or `3m05s`."""
    if value < 60:
        return f"{max(value, 0):.1f}s"
    minutes, rest = divmod(int(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m{rest:02}s" if hours else f"{minutes}m{rest:02}s"


def tokens(usage: Usage) -> str:
    """Return how many tokens went to and fro, such as `940` or `12.3k`."""
    total = usage.tokens
    for size, unit in ((1_000_000, "M"), (1000, "k")):
        if total >= size:
            return f"{total / size:.1f}{unit}"
    return str(total)


def money(usd: float | None) -> str:
    """Return an amount in USD; a question mark when the price of a model is unknown."""
    if usd is None:
        return "$?"
    return f"${usd:.2f}" if usd == 0 or usd >= 1 else f"${usd:.4f}"


def spent(usage: Usage) -> str:
    """Return tokens and money in one phrase, or nothing if no provider was asked."""
    return f"{tokens(usage)} tokens · {money(usage.usd)}" if usage.metered else ""


def bill(state: RunState) -> str:
    """Return what a run has taken of its budget, or nothing if no provider was asked."""
    so_far = spent(state.usage)
    return f"{so_far} of {_round_sum(state.request.limits.budget_usd)}" if so_far else ""


def taken(state: RunState) -> str:
    """Return all that there is to say of what a run has taken, or nothing if no call was made."""
    usage = state.usage
    return joined((bill(state), estimated(usage), cached(usage), looked_up(usage)))


def cached(usage: Usage) -> str:
    """Return what the provider's cache has been good for, or nothing if it was not used."""
    if not usage.cache_read:
        return ""
    return f"{usage.cache_hit_rate:.0%} cached, saved {money(usage.saved_usd)}"


def estimated(usage: Usage) -> str:
    """Return how many of the tokens nobody has reported, or nothing if all are."""
    return f"{usage.estimated:,} tokens estimated" if usage.estimated else ""


def looked_up(usage: Usage) -> str:
    """Return what the provider looked up itself, or nothing if that is nothing."""
    return joined(
        (
            count(usage.searches, "web search", "web searches") if usage.searches else "",
            count(usage.fetches, "page") + " fetched" if usage.fetches else "",
        )
    )


def likely(estimate: Estimate) -> str:
    """Return what carrying out a plan is likely to take, such as `7-28 calls · $0.09-$1.00`."""
    calls, counts = estimate.calls, estimate.tokens
    usd, time = estimate.usd, estimate.seconds
    return joined(
        (
            f"{_span(calls.low, calls.high, str)} {'call' if calls.high == 1 else 'calls'}",
            f"{_span(counts.low, counts.high, _round_count)} tokens",
            _span(usd.low, usd.high, _round_sum) if usd else money(None),
            _span(time.low, time.high, _round_time),
        )
    )


def _span(low: float, high: float, written: Callable[[float], str]) -> str:
    ends = dict.fromkeys((written(low), written(high)))
    return "-".join(ends)


def _round_sum(usd: float) -> str:
    return f"${usd:.2f}" if usd == 0 or usd >= 0.1 else f"${usd:g}"


def _round_count(count: float) -> str:
    for size, unit in ((1_000_000, "M"), (1000, "k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:g}"


def _round_time(value: float) -> str:
    return f"{value:.0f}s" if value < 60 else seconds(value)


def asked(question: ToolAsked) -> str:
    """Return what somebody is to agree to."""
    who = f"{question.subtask_id} {question.worker}"
    return one_line(f"may {who} call {question.tool} with {question.arguments}")


def to_answer(run_id: str, question: ToolAsked) -> str:
    """Return the command that answers a question of a run."""
    return f"concertmaster answer {run_id} {question.question_id} yes|no"


def times(start: float | None, end: float | None, now: float) -> str:
    """Return how long something has taken, or nothing if it has not begun."""
    return "" if start is None else seconds((now if end is None else end) - start)


def problem(state: SubtaskState) -> str:
    """Return why a subtask has no whole result, or nothing."""
    return one_line(" ".join(state.result.errors)) if state.result else ""


def how(subtask: Subtask) -> str:
    """Return how a subtask is done, in short; nothing where one worker does it once."""
    phrase = strategy_phrase(subtask)
    return "" if phrase == "single" else phrase


def notes(state: SubtaskState) -> str:
    """Return how the result of a subtask came about, where there is more to say than by whom."""
    return one_line(" ".join(state.result.notes)) if state.result else ""


def count(number: int, noun: str, nouns: str = "") -> str:
    """Return a number of things, such as `1 subtask` or `3 subtasks`."""
    return f"{number} {noun}" if number == 1 else f"{number} {nouns or f'{noun}s'}"


def size(of_bytes: int) -> str:
    """Return a number of bytes, such as `12 kB` or `3.4 MB`."""
    if of_bytes < MEGABYTE:
        return f"{math.ceil(of_bytes / 1000)} kB"
    return f"{of_bytes / MEGABYTE:,.1f} MB"


def joined(parts: Iterable[str]) -> str:
    """Return the parts that say something, in one line."""
    return " · ".join(part for part in parts if part)
