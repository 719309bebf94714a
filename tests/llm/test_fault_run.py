"""A run of fifty subtasks over HTTP and the real SDK, while everything goes wrong at random."""

from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from building import setup, worker
from concertmaster.engine.conversation import judge_work
from concertmaster.engine.events import CallFailed, CallFinished, Event
from concertmaster.engine.plan.plan import Plan
from concertmaster.engine.request import Limits
from concertmaster.fake_api import Behaviour, ServedApi, parse_faults, serve_fake_api
from concertmaster.fake_api.usage import Ledger, Totals
from concertmaster.llm.anthropic import Connection, open_anthropic
from concertmaster.llm.messages import JsonSchema, Models
from concertmaster.llm.pricing import load_prices
from concertmaster.llm.retry import Gate
from concertmaster.llm.usage import Usage
from concertmaster.runs.intake import RunPolicy
from concertmaster.runs.orders import RunOrder
from concertmaster.runs.service import RunService, open_service
from concertmaster.runs.state import RunState
from concertmaster.store.journal import Journal
from concertmaster.store.sqlite.store import open_sqlite
from fakes import subtask

pytestmark = pytest.mark.anyio

IDLE_SECONDS = 1.5
"""Longer than this machine may hold up a reply, which would pass for a silence."""
SCHEMA: JsonSchema = {
    "type": "object",
    "properties": {"severity": {"enum": ["high", "low"]}},
    "required": ["severity"],
    "additionalProperties": False,
}
PLAN = Plan(
    subtasks=tuple(
        subtask(f"s{number}", ("analyst", "critic")[number % 2], objective=f"do {number}")
        for number in range(50)
    )
)


@asynccontextmanager
async def runs_against(api: ServedApi, folder: Path) -> AsyncGenerator[tuple[RunService, Journal]]:
    """Open the run service, with the endpoint as its provider and short pauses."""
    connection = Connection(api_key="none", base_url=api.address, idle_seconds=IDLE_SECONDS)
    async with (
        open_anthropic(connection, prices=load_prices()) as llm,
        open_sqlite(folder) as journal,
    ):
        gate = Gate(llm, first_wait=0.01)
        workers = [worker("critic", output_schema=SCHEMA)]
        given = replace(setup(gate, workers=workers), models=Models())
        # Enough for every call in full, as a lower bound on a reply is another request, which
        # other faults would happen to.
        policy = RunPolicy(limits=Limits(max_subtasks=50, budget_usd=1000))
        async with open_service(journal=journal, setup=given, policy=policy) as service:
            yield service, journal


def counted(usage: Usage) -> tuple[int, ...]:
    # A machine that is slow enough lets a call time out before its reply begins.
    return (
        usage.attempts,
        usage.tokens_in - usage.estimated_in,
        usage.cache_read,
        usage.cache_write,
    )


def charged(totals: Totals) -> tuple[int, ...]:
    return (
        totals.requests,
        totals.tokens_in,
        totals.cache_read,
        totals.cache_write,
    )


def answered(events: Sequence[Event]) -> set[str]:
    """Return the subtasks that got a reply as it should be."""
    schemas = {"worker:analyst": None, "worker:critic": SCHEMA}
    return {
        str(event.subtask_id)
        for event in events
        if isinstance(event, CallFinished)
        and event.caller in schemas
        and judge_work(event.reply, schemas[event.caller]).status == "succeeded"
    }


