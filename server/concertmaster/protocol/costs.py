"""What a run has spent, as a client is told of it."""

from collections.abc import Mapping

from concertmaster.llm.protocol import Usage
from concertmaster.protocol.lines import one_line
from concertmaster.protocol.replies import Budget, ModelUsage
from concertmaster.runs.state import RunState


def usd_of(usage: Usage) -> float | None:
    """Return what calls cost in USD; None if no provider was asked, or a price is unknown."""
    return _rounded(usage.usd) if usage.metered else None


def _rounded(usd: float | None) -> float | None:
    return None if usd is None else round(usd, 6)


def budget(state: RunState) -> Budget | None:
    """Return what a run may spend, and what it has spent; None for one that spends nothing."""
    if state.usage.calls and not state.usage.metered:
        return None
    limits = state.request.limits
    return Budget(
        usd=limits.budget_usd,
        spent_usd=_rounded(state.usage.usd),
        tokens=limits.budget_tokens,
        spent_tokens=state.usage.new_tokens,
    )


def usage_lines(by_model: Mapping[str, Usage]) -> tuple[ModelUsage, ...]:
    """Return what the calls of each model took."""
    return tuple(
        ModelUsage(
            model=one_line(model, 80),
            calls=usage.calls,
            attempts=usage.attempts,
            tokens_in=usage.tokens_in,
            estimated_in=usage.estimated_in,
            tokens_out=usage.tokens_out,
            estimated_out=usage.estimated_out,
            cache_read=usage.cache_read,
            cache_write=usage.cache_write,
            usd=_rounded(usage.usd),
            cache_hit_rate=round(usage.cache_hit_rate, 3),
            searches=usage.searches,
            fetches=usage.fetches,
            containers=usage.containers,
            saved_usd=_rounded(usage.saved_usd) if usage.cached else None,
        )
        for model, usage in by_model.items()
        if usage.metered
    )[:8]
