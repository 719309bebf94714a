"""What it takes to reserve money for a call and to settle it."""

import time
from contextlib import AsyncExitStack

import anyio

from concertmaster.engine.budget.spending import Spending
from concertmaster.engine.record.request import Limits
from concertmaster.llm.missing import MissingKeyLLM
from concertmaster.llm.prices import load_prices
from concertmaster.llm.protocol import LLM, Draft, JudgementBrief, Request, Usage, UserMessage
from measure import Figure

CALLS = 2000
UNDER_WAY = 50


class PricedLLM(MissingKeyLLM):
    """Knows prices, and answers nothing."""

    def __init__(self) -> None:
        self._prices = load_prices()

    def expected(self, model: str, usage: Usage, /) -> Usage:
        """Return `usage` with its price."""
        return usage.model_copy(update={"usd": self._prices.cost(model, usage)})


def _request(chars: int) -> Request:
    return Request(
        caller="worker:analyst",
        model="claude-sonnet-5-5",
        system="s" * 6000,
        shared="x" * chars,
        messages=(UserMessage(text="y" * 3000),),
        brief=JudgementBrief(task="t", act="work"),
        max_tokens=16384,
    )


async def _seconds(llm: LLM, request: Request) -> float:
    """Return the CPU time for a call beside others that are under way."""
    spending = Spending(Limits(budget_usd=1e6, budget_tokens=10**12))
    async with AsyncExitStack() as stack:
        for _ in range(UNDER_WAY):
            await stack.enter_async_context(spending.reserved(llm, request, Draft(), None))
        started = time.process_time()
        for _ in range(CALLS):
            async with spending.reserved(llm, request, Draft(), None) as leave:
                leave.usage = Usage(tokens_in=5000, tokens_out=500, usd=0.02)
        return (time.process_time() - started) / CALLS


def spending_figures() -> list[Figure]:
    """Measure it for a request of usual length, with fifty others under way."""
    milliseconds = 1000 * anyio.run(_seconds, PricedLLM(), _request(20_000))
    return [
        Figure(
            "CPU to reserve money for a call and to settle it",
            milliseconds,
            0.3,
            unit="ms",
            detail=f"{UNDER_WAY} other calls under way, 29,000 characters",
        )
    ]