@pytest.mark.parametrize(("seed", "share"), [(1, 0.2), (2, 0.4), (3, 0.8)])
async def test_nothing_that_came_is_lost_and_every_token_is_counted(
    tmp_path: Path, seed: int, share: float
) -> None:
    faults = parse_faults(f"all={share}")
    behaviour = Behaviour(
        faults=faults, seed=seed, silence_seconds=3600, retry_after=0, reply_tokens=100
    )
    async with serve_fake_api(behaviour) as api, runs_against(api, tmp_path) as (service, journal):
        with anyio.fail_after(60):
            started = await service.start(RunOrder(task="all of it", plan=PLAN))
            state = await service.wait(started.run_id, seconds=60)
        events = await journal.events(started.run_id)
    if share > 0.5:
        assert {entry.fault for entry in api.ledger.entries} >= set(faults)
    assert counted(state.usage) == charged(api.ledger.totals)
    assert_not_too_low(state.usage, api.ledger)
    assert state.usage.usd == pytest.approx(
        sum(usage.usd or 0 for usage in state.by_model.values())
    )
    results = {name: item.result for name, item in state.subtasks.items()}
    assert all(result is not None for result in results.values())
    succeeded = {name for name, item in state.subtasks.items() if item.status == "succeeded"}
    assert succeeded == answered(events)
    assert_honest(state, missing=set(results) - succeeded)


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_an_odd_reply_fails_no_call_but_the_one_it_answers(tmp_path: Path, seed: int) -> None:
    """Gateways send single redirects, pages and refusals; calls of all runs wait meanwhile."""
    behaviour = Behaviour(
        faults={"not_a_stream": 0.06, "redirect": 0.06, "forbidden": 0.03},
        seed=seed,
        reply_tokens=20,
        first_token_seconds=0.02,
    )
    async with serve_fake_api(behaviour) as api, runs_against(api, tmp_path) as (service, _):
        with anyio.fail_after(60):
            orders = [RunOrder(task=f"part {number}", plan=PLAN) for number in range(3)]
            started = [await service.start(order) for order in orders]
            ended = [await service.wait(run.run_id, seconds=60) for run in started]
    met = Counter(entry.fault for entry in api.ledger.entries)
    assert min(met["not_a_stream"], met["redirect"], met["forbidden"]) > 0
    subtasks = [subtask for state in ended for subtask in state.subtasks.values()]
    failed = [subtask for subtask in subtasks if subtask.status != "succeeded"]
    assert len(failed) <= met["forbidden"]
    told = [" ".join(subtask.result.errors) for subtask in failed if subtask.result is not None]
    assert all("does not allow this request" in text for text in told)


async def test_a_vote_that_is_decided_early_counts_what_the_others_had_cost(
    tmp_path: Path,
) -> None:
    """The replies come at the same time, so that the last one is under way or sent."""
    voted = subtask("s1", "critic", strategy={"kind": "vote", "answers": 3, "decide": "consensus"})
    order = RunOrder(task="all of it", plan=Plan(subtasks=(voted,)))
    behaviour = Behaviour(reply_tokens=400)
    async with serve_fake_api(behaviour) as api, runs_against(api, tmp_path) as (service, journal):
        with anyio.fail_after(60):
            started = await service.start(order)
            state = await service.wait(started.run_id, seconds=60)
        events = await journal.events(started.run_id)
    assert state.status == "succeeded"
    lost = [event.usage for event in events if isinstance(event, CallFailed)]
    assert all(usage.tokens_in + usage.cache_read + usage.cache_write > 0 for usage in lost)
    totals = api.ledger.totals
    assert state.usage.attempts == totals.requests == 3
    read = totals.tokens_in + totals.cache_read + totals.cache_write
    assert state.usage.tokens_in + state.usage.cache_read + state.usage.cache_write >= read
    assert state.usage.tokens_out >= totals.tokens_out - sum(
        usage.estimated_in > 0 for usage in lost
    )


def assert_not_too_low(usage: Usage, ledger: Ledger) -> None:
    """Check that what was written is counted, and estimated only where nothing was reported."""
    whole = [entry.tokens_out for entry in ledger.entries if entry.sent is not None]
    broken_off = len([entry for entry in ledger.entries if entry.tokens_out]) - len(whole)
    assert usage.tokens_out - usage.estimated_out == sum(whole) + broken_off
    assert ledger.totals.tokens_out <= usage.tokens_out < 2 * ledger.totals.tokens_out


def assert_honest(state: RunState, *, missing: set[str]) -> None:
    """Check that the run claims no more than there is."""
    told = " ".join(state.reasons)
    assert all(f"{name} " in told for name in missing)
    if missing or state.reasons:
        assert state.status == "partial"
    else:
        assert state.status == "succeeded"
    assert state.answer
