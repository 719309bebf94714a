"""What eight workers pay for the inputs that they share, and how much later they end for it."""

import anyio
import httpx2

from concertmaster.fake_api.usage import Ledger
from concertmaster.llm.anthropic import Connection, open_anthropic
from concertmaster.llm.messages import LLM, Draft, JudgementBrief, Request, UserMessage
from concertmaster.llm.pricing import load_prices
from concertmaster.llm.prompt_cache import SharedPrefixes
from concertmaster.llm.retry import Gate
from measure import Figure
from outside import scripted_endpoint

WORKERS = 8
SHARED = "The quick brown fox jumps over the lazy dog. " * 3_000
ANSWER = ("--first-token-seconds", "0.5", "--tokens-per-second", "100", "--reply-tokens", "200")
"""A reply that takes two and a half seconds."""


async def ask(llm: LLM, number: int, shared: str = SHARED) -> None:
    """Have one worker answer."""
    request = Request(
        caller="worker:analyst",
        model="sonnet",
        system="You are one of several workers.",
        shared=shared,
        messages=(UserMessage(text=f"Do part {number}."),),
        brief=JudgementBrief(task="t", act="work"),
        max_tokens=500,
    )
    await llm.complete(request, Draft())


async def work(llm: LLM) -> float:
    """Have the workers answer at the same time, and return the seconds that it takes."""
    # The first call of a process also imports the SDK.
    await ask(llm, 0, shared="")
    started = anyio.current_time()
    async with anyio.create_task_group() as tasks:
        for number in range(WORKERS):
            tasks.start_soon(ask, llm, number)
    return anyio.current_time() - started


async def measure(base_url: str, *, together: bool) -> tuple[float, float]:
    """Return what the workers paid, in prefixes at the plain price, and how long they took."""
    prices = load_prices()
    async with open_anthropic(Connection(base_url=base_url), prices=prices) as llm:
        gate = Gate(llm)
        seconds = await work(gate if together else SharedPrefixes(gate, prices))
    async with httpx2.AsyncClient(base_url=base_url) as http:
        ledger = Ledger.model_validate_json((await http.get("/ledger")).content)
    tokens = max(entry.cache_write for entry in ledger.entries)
    own = ledger.totals.tokens_in
    return (ledger.totals.charged_in - own) / tokens, seconds


def prefix_figures() -> list[Figure]:
    """Measure workers that let one go first against workers that do not."""
    with scripted_endpoint(*ANSWER) as one, scripted_endpoint(*ANSWER) as other:
        paid, seconds = anyio.run(lambda: measure(one, together=False))
        naive, at_once = anyio.run(lambda: measure(other, together=True))
    return [
        Figure(
            f"price of a shared prefix to {WORKERS} workers / its plain price",
            paid,
            2.0,
            detail=f"all at once: {naive:.2f}; ends {seconds / at_once:.2f} times as late",
        )
    ]
