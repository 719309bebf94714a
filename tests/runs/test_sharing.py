"""Runs that several processes share: queued, taken up, handed back, stopped from elsewhere."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn

import anyio
import anyio.lowlevel
import pytest

from building import setup
from concertmaster.engine.events import Event
from concertmaster.engine.request import Origin
from concertmaster.errors import UnknownRunError
from concertmaster.llm.messages import Request
from concertmaster.runs import dispatch as takeover
from concertmaster.runs import executor as given_up
from concertmaster.runs.dispatch import Takeover
from concertmaster.runs.intake import RunPolicy
from concertmaster.runs.orders import RunOrder
from concertmaster.runs.service import RunService, open_service
from concertmaster.runs.state import RunState
from concertmaster.store import journal as looking
from concertmaster.store.journal import Reservation
from concertmaster.store.sqlite.store import SqliteJournal
from fakes import FakeLLM, plan_json, subtask
from services import Gate, failing_service
from stores import PostgresStore, SqliteStore, Store

pytestmark = pytest.mark.anyio

TWO = plan_json(subtask("s1"), subtask("s2", "critic"))
WHY = RunOrder(task="why?")


@asynccontextmanager
async def process(
    store: Store, llm: FakeLLM, *, here: int | None = None, in_all: int | None = None
) -> AsyncGenerator[RunService]:
    """Open the runs in a store as one process has them, with room for so many."""
    policy = RunPolicy(runs_here=here, runs_in_all=in_all)
    async with (
        store.open(works=here != 0) as journal,
        open_service(journal=journal, setup=setup(llm), policy=policy) as service,
    ):
        yield service


@asynccontextmanager
async def working(service: RunService) -> AsyncGenerator[None]:
    """Have a process take up what nobody has."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Takeover(service, by="test").keep_on)
        yield
        tasks.cancel_scope.cancel()


async def over(service: RunService, run_id: str) -> RunState:
    with anyio.fail_after(60):
        return await service.wait(run_id, seconds=60)


async def asked_again_and_again(service: RunService, run_id: str) -> NoReturn:
    while True:
        await service.get(run_id)
        await anyio.lowlevel.checkpoint()


async def test_a_run_that_is_only_accepted_is_done_by_another_process(store: Store) -> None:
    llm = FakeLLM({"planner": TWO, "synthesizer": "because"})
    async with process(store, FakeLLM(), here=0) as door, process(store, llm) as worker:
        state = await door.start(WHY)
        assert state.status == "queued"
        assert (await door.recent()).states[0].status == "queued"
        async with working(worker):
            state = await over(door, state.run_id)
    assert (state.status, state.answer, state.resumed) == ("succeeded", "because", 0)


async def test_many_runs_of_one_principal_do_not_hold_up_those_of_another(store: Store) -> None:
    done: list[str] = []

    def note(request: Request) -> str:
        done.append(request.run_id)
        return TWO

    ann, bob = Origin(principal="ann"), Origin(principal="bob")
    async with process(store, FakeLLM(), here=0) as door:
        many = [await door.start(WHY, origin=ann) for _ in range(3)]
        few = await door.start(WHY, origin=bob)
        async with process(store, FakeLLM({"planner": note}), here=1) as one, working(one):
            for state in (*many, few):
                await over(door, state.run_id)
    assert done.index(few.run_id) == 1


async def test_runs_beyond_the_room_of_a_process_wait_for_it(store: Store) -> None:
    gate = Gate()
    async with process(store, FakeLLM({"planner": gate}), here=1) as service, working(service):
        first = await service.start(WHY)
        await gate.reached.wait()
        second = await service.start(WHY)
        assert (first.status, second.status, service.room.load) == ("planning", "queued", 1)
        gate.opened.set()
        for state in (first, second):
            assert (await over(service, state.run_id)).over


async def test_no_more_runs_are_under_way_than_may_be_in_all(store: Store) -> None:
    gate = Gate()
    llm = FakeLLM({"planner": gate})
    async with process(store, llm, in_all=1) as one, process(store, llm, in_all=1) as two:
        first, second = await one.start(WHY), await two.start(WHY)
        async with working(one), working(two):
            await gate.reached.wait()
            with anyio.fail_after(60):
                while one.room.load + two.room.load != 1:
                    await anyio.lowlevel.checkpoint()
            gate.opened.set()
            for state in (first, second):
                assert (await over(one, state.run_id)).over


async def test_a_queued_run_is_cancelled_at_once(store: Store) -> None:
    async with process(store, FakeLLM(), here=0) as service:
        run_id = (await service.start(WHY)).run_id
        state = await service.cancel(run_id, reason="enough")
        assert (state.status, state.usage.calls) == ("cancelled", 0)
        assert "enough" in state.reasons[0]


async def test_a_queued_run_that_is_taken_up_meanwhile_is_cancelled_where_it_is(
    tmp_path: Path,
) -> None:
    gate = Gate()

    class SlowJournal(SqliteJournal):
        async def take_over(
            self,
            run_id: str,
            event: Event,
            *,
            epoch: int,
            queued: bool = False,
            most: int | None = None,
            reservation: Reservation | None = None,
        ) -> None:
            await worker.resume(run_id, by="test", here=True)
            await gate.reached.wait()
            await super().take_over(
                run_id, event, epoch=epoch, queued=queued, most=most, reservation=reservation
            )

    store, journal = SqliteStore(tmp_path), SlowJournal(tmp_path)
    async with (
        process(store, FakeLLM({"planner": gate})) as worker,
        journal.committing(),
        open_service(
            journal=journal, setup=setup(FakeLLM()), policy=RunPolicy(runs_here=0)
        ) as door,
    ):
        state = await door.start(WHY)
        state = await door.cancel(state.run_id, reason="enough")
        assert (state.status, worker.room.load) == ("cancelled", 0)


