"""How much of what a provider allows gets through, and how many calls it has to refuse."""

import itertools
import statistics

import anyio
import httpx2

from concertmaster.errors import ModelUnavailableError
from concertmaster.fake_api.usage import Entry, Ledger
from concertmaster.llm.anthropic import Connection, open_anthropic
from concertmaster.llm.messages import Draft, Request, SynthesisBrief, UserMessage
from concertmaster.llm.pricing import load_prices
from concertmaster.llm.retry import Gate
from measure import Figure
from outside import scripted_endpoint

MINUTE = 60.0
CONCURRENT = 20
PER_MINUTE = 300
CALLERS = 60
RUNS = 4
ANSWER = ("--first-token-seconds", "0.6", "--tokens-per-second", "200", "--reply-tokens", "80")
"""A reply that takes a second."""


async def load(base_url: str, *, seconds: float) -> Ledger:
    """Call from several runs for so long, more at once than is allowed; return the ledger."""
    numbers = itertools.count()
    async with open_anthropic(Connection(base_url=base_url), prices=load_prices()) as llm:
        gate = Gate(llm)

        async def call_again_and_again(caller: int) -> None:
            while True:
                text = f"Call {next(numbers)}."
                request = Request(
                    caller="worker:analyst",
                    run_id=f"r-{caller % RUNS}",
                    model="sonnet",
                    system="",
                    messages=(UserMessage(text=text),),
                    brief=SynthesisBrief(task="t", results=()),
                    max_tokens=100,
                )
                try:
                    await gate.complete(request, Draft())
                except ModelUnavailableError:
                    continue

        with anyio.move_on_after(seconds):
            async with anyio.create_task_group() as tasks:
                for caller in range(CALLERS):
                    tasks.start_soon(call_again_and_again, caller)
    async with httpx2.AsyncClient(base_url=base_url) as http:
        return Ledger.model_validate_json((await http.get("/ledger")).content)


def second_minute(ledger: Ledger) -> list[Entry]:
    """Return what began in the second minute, in seconds from its beginning."""
    start = ledger.entries[0].began + MINUTE
    return [
        entry.model_copy(
            update={"began": entry.began - start, "ended": (entry.ended or MINUTE) - start}
        )
        for entry in ledger.entries
        if start <= entry.began < start + MINUTE
    ]


def at_once(entries: list[Entry]) -> float:
    """Return how many calls were under way on average."""
    served = [entry for entry in entries if entry.status == 200]
    return sum(min(entry.ended or MINUTE, MINUTE) - entry.began for entry in served) / MINUTE


def refused(entries: list[Entry]) -> float:
    """Return the share of calls that the endpoint refused."""
    return statistics.mean(entry.status != 200 for entry in entries)


async def loads(*base_urls: str) -> list[list[Entry]]:
    """Return what came in the second minute to each of several endpoints at the same time."""

    async def one(base_url: str) -> list[Entry]:
        return second_minute(await load(base_url, seconds=2 * MINUTE + 1))

    return await anyio.amap(one, base_urls)


def gate_figures() -> list[Figure]:
    """Measure an endpoint with a limit of calls at once, and one with a limit per minute."""
    with (
        scripted_endpoint("--concurrent", str(CONCURRENT), *ANSWER) as wide,
        scripted_endpoint("--per-minute", str(PER_MINUTE), *ANSWER) as fast,
    ):
        at_a_time, by_the_minute = anyio.run(loads, wide, fast)
    served = sum(entry.status == 200 for entry in by_the_minute)
    return [
        Figure(
            f"calls at once / the {CONCURRENT} that are allowed",
            at_once(at_a_time) / CONCURRENT,
            0.9,
            least=True,
            detail=f"{at_once(at_a_time):.1f} of {CONCURRENT}, second minute",
        ),
        Figure(f"calls refused / calls, {CONCURRENT} at once", refused(at_a_time), 0.02),
        Figure(
            f"calls in a minute / the {PER_MINUTE} that are allowed",
            served / PER_MINUTE,
            0.9,
            least=True,
            detail=f"{served} of {PER_MINUTE}, second minute",
        ),
        Figure(f"calls refused / calls, {PER_MINUTE} a minute", refused(by_the_minute), 0.02),
    ]
