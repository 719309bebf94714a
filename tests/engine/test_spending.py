"""Runs and their budgets: what is reserved, what waits, what is cut, and what is said of it."""

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import anyio
import pytest

from building import RecordedRun, setup, worker
from concertmaster.catalog.definitions import WorkerDefinition
from concertmaster.engine.budget import LEAST_REPLY, SHORT_REPLY, Amount, Spending, beyond
from concertmaster.engine.events import CallFailed, Event, PlanAccepted, RunEnded, RunResumed
from concertmaster.engine.plan.plan import Plan, Subtask
from concertmaster.engine.request import Limits, RunRequest
from concertmaster.engine.synthesis import TOO_DEAR
from concertmaster.errors import BudgetError, ModelUnavailableError
from concertmaster.llm.messages import (
    AssistantMessage,
    Draft,
    JudgementBrief,
    Reply,
    Request,
    SynthesisBrief,
    ToolCall,
    ToolMessage,
    ToolOutcome,
    ToolSpec,
    UserMessage,
)
from concertmaster.llm.pricing import Rates
from concertmaster.llm.token_count import most_tokens_in
from concertmaster.llm.usage import Usage
from concertmaster.llm.wrapper import Brake
from fakes import FakeLLM, Script, in_turn, plan_json, reply_with, subtask, texts

pytestmark = pytest.mark.anyio

DEAR_REPLIES = Rates(input=0, output=1000)
"""A tenth of a cent for each token of a reply."""


def said(tokens: int, text: str = "done", **fields: Any) -> Reply:
    """Return a reply of so many tokens, at the price of DEAR_REPLIES."""
    usage = Usage(
        model="fake", calls=1, attempts=1, tokens_in=100, tokens_out=tokens, usd=tokens / 1000
    )
    return reply_with(text, usage=usage, **fields)


def asked(*subtasks: Subtask, kind: str = "orchestration", **limits: Any) -> RunRequest:
    """Return a run of a plan whose replies cost a dollar at most."""
    values = {"kind": kind, "task": "t", "plan": Plan(subtasks=subtasks)}
    return RunRequest.model_validate(values | {"limits": Limits(**({"max_tokens": 1000} | limits))})


def several(number: int, **fields: Any) -> list[Subtask]:
    return [subtask(f"s{index}", **fields) for index in range(1, number + 1)]


def chain(number: int) -> list[Subtask]:
    return [
        subtask(f"s{index}", depends_on=[f"s{index - 1}"] if index > 1 else [])
        for index in range(1, number + 1)
    ]


def model(scripts: Mapping[str, Script], rates: Rates = DEAR_REPLIES) -> FakeLLM:
    llm = FakeLLM(scripts)
    llm.rates = rates
    return llm


async def driven(
    request: RunRequest,
    llm: FakeLLM,
    *,
    recorded: Iterable[Event] = (),
    workers: Iterable[WorkerDefinition] = (),
    inputs: Mapping[str, str] | None = None,
) -> RecordedRun:
    run = RecordedRun(request, recorded=recorded, inputs=inputs)
    with anyio.fail_after(60):
        await run.drive(setup(llm, workers=workers))
    return run


def statuses(run: RecordedRun) -> dict[str, str]:
    return {name: result.status for name, result in sorted(run.results.items())}


def once_all_are_blocked(llm: FakeLLM, seen: list[int], reply: Reply) -> Script:
    """Return a script that notes how many calls are under way when nothing else goes on."""

    async def answer(_: Request) -> Reply:
        await anyio.wait_all_tasks_blocked()
        seen.append(len(llm.requests))
        return reply

    return answer


# Reserving


async def test_calls_at_the_same_time_do_not_pass_the_budget_together() -> None:
    llm = model({})
    under_way: list[int] = []
    llm.scripts["worker:analyst"] = once_all_are_blocked(llm, under_way, said(1000))
    run = await driven(asked(*several(8), budget_usd=6.5), llm)
    # One dollar is for the synthesis, and five calls have room beside it.
    assert under_way[0] == 5
    assert sorted(statuses(run).values()) == ["skipped"] * 3 + ["succeeded"] * 5
    assert llm.callers().count("synthesizer") == 1
    assert sum(event.reply.usage.usd or 0 for event in run.calls) <= 6.5


