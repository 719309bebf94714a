"""Runs that take over what other runs have of the same subtask, where that is wanted."""

import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import anyio
import pytest

from concertmaster.engine.plan.plan import Plan
from concertmaster.engine.request import NOBODY, Limits, Origin
from concertmaster.errors import ModelUnavailableError
from concertmaster.replies.build import reused_line
from concertmaster.runs import executor as reuse
from concertmaster.runs.orders import RunOrder
from concertmaster.runs.service import RunService
from concertmaster.runs.state import RunState
from concertmaster.store.sqlite.schema import SELECT_OFFERING
from fakes import FakeLLM, Script, plan_json, subtask, texts
from services import service_in
from stores import SqliteStore, Store

pytestmark = pytest.mark.anyio

TWO = plan_json(subtask("s1"), subtask("s2", "critic"))
WHY = RunOrder(task="why?")
BOTH = {"worker:analyst", "worker:critic"}


async def over(service: RunService, origin: Origin = NOBODY, order: RunOrder = WHY) -> RunState:
    """Return where a run stands that has come to its end."""
    state = await service.start(order, origin=origin)
    with anyio.fail_after(60):
        return await service.wait(state.run_id, seconds=60)


@asynccontextmanager
async def reusing(
    store: Store, llm: FakeLLM | None = None, *, hours: float | None = 1
) -> AsyncGenerator[RunService]:
    async with service_in(
        store, llm=llm or FakeLLM({"planner": TWO}), reuse_hours=hours
    ) as service:
        yield service


def scripted(**scripts: Script) -> FakeLLM:
    return FakeLLM({"planner": TWO, **scripts})


async def test_a_run_takes_over_what_others_have_and_says_so(store: Store) -> None:
    async with reusing(store, hours=None) as service:
        first = await over(service)
    llm = scripted(synthesizer="because")
    async with reusing(store, llm) as service:
        state = await over(service)
        trace = await service.trace(state.run_id)
        third = await over(service)
    assert (state.status, state.answer) == ("succeeded", "because")
    assert BOTH.isdisjoint(llm.callers())
    assert reused_line(state) == f"s1, s2 from {first.run_id}; saved 2 calls, 0.02 USD."
    (span, _) = (span for span in trace.spans if span.kind == "subtask")
    assert span.attributes["taken_from"] == first.run_id
    assert "0.01" in str(span.attributes["saved"])
    assert reused_line(third) == reused_line(state)


async def test_what_was_made_without_a_failed_result_is_not_taken_over_once_that_is_there(
    store: Store,
) -> None:
    chain = plan_json(subtask("s1"), subtask("s2", "critic", depends_on=["s1"]))
    scripts: dict[str, Script] = {
        "planner": chain,
        "worker:critic": lambda request: f"with s1: {'GROUNDWORK' in texts([request])[0]}",
    }
    busy = ModelUnavailableError("The provider is busy.")
    async with reusing(store, FakeLLM(scripts | {"worker:analyst": busy})) as service:
        first = await over(service)
    assert (first.status, first.subtasks["s2"].status) == ("partial", "succeeded")
    llm = FakeLLM(scripts | {"worker:analyst": "GROUNDWORK"})
    async with reusing(store, llm) as service:
        await service.resume(first.run_id, by="test")
        with anyio.fail_after(60):
            resumed = await service.wait(first.run_id, seconds=60)
        second = await over(service)
    assert (resumed.status, second.status) == ("succeeded", "succeeded")
    for state in (resumed, second):
        result = state.subtasks["s2"].result
        assert result is not None
        assert result.text == "with s1: True"
    assert set(second.reused) == {"s1", "s2"}
    assert llm.callers().count("worker:critic") == 1


async def test_nothing_is_taken_over_unless_it_is_wanted(store: Store) -> None:
    llm = scripted()
    async with reusing(store, llm, hours=None) as service:
        await over(service)
        state = await over(service)
    assert state.reused == {}
    assert llm.callers().count("worker:critic") == 2


async def test_what_is_too_old_is_done_anew(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = scripted()
    async with reusing(store, llm) as service:
        await over(service)
        monkeypatch.setattr(reuse, "HOUR", -1)
        assert (await over(service)).reused == {}


async def test_what_one_principal_has_is_not_for_another(store: Store) -> None:
    ann, bob = Origin(principal="ann"), Origin(principal="bob")
    async with reusing(store) as service:
        await over(service, ann)
        for other in (bob, NOBODY):
            assert (await over(service, other)).reused == {}
        assert (await over(service, ann)).reused.keys() == {"s1", "s2"}


async def test_what_was_deleted_or_damaged_is_done_anew(store: Store) -> None:
    async with reusing(store) as service:
        first = await over(service)
        second = await over(service)
        await service.delete(first.run_id)
        third = await over(service)
        assert second.reused.keys() == {"s1", "s2"}
        assert third.reused == {}
        statement = "UPDATE events SET data = '{}' WHERE run_id = ? AND kind = 'run-started'"
        store.change(statement, third.run_id)
        assert (await over(service)).reused == {}


async def test_two_subtasks_of_one_run_that_are_the_same_are_both_done(store: Store) -> None:
    same = [subtask("s1", objective="look"), subtask("s2", objective="look")]
    order = RunOrder(task="why?", plan=Plan(subtasks=tuple(same)))
    llm = FakeLLM()
    async with service_in(store, llm=llm, limits=Limits(slots=1), reuse_hours=1) as service:
        assert (await over(service, order=order)).reused == {}
        assert llm.callers() == ["worker:analyst", "worker:analyst", "synthesizer"]
        assert (await over(service, order=order)).reused.keys() == {"s1", "s2"}


async def test_results_for_others_are_found_by_an_index(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    async with reusing(store) as service:
        await over(service)
    with closing(sqlite3.connect(tmp_path / "runs.db")) as connection:
        steps = connection.execute(f"EXPLAIN QUERY PLAN {SELECT_OFFERING}", ("f", 0.0, "", 3))
        assert any("USING INDEX events_by_offer" in detail for *_, detail in steps)
