"""What it takes to reserve money for a call, and how much of a short budget is put to use.

By itself: `uv run benchmarks/spending.py`.
"""

import statistics
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

import anyio

from concertmaster.catalog.catalog import Catalog, builtin_folder
from concertmaster.catalog.definitions import WorkerDefinition
from concertmaster.catalog.prompts import load_prompts
from concertmaster.engine.budget import Spending
from concertmaster.engine.plan.plan import Plan
from concertmaster.engine.request import Limits
from concertmaster.engine.run import Setup
from concertmaster.llm.messages import (
    LLM,
    Draft,
    JudgementBrief,
    Models,
    Reply,
    Request,
    UserMessage,
)
from concertmaster.llm.pricing import load_prices
from concertmaster.llm.token_count import most_tokens_in
from concertmaster.llm.usage import Usage
from concertmaster.llm.wrapper import MissingKeyLLM
from concertmaster.runs.intake import RunPolicy
from concertmaster.runs.orders import RunOrder
from concertmaster.runs.service import open_service
from concertmaster.store.sqlite.store import open_sqlite
from concertmaster.tools.registry import ToolRegistry
from measure import Figure

CALLS = 2000
UNDER_WAY = 50
SUBTASKS = 20
SHORT_BUDGETS = (0.15, 0.2, 0.25, 0.3, 0.35, 0.4)
"""USD for so many subtasks, most of them too little for all."""
MOST_UNSPENT = 25.0
"""Part of such a budget that may stay unspent though subtasks are skipped, in percent."""


class PricedLLM(MissingKeyLLM):
    """Knows prices, and answers nothing."""

    def __init__(self) -> None:
        self._prices = load_prices()

    def expected(self, model: str, usage: Usage, /) -> Usage:
        """Return `usage` with its price."""
        return usage.model_copy(update={"usd": self._prices.cost(model, usage)})


class SpendingLLM(PricedLLM):
    """Answers in twelve hundred tokens, at the price of the model."""

    notice = ""

    def model_name(self, model: str, /) -> str:
        """Return the model that an alias stands for."""
        return self._prices.resolve(model)

    def expected(self, model: str, usage: Usage, /) -> Usage:
        """Return `usage` with its price."""
        return super().expected(self.model_name(model), usage)

    async def complete(self, request: Request, draft: Draft, /) -> Reply:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return a reply of usual length."""
        await anyio.sleep(0.01)
        model = self.model_name(request.model)
        # Four bytes a token, where as a precaution two and a half are reckoned with.
        read = round(most_tokens_in(request).all * 2.5 / 4)
        usage = Usage(model=model, calls=1, attempts=1, tokens_in=read, tokens_out=1200)
        usage = self.expected(model, usage)
        draft.update(usage=usage)
        return Reply(text="a result " * 533, stop_reason="end", usage=usage)


async def _short_run(budget_usd: float) -> tuple[float, int]:
    """Return the unspent share of a budget, and how many subtasks were done."""
    subtasks = [
        {
            "id": f"s{number}",
            "worker": "one",
            "objective": "Do it.",
            "priority": ("low", "high", "medium")[number % 3],
        }
        for number in range(SUBTASKS)
    ]
    setup = Setup(
        llm=SpendingLLM(),
        models=Models(),
        catalog=Catalog(
            [WorkerDefinition(name="one", description="one", instructions="Do.", file=Path("-"))]
        ),
        prompts=load_prompts(builtin_folder("prompts")),
        tools=ToolRegistry(),
    )
    plan = Plan.model_validate({"mode": "static", "subtasks": subtasks})
    policy = RunPolicy(limits=Limits(budget_usd=budget_usd, max_subtasks=SUBTASKS))
    with tempfile.TemporaryDirectory() as folder:
        async with (
            open_sqlite(Path(folder)) as journal,
            open_service(journal=journal, setup=setup, policy=policy) as service,
        ):
            state = await service.start(RunOrder(task="t", plan=plan))
            state = await service.wait(state.run_id, seconds=60)
    done = sum(item.status == "succeeded" for item in state.subtasks.values())
    return 1 - (state.usage.usd or 0.0) / budget_usd, done


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
    runs = {budget: anyio.run(_short_run, budget) for budget in SHORT_BUDGETS}
    unspent = [100 * share for share, done in runs.values() if done < SUBTASKS]
    return [
        Figure(
            "unspent of budgets that do not reach for all subtasks",
            statistics.mean(unspent),
            MOST_UNSPENT,
            unit="%",
            detail="; ".join(
                f"{budget} USD: {done} of {SUBTASKS} done, {100 * share:.0f} % unspent"
                for budget, (share, done) in runs.items()
            ),
        ),
        Figure(
            "CPU to reserve money for a call and to settle it",
            milliseconds,
            0.3,
            unit="ms",
            detail=f"{UNDER_WAY} other calls under way, 29,000 characters",
        ),
    ]


if __name__ == "__main__":
    for figure in spending_figures():
        print(
            f"{figure.name}: {figure.value:.3g} {figure.unit} (≤ {figure.goal:g}). {figure.detail}"
        )