async def test_what_has_no_room_beside_others_waits_until_they_have_cost_less() -> None:
    llm = model({})
    under_way: list[int] = []
    llm.scripts["worker:analyst"] = once_all_are_blocked(llm, under_way, said(10))
    run = await driven(asked(*several(8), budget_usd=3.5), llm)
    assert under_way[0] == 2
    assert set(statuses(run).values()) == {"succeeded"}
    assert run.end.status == "succeeded"


async def test_a_bound_is_lowered_before_a_call_is_refused() -> None:
    llm = model({"worker:analyst": said(500)})
    request = asked(subtask("s1"), kind="worker", max_tokens=10_000, budget_usd=5)
    run = await driven(request, llm)
    assert SHORT_REPLY <= llm.requests[0].max_tokens <= 5000
    assert run.end.status == "succeeded"


async def test_a_call_whose_bound_would_be_too_low_is_refused() -> None:
    llm = model({})
    budget = (SHORT_REPLY - 1) / 1000
    request = asked(subtask("s1"), kind="worker", max_tokens=10_000, budget_usd=budget)
    run = await driven(request, llm)
    assert llm.requests == []
    assert (run.end.status, statuses(run)) == ("failed", {"s1": "skipped"})


async def test_a_call_that_was_abandoned_costs_what_had_been_charged() -> None:
    async def hang(_: Request) -> str:
        await anyio.sleep_forever()
        raise AssertionError("unreachable")

    plan = [subtask("s1", timeout_seconds=0.01), subtask("s2", depends_on=["s1"])]
    llm = model({"worker:analyst": in_turn_called(hang, lambda _: said(10))})
    run = await driven(asked(*plan, budget_usd=2), llm)
    assert statuses(run) == {"s1": "failed", "s2": "succeeded"}


def in_turn_called(*scripts: Callable[[Request], Any]) -> Script:
    remaining = iter(scripts)
    return lambda request: next(remaining)(request)


async def test_a_failed_call_costs_what_its_error_says() -> None:
    broken = ModelUnavailableError("gone", usage=said(900).usage)
    llm = model({"worker:analyst": in_turn(broken, said(10))})
    run = await driven(asked(*chain(2), budget_usd=2.5), llm)
    # A dollar for the synthesis and 0.90 for what failed leave less than a call may cost.
    assert statuses(run) == {"s1": "failed", "s2": "skipped"}


async def test_tokens_bind_where_nobody_knows_the_price() -> None:
    llm = model({"worker:analyst": said(1000)}, Rates())
    run = await driven(asked(*chain(3), budget_tokens=7_000), llm)
    assert statuses(run)["s1"] == "succeeded"
    assert statuses(run)["s3"] == "skipped"
    assert "budget of 7,000 tokens" in run.end.reasons[0]
    assert "an unknown price" in run.end.reasons[-1]


# When it does not suffice


async def test_when_it_is_spent_nothing_starts_and_what_exists_becomes_the_answer() -> None:
    llm = model({"worker:analyst": said(1000), "synthesizer": said(1000, "because")})
    run = await driven(asked(*chain(3), budget_usd=3.5), llm)
    assert statuses(run) == {"s1": "succeeded", "s2": "succeeded", "s3": "skipped"}
    assert (run.end.status, run.end.answer) == ("partial", "because")
    assert run.end.reasons[0] == (
        "Subtask s3 (analyst) was skipped: Too little is left of the run's budget of 3.5 USD."
    )
    brief = llm.requests[-1].brief
    assert isinstance(brief, SynthesisBrief)
    assert "budget of 3.5 USD" in texts(llm.requests)[-1]


async def test_the_end_says_what_the_rest_would_take() -> None:
    llm = model({"worker:analyst": said(1000)})
    run = await driven(asked(*chain(4), budget_usd=3.5), llm)
    rest, plan = run.end.rest, run.first(PlanAccepted).estimate
    assert rest is not None
    assert plan is not None
    # Two of four subtasks, and the synthesis again.
    assert (rest.calls.low, plan.calls.low) == (3, 5)
    assert run.end.reasons[-1] == (
        f"The budget did not suffice. To do the rest would take {rest.words}."
    )


async def test_a_run_that_failed_for_other_reasons_says_nothing_of_money() -> None:
    llm = model({"worker:analyst": ModelUnavailableError("gone")})
    run = await driven(asked(*several(2)), llm)
    assert run.end.status == "failed"
    assert run.end.rest is None


