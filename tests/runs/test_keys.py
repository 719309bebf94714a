"""Orders with an idempotency key: however often they come, they are done once."""

from pathlib import Path

import anyio
import pytest

from concertmaster.errors import RequestError
from concertmaster.runs.orders import Order, PlanOrder, RunOrder, WorkerOrder
from concertmaster.tools.inputs import InlineInput
from fakes import FakeLLM, plan_json, subtask
from services import Gate, service_in
from stores import Store

pytestmark = pytest.mark.anyio

TWO = plan_json(subtask("s1"), subtask("s2", "critic"))


@pytest.mark.parametrize(
    "order",
    [
        RunOrder(task="why?", idempotency_key="a"),
        WorkerOrder(worker="analyst", task="why?", idempotency_key="a"),
    ],
)
async def test_an_order_with_the_key_of_another_gets_its_run(store: Store, order: Order) -> None:
    llm = FakeLLM({"planner": TWO})
    async with service_in(store, llm=llm) as service:
        first = await service.start(order)
        calls = (await service.wait(first.run_id, seconds=60)).usage.calls
        again = await service.start(order)
        assert (again.run_id, again.status) == (first.run_id, "succeeded")
    async with service_in(store, llm=llm) as service:
        assert (await service.start(order)).run_id == first.run_id
    assert len(llm.requests) == calls


@pytest.mark.parametrize("services", [1, 2])
async def test_of_orders_with_one_key_that_come_at_once_one_is_done(
    store: Store, services: int
) -> None:
    order = RunOrder(task="why?", idempotency_key="a")
    llm = FakeLLM({"planner": TWO})
    async with service_in(store, llm=llm) as one, service_in(store, llm=llm) as other:
        opened = [one, other][:services]
        states = await anyio.amap(lambda service: service.start(order), opened * 5)
        assert len({state.run_id for state in states}) == 1
        for service in opened:
            state = await service.wait(states[0].run_id, seconds=60)
            assert state.status == "succeeded"
        assert len((await one.recent()).states) == 1
    assert len(llm.requests) == 4


@pytest.mark.parametrize("key", ["\0", "\ud800", "".join(map(str, range(20_000)))])
async def test_any_text_is_a_key(store: Store, key: str) -> None:
    order = RunOrder(task="why?", idempotency_key=key)
    async with service_in(store, {"planner": TWO}) as service:
        first = await service.start(order)
        assert (await service.start(order)).run_id == first.run_id
        other = await service.start(RunOrder(task="why?", idempotency_key=f"{key}."))
        assert other.run_id != first.run_id


async def test_inputs_that_have_gone_keep_nobody_from_the_run_of_a_key(
    store: Store, tmp_path: Path
) -> None:
    file = tmp_path / "a.txt"
    file.write_text("ALPHA")
    order = RunOrder(task="why?", inputs=(str(file),), idempotency_key="a")
    async with service_in(store, {"planner": TWO}, roots=(tmp_path,)) as service:
        first = await service.start(order)
        file.unlink()
        assert (await service.start(order)).run_id == first.run_id


@pytest.mark.parametrize(
    "order",
    [
        RunOrder(task="why not?", idempotency_key="a"),
        PlanOrder(task="why?", idempotency_key="a"),
        WorkerOrder(worker="analyst", task="why?", idempotency_key="a"),
    ],
)
async def test_a_key_is_not_for_two_tasks(store: Store, order: Order) -> None:
    async with service_in(store, {"planner": TWO}) as service:
        first = await service.start(RunOrder(task="why?", idempotency_key="a"))
        with pytest.raises(RequestError, match=f"'a' belongs to run {first.run_id}"):
            await service.start(order)


async def test_a_key_is_not_for_two_workers(store: Store) -> None:
    async with service_in(store) as service:
        first = await service.start(WorkerOrder(worker="analyst", task="x", idempotency_key="a"))
        with pytest.raises(RequestError, match=f"{first.run_id}, which is for another worker"):
            await service.start(WorkerOrder(worker="critic", task="x", idempotency_key="a"))


async def test_the_task_of_a_plan_need_not_be_said_again_with_its_key(store: Store) -> None:
    async with service_in(store, {"planner": TWO}) as service:
        plan_id = (await service.start(PlanOrder(task="why?"))).run_id
        await service.wait(plan_id, seconds=60)
        order = RunOrder(plan_id=plan_id, idempotency_key="a")
        first = await service.start(order)
        assert (await service.start(order)).run_id == first.run_id


async def test_orders_without_a_key_are_all_done(store: Store) -> None:
    order = RunOrder(task="why?", inputs=(InlineInput(name="a", text="ALPHA"),))
    async with service_in(store, {"planner": Gate()}) as service:
        first, second = await service.start(order), await service.start(order)
    assert first.run_id != second.run_id
