"""Runs that go on with another budget than they had."""

from pathlib import Path

import anyio
import pytest
from pydantic import TypeAdapter

from concertmaster.engine.request import Limits
from concertmaster.errors import BusyRunError, RequestError
from concertmaster.llm.messages import Reply
from concertmaster.llm.pricing import Rates
from concertmaster.llm.usage import Usage
from concertmaster.runs.orders import RunOrder
from concertmaster.runs.service import RunService
from concertmaster.runs.state import RunState, sufficient_budget
from fakes import FakeLLM, Script, plan_json, reply_with, subtask
from services import Gate, service_in

pytestmark = pytest.mark.anyio

PLAN = plan_json(subtask("s1"), subtask("s2", "critic", depends_on=["s1"]))
ORDER = RunOrder(task="check it", budget_usd=4)


def dear(text: str = "done") -> Reply:
    """Return a reply that costs 2 USD."""
    return reply_with(text, usage=Usage(model="fake", calls=1, attempts=1, tokens_out=2000, usd=2))


def dear_llm(**scripts: Script) -> FakeLLM:
    usual = {"planner": PLAN, "worker:analyst": dear(), "worker:critic": dear()}
    llm = FakeLLM({**usual, **{name.replace("_", ":"): script for name, script in scripts.items()}})
    llm.rates = Rates(input=0, output=1000)
    return llm


async def over(service: RunService, state: RunState) -> RunState:
    with anyio.fail_after(60):
        return await service.wait(state.run_id, seconds=60)


async def cut_short(folder: Path) -> RunState:
    """Leave a run behind that could not pay for its second subtask."""
    async with service_in(folder, llm=dear_llm()) as service:
        state = await over(service, await service.start(ORDER))
    assert (state.status, state.subtasks["s2"].status) == ("partial", "skipped")
    return state


async def test_with_more_budget_a_run_does_what_it_could_not_pay_for(tmp_path: Path) -> None:
    state = await cut_short(tmp_path)
    budget_usd = sufficient_budget(state)
    assert budget_usd is not None
    llm = dear_llm()
    async with service_in(tmp_path, llm=llm) as service:
        await service.resume(state.run_id, by="test", budget_usd=budget_usd)
        state = await over(service, state)
        span = await service.trace(state.run_id)
    assert state.status == "succeeded"
    assert llm.callers() == ["worker:critic", "synthesizer"]
    assert state.request.limits.budget_usd == budget_usd
    assert state.usage.usd is not None
    assert 4 < state.usage.usd < budget_usd
    resumed = TypeAdapter(list[dict[str, object]]).validate_python(span.attributes["resumed"])
    assert [item["budget_usd"] for item in resumed] == [budget_usd]


async def test_with_the_same_budget_it_gets_no_further(tmp_path: Path) -> None:
    state = await cut_short(tmp_path)
    async with service_in(tmp_path, llm=dear_llm()) as service:
        await service.resume(state.run_id, by="test")
        assert (await over(service, state)).status == "partial"


async def test_the_budget_that_was_given_last_holds_after_a_second_crash(tmp_path: Path) -> None:
    state = await cut_short(tmp_path)
    for budget_usd in (15, 16):
        gate = Gate()
        async with service_in(tmp_path, llm=dear_llm(worker_critic=gate)) as service:
            await service.resume(state.run_id, by="test", budget_usd=budget_usd)
            await gate.reached.wait()
    async with service_in(tmp_path, llm=dear_llm()) as service:
        assert (await service.get(state.run_id)).status == "interrupted"
        await service.resume(state.run_id, by="test")
        state = await over(service, state)
    assert (state.status, state.request.limits.budget_usd) == ("succeeded", 16)


async def test_a_budget_that_is_spent_already_is_refused(tmp_path: Path) -> None:
    state = await cut_short(tmp_path)
    async with service_in(tmp_path, llm=dear_llm()) as service:
        with pytest.raises(RequestError, match=r"has spent 2\.0\d USD already"):
            await service.resume(state.run_id, by="test", budget_usd=2)
        assert (await service.get(state.run_id)).status == "partial"


async def test_no_run_goes_on_with_more_than_the_operator_allows(tmp_path: Path) -> None:
    state = await cut_short(tmp_path)
    async with service_in(tmp_path, llm=dear_llm()) as service:
        with pytest.raises(RequestError, match="at most 20"):
            await service.resume(state.run_id, by="test", budget_usd=21)
        with pytest.raises(RequestError, match="at most 20"):
            await service.rerun(state.run_id, redo=["s1"], budget_usd=21)


async def test_the_budget_of_a_run_under_way_stays_as_it_is(tmp_path: Path) -> None:
    gate = Gate()
    async with service_in(tmp_path, llm=dear_llm(worker_analyst=gate)) as service:
        state = await service.start(ORDER)
        await gate.reached.wait()
        with pytest.raises(BusyRunError):
            await service.resume(state.run_id, by="test", budget_usd=9)


async def test_a_run_made_anew_has_the_budget_that_is_given(tmp_path: Path) -> None:
    state = await cut_short(tmp_path)
    async with service_in(tmp_path, llm=dear_llm()) as service:
        again = await over(service, await service.rerun(state.run_id, budget_usd=14))
        like_before = await over(service, await service.rerun(state.run_id, redo=["s1"]))
    assert (again.status, again.request.limits.budget_usd) == ("succeeded", 14)
    assert like_before.request.limits.budget_usd == 4


async def test_a_budget_that_suffices_is_more_than_the_one_that_did_not(tmp_path: Path) -> None:
    state = await cut_short(tmp_path)
    state.request = state.request.with_budget(19)
    assert (sufficient_budget(state) or 0) > 19


async def test_no_budget_is_named_where_money_is_not_what_is_missing(tmp_path: Path) -> None:
    state = await cut_short(tmp_path)
    limits = Limits(budget_usd=7, budget_tokens=state.usage.new_tokens + 1)
    state.request = state.request.model_copy(update={"limits": limits})
    assert sufficient_budget(state) is None
    state.rest = None
    assert sufficient_budget(state) is None