async def test_a_reply_cut_at_a_lowered_bound_is_blamed_on_the_budget() -> None:
    cut = said(2100, "beg", stop_reason="max_tokens")
    llm = model({"worker:analyst": cut})
    request = asked(subtask("s1"), kind="worker", max_tokens=3000, budget_usd=2.1)
    run = await driven(request, llm)
    assert (run.end.status, run.end.answer) == ("partial", "beg")
    assert run.end.rest is not None


async def test_a_reply_cut_at_its_own_bound_is_not() -> None:
    cut = said(1000, "beg", stop_reason="max_tokens")
    run = await driven(asked(subtask("s1"), budget_usd=50), model({"worker:analyst": cut}))
    assert run.end.status == "partial"
    assert run.end.rest is None


async def test_what_was_begun_with_tools_is_kept_when_the_money_is_spent() -> None:
    asks = said(1900, "so far", stop_reason="tool_use", tool_calls=[CALL.model_dump()])
    llm = model({"worker:analyst": in_turn(asks)})
    request = asked(subtask("s1"), kind="worker", budget_usd=2)
    run = await driven(request, llm)
    assert (run.end.status, run.end.answer) == ("partial", "so far")
    assert statuses(run) == {"s1": "partial"}
    refused = [event for event in run.events if isinstance(event, CallFailed)]
    assert [event.step for event in refused] == ["subtask/s1/call/2"]


CALL = ToolCall(id="1", name="look", arguments={})


async def test_results_too_long_to_be_paid_for_are_shortened_for_the_answer() -> None:
    """Without the results the request costs about 5 USD, and with them about 29."""
    long = reply_with("x" * 8000, usage=said(10).usage)
    llm = model({"worker:analyst": long}, Rates(input=2500, output=0))
    run = await driven(asked(*several(3), budget_usd=26), llm)
    brief = llm.requests[-1].brief
    assert isinstance(brief, SynthesisBrief)
    assert all(6000 < len(result.text) < 8000 for result in brief.results)
    assert (run.end.status, run.end.answer) == ("partial", "done")
    assert run.end.reasons[0] == TOO_DEAR
    assert run.end.rest is not None


async def shortened_answer() -> tuple[RecordedRun, FakeLLM]:
    """Return a run whose answer was made of shortened results."""
    long = reply_with("x" * 8000, usage=said(10).usage)
    llm = model({"worker:analyst": long}, Rates(input=2500, output=0))
    run = await driven(asked(*several(3), budget_usd=26), llm)
    llm.requests.clear()
    return run, llm


def resumed(budget_usd: float | None = None) -> RunResumed:
    return RunResumed(name="run/resume/2", at=9.0, epoch=2, by="test", budget_usd=budget_usd)


async def test_an_answer_of_shortened_results_is_made_again_only_with_a_larger_budget() -> None:
    first, llm = await shortened_answer()
    before = [*first.events, resumed()]
    same = await driven(asked(*several(3), budget_usd=26), llm, recorded=before)
    assert llm.callers() == []
    assert same.end.reasons[0] == TOO_DEAR
    before = [*first.events, resumed(90)]
    larger = await driven(asked(*several(3), budget_usd=90), llm, recorded=before)
    assert llm.callers() == ["synthesizer"]
    assert (larger.end.status, larger.end.reasons) == ("succeeded", ())


async def test_a_crash_after_the_answer_does_not_change_what_is_said_of_its_results() -> None:
    first, llm = await shortened_answer()
    before = [*first.events[:-1], resumed()]
    again = await driven(asked(*several(3), budget_usd=26), llm, recorded=before)
    assert again.end.reasons[0] == TOO_DEAR
    # A whole answer that has used up the budget stays whole.
    llm.scripts["synthesizer"] = reply_with(
        "so", usage=said(10).usage.model_copy(update={"usd": 29})
    )
    whole = await driven(asked(*several(3), budget_usd=32), llm)
    before = [*whole.events[:-1], resumed()]
    again = await driven(asked(*several(3), budget_usd=32), llm, recorded=before)
    assert whole.end.status == again.end.status == "succeeded"


async def test_without_money_for_a_plan_the_run_says_how_much_is_needed() -> None:
    llm = model({})
    request = RunRequest(task="t", limits=Limits(budget_usd=0.5))
    run = await driven(request, llm)
    assert llm.requests == []
    assert run.end.status == "failed"
    assert run.end.reasons == (
        "No plan could be made. Too little is left of the run's budget of 0.5 USD. Allow 4.10 USD "
        "at least, and what the work itself costs.",
    )


