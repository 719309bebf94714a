"""From how much to how much: figures that are not known any better."""

from collections.abc import Callable

from pydantic import Field

from concertmaster.llm.protocol import Frozen


class Counts(Frozen):
    """From how many to how many."""

    low: int
    high: int


class Amounts(Frozen):
    """From how much to how much."""

    low: float
    high: float


class Estimate(Frozen):
    """What carrying out a plan is likely to take. It is no bound; the budget is."""

    calls: Counts
    tokens: Counts
    usd: Amounts | None = Field(default=None, description="Absent if a price is unknown.")
    seconds: Amounts

    @property
    def metered(self) -> bool:
        """Tell whether a model reads by the token, so that the figures say anything."""
        return self.tokens.high > 0

    @property
    def words(self) -> str:
        """Return all of it in one phrase."""
        usd = _span(self.usd, _money) if self.usd else "an unknown price"
        calls = "call" if self.calls.high == 1 else "calls"
        return (
            f"{_span(self.calls)} {calls}, {_span(self.tokens)} tokens, {usd}, "
            f"{_span(self.seconds)} seconds"
        )


def _number(figure: float) -> str:
    return str(figure).removesuffix(".0")


def _money(usd: float) -> str:
    return f"${usd:.2f}" if usd == 0 or usd >= 0.1 else f"${usd:g}"


def _span(span: Counts | Amounts, written: Callable[[float], str] = _number) -> str:
    low, high = written(span.low), written(span.high)
    return low if low == high else f"{low} to {high}"