async def test_a_queued_run_can_be_resumed_by_who_has_room(store: Store) -> None:
    async with (
        process(store, FakeLLM(), here=0) as door,
        process(store, FakeLLM({"planner": TWO})) as worker,
    ):
        state = await door.start(WHY)
        assert (await door.resume(state.run_id, by="test")).status == "queued"
        await worker.resume(state.run_id, by="test")
        assert (await over(door, state.run_id)).status == "succeeded"


async def test_a_run_that_ended_waits_to_go_on_where_there_is_no_room(store: Store) -> None:
    async with process(store, FakeLLM(), here=0) as door:
        run_id = (await door.start(WHY)).run_id
        await door.cancel(run_id, reason="enough")
        assert (await door.resume(run_id, by="test")).status == "queued"


async def test_a_run_that_was_given_up_goes_on_in_its_own_process_once_it_can(
    tmp_path: Path,
) -> None:
    refused = ["subtask-finished"]
    async with failing_service(tmp_path, FakeLLM({"planner": TWO}), refused) as service:
        run_id = (await service.start(WHY)).run_id
        assert (await over(service, run_id)).status == "interrupted"
        refused.clear()
        await Takeover(service, by="test").look()
        assert (await over(service, run_id)).status == "succeeded"


async def test_a_run_that_was_given_up_can_be_cancelled_once_that_can_be_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(given_up, "RETRY_SECONDS", 60)
    refused = ["call-finished"]
    async with failing_service(tmp_path, FakeLLM({"planner": TWO}), refused) as service:
        run_id = (await service.start(WHY)).run_id
        assert (await over(service, run_id)).status == "interrupted"
        refused.clear()
        assert (await service.cancel(run_id, reason="enough")).status == "cancelled"


async def test_a_run_that_was_given_up_goes_on_in_another_process_and_its_own_tells_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(given_up, "RETRY_SECONDS", 0.001)
    refused = ["subtask-finished", "let-go"]
    llm = FakeLLM({"planner": TWO})
    async with (
        failing_service(tmp_path, llm, refused) as first,
        process(SqliteStore(tmp_path), FakeLLM()) as second,
    ):
        one, two = [(await first.start(WHY)).run_id for _ in range(2)]
        for run_id in (one, two):
            state = await over(first, run_id)
            assert (await second.get(run_id)).status == "running"
        refused.clear()
        assert (await over(second, one)).status == "interrupted"
        assert await first.get(two) == state
        await second.resume(one, by="test")
        assert (await over(second, one)).status == "succeeded"
        await second.wait(two, seconds=5)
        await second.delete(two)
        with anyio.fail_after(60):
            while (await first.get(one)).status != "succeeded":
                await anyio.lowlevel.checkpoint()
            with pytest.raises(UnknownRunError):
                await asked_again_and_again(first, two)


async def test_who_waits_hears_of_the_end_of_a_run_though_its_process_is_killed(
    shared: PostgresStore,
) -> None:
    gate = Gate()
    async with (
        process(shared, FakeLLM(), here=0) as door,
        process(shared, FakeLLM({"planner": TWO, "worker:critic": gate})) as first,
        process(shared, FakeLLM()) as second,
    ):
        run_id = (await door.start(WHY)).run_id
        await first.resume(run_id, by="first", here=True)
        await gate.reached.wait()
        async with working(second):
            shared.change("DELETE FROM processes WHERE process IN (SELECT owner FROM runs)")
            assert (await over(door, run_id)).status == "succeeded"


async def test_a_process_stops_what_another_has_taken_over(
    shared: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looking, "LIVENESS_SECONDS", 0.01)
    gate, again = Gate(), Gate()
    async with (
        process(shared, FakeLLM({"planner": TWO, "worker:critic": gate})) as first,
        process(shared, FakeLLM({"worker:critic": again})) as second,
    ):
        run_id = (await first.start(WHY)).run_id
        await gate.reached.wait()
        shared.change("DELETE FROM processes")
        await second.resume(run_id, by="second")
        await again.reached.wait()
        with anyio.fail_after(60):
            while first.room.load:
                await anyio.lowlevel.checkpoint()
        again.opened.set()
        assert (await over(first, run_id)).status == "succeeded"


async def test_a_busier_process_leaves_runs_to_the_others_for_a_while(
    shared: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(takeover, "PACE_SECONDS", 60)
    monkeypatch.setattr(takeover, "MOST_PACE_SECONDS", 60)
    first, second = Gate(), Gate()
    async with (
        process(shared, FakeLLM(), here=0) as door,
        process(shared, FakeLLM({"planner": first})) as one,
        process(shared, FakeLLM({"planner": second})) as two,
    ):
        await one.start(WHY)
        await first.reached.wait()
        with anyio.fail_after(60):
            while await one.room.lead() != 1:
                await anyio.lowlevel.checkpoint()
            async with working(one):
                await door.start(WHY)
                async with working(two):
                    await second.reached.wait()
        assert (one.room.load, two.room.load, await two.room.lead()) == (1, 1, 0)