async def test_planning_alone_needs_no_money_for_an_answer() -> None:
    request = RunRequest(kind="plan", task="t", limits=Limits(budget_usd=0.5))
    run = await driven(request, model({}))
    assert "Allow 2.05 USD at least" in run.end.reasons[0]


async def test_without_tokens_for_a_plan_the_run_says_so() -> None:
    request = RunRequest(kind="plan", task="t", limits=Limits(budget_tokens=50))
    run = await driven(request, model({}, Rates()))
    assert run.end.reasons == (
        "No plan could be made. Too little is left of the run's budget of 50 tokens.",
    )


async def test_a_plan_that_the_budget_is_not_likely_to_pay_for_has_a_warning() -> None:
    run = await driven(asked(*several(8), max_tokens=2000, budget_usd=3), model({}))
    (warning,) = run.first(PlanAccepted).warnings
    assert "The budget of 3 USD is not likely to suffice" in warning
    run = await driven(asked(*several(2), budget_tokens=100), model({}, Rates()))
    (warning,) = run.first(PlanAccepted).warnings
    assert "The budget of 100 tokens is not likely to suffice" in warning


# Going on with more


async def test_a_run_that_goes_on_counts_what_it_has_spent() -> None:
    llm = model({"worker:analyst": said(1000)})
    first = await driven(asked(*chain(3), budget_usd=3.5), llm)
    before = [event for event in first.events if event.kind != "run-ended"]
    again = await driven(asked(*chain(3), budget_usd=3.5), llm, recorded=before)
    assert statuses(again)["s3"] == "skipped"


async def test_with_a_larger_budget_a_run_goes_on_where_it_stopped() -> None:
    llm = model({"worker:analyst": said(1000), "synthesizer": said(10, "because")})
    first = await driven(asked(*chain(3), budget_usd=3.5), llm)
    before = [
        event
        for event in first.events
        if event.kind != "run-ended" and not event.name.startswith("synthesis")
    ]
    llm.requests.clear()
    again = await driven(asked(*chain(3), budget_usd=9), llm, recorded=before)
    assert (again.end.status, again.end.rest) == ("succeeded", None)
    assert llm.callers() == ["worker:analyst", "synthesizer"]


# Limits of one subtask


@pytest.mark.parametrize("of_the_worker", [True, False])
async def test_a_subtask_can_have_a_limit_of_its_own(of_the_worker: bool) -> None:
    own: dict[str, Any] = {} if of_the_worker else {"budget_usd": 1.5}
    revised = [subtask("s1", strategy={"kind": "revise"}, **own), subtask("s2", "critic")]
    analyst = worker("analyst", budget_usd=1.5 if of_the_worker else None)
    llm = model({"worker:analyst": said(800)})
    run = await driven(asked(*revised, budget_usd=50), llm, workers=[analyst])
    assert statuses(run) == {"s1": "partial", "s2": "succeeded"}
    assert run.results["s1"].errors == (
        "No critic could judge it: Too little is left of the 1.5 USD that it may spend.",
    )
    assert run.end.rest is None


async def test_a_limit_of_its_own_does_not_allow_more_than_the_run_has() -> None:
    plan = [subtask("s1"), subtask("s2", depends_on=["s1"], budget_usd=40)]
    llm = model({"worker:analyst": said(1000)})
    run = await driven(asked(*plan, budget_usd=2.5), llm)
    assert run.results["s2"].errors == ("Too little is left of the run's budget of 2.5 USD.",)


# What planners are told


async def test_the_planner_is_told_what_there_is_to_spend() -> None:
    llm = model({"planner": plan_json(subtask("s1"))}, Rates(input=4, output=20))
    await driven(RunRequest(task="t", limits=Limits(budget_usd=1.25)), llm)
    assert "Budget: 1.25 USD for all model calls" in texts(llm.requests)[0]


@pytest.mark.parametrize("rates", [Rates(), Rates(input=0, output=0)])
async def test_where_nothing_is_known_to_cost_anything_the_planner_is_told_nothing(
    rates: Rates,
) -> None:
    llm = model({"planner": plan_json(subtask("s1"))}, rates)
    await driven(RunRequest(task="t"), llm)
    assert "Budget:" not in texts(llm.requests)[0]


# Single calls


