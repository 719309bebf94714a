"""Runs made anew with another plan, which take over what has not changed."""

import anyio
import pytest

from concertmaster.engine.plan.plan import Plan
from concertmaster.errors import BusyRunError, InvalidPlanError, RequestError, UnknownSubtaskError
from concertmaster.runs.orders import PlanOrder, RunOrder, WorkerOrder
from concertmaster.runs.service import RunService
from concertmaster.runs.state import RunState
from concertmaster.tools.inputs import InlineInput
from fakes import FakeLLM, plan_json, subtask
from services import Gate, service_in
from stores import Store

pytestmark = pytest.mark.anyio

CHAIN = plan_json(
    subtask("s1", inputs=["a"]),
    subtask("s2", "critic", depends_on=["s1"]),
    subtask("s3", "writer"),
)
ORDER = RunOrder(task="why?", inputs=(InlineInput(name="a", text="ALPHA"),))


async def over(service: RunService, state: RunState) -> RunState:
    with anyio.fail_after(60):
        return await service.wait(state.run_id, seconds=60)


async def finished(store: Store) -> RunState:
    async with service_in(store, {"planner": CHAIN}) as service:
        return await over(service, await service.start(ORDER))


def edited(state: RunState, name: str, **fields: object) -> Plan:
    assert state.plan is not None
    return state.plan.model_copy(
        update={
            "subtasks": tuple(
                item.model_copy(update=fields) if item.id == name else item
                for item in state.plan.subtasks
            )
        }
    )


async def test_an_edited_plan_runs_what_changed_and_what_depends_on_it(store: Store) -> None:
    first = await finished(store)
    llm = FakeLLM({"synthesizer": "otherwise"})
    async with service_in(store, llm=llm) as service:
        plan = edited(first, "s1", objective="look again", inputs=("a",))
        state = await over(service, await service.rerun(first.run_id, plan=plan))
        before = await service.get(first.run_id)
    assert state.run_id != first.run_id
    assert (state.status, state.answer) == ("succeeded", "otherwise")
    assert llm.callers() == ["worker:analyst", "worker:critic", "synthesizer"]
    assert "ALPHA" in llm.requests[0].shared
    assert list(state.reused) == ["s3"]
    assert state.usage.calls == 3
    assert before.answer == first.answer


async def test_from_a_subtask_on_everything_is_done_anew(store: Store) -> None:
    first = await finished(store)
    llm = FakeLLM()
    async with service_in(store, llm=llm) as service:
        state = await over(service, await service.rerun(first.run_id, redo=["s1"]))
    assert llm.callers() == ["worker:analyst", "worker:critic", "synthesizer"]
    assert list(state.reused) == ["s3"]


async def test_a_run_made_anew_takes_over_the_same_after_it_was_interrupted(
    store: Store,
) -> None:
    first = await finished(store)
    gate = Gate()
    async with service_in(store, {"worker:analyst": gate}) as service:
        again = await service.rerun(first.run_id, redo=["s1"])
        await gate.reached.wait()
    llm = FakeLLM()
    async with service_in(store, llm=llm) as service:
        await service.resume(again.run_id, by="test")
        state = await over(service, again)
    assert state.status == "succeeded"
    assert llm.callers() == ["worker:analyst", "worker:critic", "synthesizer"]


@pytest.mark.parametrize("statement", ["delete", "damage"])
async def test_without_the_earlier_run_everything_left_is_done(
    store: Store, statement: str
) -> None:
    first = await finished(store)
    gate = Gate()
    async with service_in(store, {"worker:writer": gate}) as service:
        again = await service.rerun(first.run_id, redo=["s1", "s3"])
        await gate.reached.wait()
    if statement == "delete":
        async with service_in(store) as service:
            await service.delete(first.run_id)
    else:
        store.change("UPDATE events SET data = '{}' WHERE run_id = ?", first.run_id)
    async with service_in(store) as service:
        await service.resume(again.run_id, by="test")
        assert (await over(service, again)).status == "succeeded"


async def test_what_cannot_be_run_anew_says_why(store: Store) -> None:
    first = await finished(store)
    gate = Gate()
    async with service_in(store, {"worker:analyst": gate, "planner": "no plan"}) as service:
        with pytest.raises(UnknownSubtaskError, match="Its subtasks: s1, s2, s3"):
            await service.rerun(first.run_id, redo=["s9"])
        with pytest.raises(InvalidPlanError, match='"b", which does not exist'):
            await service.rerun(first.run_id, plan=edited(first, "s1", inputs=("b",)))
        unplanned = await over(service, await service.start(RunOrder(task="why?")))
        with pytest.raises(RequestError, match="has no plan"):
            await service.rerun(unplanned.run_id, redo=["s1"])
        busy = await service.start(WorkerOrder(worker="analyst", task="think"))
        await gate.reached.wait()
        with pytest.raises(BusyRunError):
            await service.rerun(busy.run_id)
        gate.opened.set()
        await over(service, busy)
        with pytest.raises(RequestError, match="no plan to edit"):
            await service.rerun(busy.run_id)


async def test_a_plan_that_was_only_made_can_be_run_edited_or_not(store: Store) -> None:
    llm = FakeLLM({"planner": CHAIN})
    async with service_in(store, llm=llm) as service:
        order = PlanOrder(task=ORDER.task, inputs=ORDER.inputs)
        planned = await over(service, await service.start(order))
        assert planned.plan is not None
        as_it_is = await over(service, await service.rerun(planned.run_id, plan=planned.plan))
        plan = edited(planned, "s2", objective="do it otherwise")
        otherwise = await over(service, await service.rerun(planned.run_id, plan=plan))
    assert (as_it_is.request.kind, as_it_is.status) == ("orchestration", "succeeded")
    assert (otherwise.plan, otherwise.status) == (plan, "succeeded")
    assert llm.callers().count("planner") == 1


async def test_what_a_plan_had_to_leave_out_is_missing_from_a_run_of_it(store: Store) -> None:
    three = plan_json(*(subtask(f"s{number}") for number in (1, 2, 3)))
    async with service_in(store, {"planner": three}) as service:
        planned = await over(service, await service.start(PlanOrder(task="why?", max_subtasks=2)))
        assert planned.reasons
        again = await over(service, await service.rerun(planned.run_id))
    assert (again.status, again.request.plan_gaps) == ("partial", planned.reasons)
