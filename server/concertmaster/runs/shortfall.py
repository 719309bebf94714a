"""What it takes to go on with a run whose budget did not suffice."""

import math

from concertmaster.runs.state import RunState


def sufficient_budget(state: RunState) -> float | None:
    """Return a budget that is likely to do for all of a run whose own did not, if one is known."""
    rest, usage, limits = state.rest, state.usage, state.request.limits
    if rest is None or rest.usd is None or usage.usd is None:
        return None
    if usage.new_tokens + rest.tokens.low > limits.budget_tokens:
        # No amount of money helps where the tokens do not suffice.
        return None
    likely = usage.usd + rest.usd.high
    # Calls are turned away for what they may take at most, which can be more than is likely.
    enough = likely if likely > limits.budget_usd else limits.budget_usd + rest.usd.high
    return math.ceil(100 * enough) / 100