def request(**fields: Any) -> Request:
    values: dict[str, Any] = {
        "caller": "worker:analyst",
        "model": "m",
        "system": "You work.",
        "shared": "x" * 25_000,
        "messages": (UserMessage(text="go"),),
        "brief": JudgementBrief(task="t", act="work"),
        "max_tokens": 100,
    }
    return Request(**(values | fields))


async def spend(spending: Spending, llm: FakeLLM, usage: Usage, **fields: Any) -> int:
    """Return the bound of a call that then takes `usage`."""
    async with spending.reserved(llm, request(**fields), Draft(), None) as leave:
        leave.usage = usage
    return leave.max_tokens


CACHED = Usage(cache_write=10_000)


async def test_what_the_provider_has_cached_is_reserved_at_its_price() -> None:
    """Ten thousand tokens of a prefix take a dollar to write, and two cents to read."""
    llm = model({}, Rates(input=0, output=0, cache_read=2, cache_write=100))
    spending = Spending(Limits(budget_usd=1.5))
    assert await spend(spending, llm, CACHED) == 100
    spending.charge(Usage(usd=0.8))
    assert await spend(spending, llm, CACHED) == 100
    with pytest.raises(BudgetError):
        await spend(spending, llm, CACHED, shared="y" * 25_000)


async def test_what_was_not_cached_is_reserved_in_full_again() -> None:
    llm = model({}, Rates(input=0, output=0, cache_read=2, cache_write=100))
    spending = Spending(Limits(budget_usd=1.5))
    assert await spend(spending, llm, Usage(tokens_in=10_000, usd=0.8)) == 100
    with pytest.raises(BudgetError):
        await spend(spending, llm, CACHED)


async def test_without_a_price_for_what_is_cached_the_plain_one_holds() -> None:
    llm = model({}, Rates(input=100, output=0))
    spending = Spending(Limits(budget_usd=1))
    with pytest.raises(BudgetError) as error:
        await spend(spending, llm, CACHED)
    assert error.value.least_usd == pytest.approx(1.05, rel=0.01)


async def test_everything_that_is_sent_is_counted() -> None:
    llm = model({}, Rates(input=1000, output=0, cache_read=0, cache_write=1000))
    spending = Spending(Limits(budget_usd=0.001))
    look = ToolSpec(name="look", description="d" * 250, input_schema={"type": "object"})
    dialogue = (
        UserMessage(text="q" * 250),
        AssistantMessage(text="a" * 250, tool_calls=(CALL,)),
        ToolMessage(outcomes=(ToolOutcome(id="1", text="o" * 250),)),
        AssistantMessage(native=({"type": "text", "text": "n" * 250},)),
        AssistantMessage(text="ü" * 125),
    )
    parts: list[Mapping[str, Any]] = [
        {},
        {"messages": dialogue[:1]},
        {"messages": dialogue[:2]},
        {"messages": dialogue[:3]},
        {"messages": dialogue[:4]},
        {"messages": dialogue},
        {"messages": dialogue, "tools": (look,)},
        {"messages": dialogue, "tools": (look,), "output_schema": {"const": "s" * 250}},
    ]
    least: list[float] = []
    for fields in parts:
        with pytest.raises(BudgetError) as error:
            await spend(spending, llm, CACHED, **fields)
        least.append(error.value.least_usd)
    # Each adds a hundred tokens, and what is around them.
    assert all(0.09 < more - less < 0.16 for less, more in itertools.pairwise(least))


async def test_another_attempt_is_made_only_if_it_can_be_paid_for() -> None:
    llm = model({})
    spending = Spending(Limits(budget_usd=0.25))
    draft = Draft()
    assert draft.may_repeat(Usage(usd=1000))
    async with spending.reserved(llm, request(), draft, None):
        assert draft.may_repeat(Usage(usd=0))
        assert draft.may_repeat(Usage(usd=0.1))
        assert not draft.may_repeat(Usage(usd=0.2))


async def test_what_waits_for_money_until_its_time_is_up_falls_short_of_it() -> None:
    llm = model({})
    spending = Spending(Limits(budget_usd=0.15))
    async with spending.reserved(llm, request(), Draft(), None):
        with anyio.move_on_after(0) as waiting:
            await spend(spending, llm, CACHED)
    assert waiting.cancelled_caught
    assert spending.fell_short


async def test_time_that_is_up_for_want_of_money_once_the_process_is_to_end_decides_nothing() -> (
    None
):
    brake, llm = Brake(), model({})
    run = RecordedRun(asked(budget_usd=0.15), brake=brake)
    await brake.pull()
    steps = run.run.steps
    async with steps.spending.reserved(llm, request(), Draft(), None):
        with anyio.move_on_after(0):
            await steps.call("one", llm, request())
    with anyio.move_on_after(0) as waiting:
        await steps.record(RunEnded(name="run/end", at=1, status="failed"))
    assert waiting.cancelled_caught
    assert [event.name for event in run.events] == ["one/start", "one/failed"]


# When it is short


def priced_by_length(request: Request) -> Reply:
    """Return a reply of 600 tokens that reads what it was sent, at the price of DEAR_READING."""
    read = round(most_tokens_in(request).all * 2.5 / 4)
    usd = DEAR_READING.cost(Usage(tokens_in=read, tokens_out=600))
    usage = Usage(model="fake", calls=1, attempts=1, tokens_in=read, tokens_out=600, usd=usd)
    return reply_with("word " * 480, usage=usage)


DEAR_READING = Rates(input=4, output=20, cache_write=4, cache_read=0.4)
PRIORITIES = ("low", "high", "medium", "low", "high", "medium", "low", "high", "medium", "low")


async def test_a_short_budget_is_put_to_use_and_the_least_important_subtasks_are_skipped() -> None:
    plan = [subtask(f"s{n}", priority=priority) for n, priority in enumerate(PRIORITIES)]
    llm = FakeLLM(default=priced_by_length)
    llm.rates = DEAR_READING
    request = asked(*plan, budget_usd=0.2, max_tokens=16_384, slots=10)
    run = await driven(request, llm)
    done = [
        priority
        for item, priority in zip(plan, PRIORITIES, strict=True)
        if statuses(run)[item.id] == "succeeded"
    ]
    assert run.end.status == "partial"
    assert run.calls[-1].caller == "synthesizer"
    assert len(done) < len(plan)
    assert done.count("high") == 3
    assert done.count("low") == 0 or done.count("medium") == 3
    spent = sum(event.reply.usage.usd or 0.0 for event in run.calls)
    assert 0.75 * 0.2 < spent <= 0.2


async def test_a_model_learns_that_its_reply_has_to_be_short_where_the_budget_is() -> None:
    llm = FakeLLM(default=priced_by_length)
    llm.rates = DEAR_READING
    await driven(asked(*several(4), budget_usd=0.1, max_tokens=16_384), llm)
    for request in llm.requests[:-1]:
        assert request.max_tokens <= LEAST_REPLY
        (text,) = texts([request])
        assert f"reply in {request.max_tokens // 2} words at most" in text


async def test_a_budget_that_is_ample_shortens_no_reply() -> None:
    llm = FakeLLM(default=priced_by_length)
    llm.rates = DEAR_READING
    await driven(asked(*several(4), budget_usd=5, max_tokens=16_384), llm)
    assert {request.max_tokens for request in llm.requests} == {16_384}
    assert not any("words at most" in text for text in texts(llm.requests))


def amounts(*usd: float) -> dict[str, Amount]:
    return {f"s{number}": Amount(tokens=1, usd=each) for number, each in enumerate(usd, start=1)}


def test_a_budget_reaches_for_what_important_subtasks_depend_on() -> None:
    plan = [
        subtask("s1", priority="medium"),
        subtask("s2", priority="low"),
        subtask("s3", priority="high", depends_on=["s2"]),
    ]
    ample = Amount(tokens=10, usd=3)
    assert beyond(plan, amounts(1, 1, 1), ample) == frozenset()
    assert beyond(plan, amounts(1, 1, 1), Amount(tokens=10, usd=2)) == {"s1"}
    assert beyond(plan, amounts(1, 1, 1), Amount(tokens=10, usd=1)) == {"s1", "s3"}
    assert beyond(plan, amounts(1, 1, 1), Amount(tokens=2, usd=9)) == {"s1"}


async def test_money_held_for_the_answer_is_released_rather_than_turn_a_call_away() -> None:
    spending = Spending(Limits(budget_usd=2))
    held, least = Amount(tokens=0, usd=1.95), Amount(tokens=0, usd=1)
    spending.hold_back(held, least=lambda: least)
    assert await spend(spending, model({}), Usage(usd=0.1)) == 100
    with pytest.raises(BudgetError):
        await spend(spending, model({}), Usage(usd=0.9), max_tokens=1000)
    assert spending.left.usd == pytest.approx(2 - 0.1 - 1.85, abs=0.06)
