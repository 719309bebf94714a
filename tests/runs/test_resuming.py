"""Runs that are taken up again, by the process that had them or by another."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from building import setup, worker
from concertmaster.engine.events import Event, RunResumed, RunStarted
from concertmaster.engine.request import RunRequest
from concertmaster.engine.steps import COMMIT_SECONDS
from concertmaster.errors import ModelUnavailableError, RequestError, StoreError, UnknownRunError
from concertmaster.llm.messages import Request
from concertmaster.runs import dispatch as takeover
from concertmaster.runs.dispatch import Takeover
from concertmaster.runs.intake import RunPolicy, folded
from concertmaster.runs.orders import Order, PlanOrder, RunOrder
from concertmaster.runs.service import RunService, open_service
from concertmaster.runs.state import MOST_DEATHS, RunState
from concertmaster.store.journal import RunRow
from concertmaster.store.postgres.connection import WRITE_SECONDS
from concertmaster.store.sqlite.store import PATIENCE_SECONDS, SqliteJournal, open_sqlite
from concertmaster.tools.inputs import InlineInput
from fakes import FakeLLM, Script, plan_json, reply_with, subtask
from services import FailingJournal, Gate, failing_service, service_in
from stores import Store

pytestmark = pytest.mark.anyio

TWO = plan_json(subtask("s1"), subtask("s2", "critic"))
BUSY = ModelUnavailableError("The provider is busy.")


WHY = RunOrder(task="why?")


def first_is_done(state: RunState) -> bool:
    return state.status == "running" and state.subtasks["s1"].status == "succeeded"


async def interrupted(place: Path | Store, order: Order = WHY) -> str:
    """Leave a run behind whose first subtask has succeeded and whose second has not."""
    gate = Gate()
    async with service_in(place, {"planner": TWO, "worker:critic": gate}) as service:
        run_id = (await service.start(order)).run_id
        await gate.reached.wait()
        while not first_is_done(await service.get(run_id)):
            await anyio.lowlevel.checkpoint()
    return run_id


async def over(service: RunService, run_id: str) -> RunState:
    with anyio.fail_after(60):
        return await service.wait(run_id, seconds=60)


async def test_an_interrupted_run_goes_on_in_another_process(store: Store) -> None:
    run_id = await interrupted(store)
    llm = FakeLLM({"synthesizer": "because"})
    async with service_in(store, llm=llm) as service:
        before = await service.get(run_id)
        state = await service.resume(run_id, by="test")
        assert (state.status, state.subtasks["s1"].status) == ("running", "succeeded")
        state = await over(service, run_id)
    assert (state.status, state.answer) == ("succeeded", "because")
    assert llm.callers() == ["worker:critic", "synthesizer"]
    assert state.usage.calls == before.usage.calls + 2
    assert state.resumed == 1


async def test_the_inputs_of_a_run_are_there_when_it_goes_on(store: Store) -> None:
    inputs = (InlineInput(name="a.txt", text="ALPHA"),)
    gate = Gate()
    plan = plan_json(subtask("s1", inputs=["a.txt"]))
    async with service_in(store, {"planner": plan, "worker:analyst": gate}) as service:
        run_id = (await service.start(RunOrder(task="why?", inputs=inputs))).run_id
        await gate.reached.wait()
    llm = FakeLLM()
    async with service_in(store, llm=llm) as service:
        await service.resume(run_id, by="test")
        await over(service, run_id)
    assert "ALPHA" in llm.requests[0].shared


async def test_a_cancelled_run_goes_on(store: Store) -> None:
    gate = Gate()
    async with service_in(store, {"planner": TWO, "worker:critic": gate}) as service:
        run_id = (await service.start(RunOrder(task="why?"))).run_id
        await gate.reached.wait()
        assert (await service.cancel(run_id, reason="enough")).status == "cancelled"
        gate.opened.set()
        state = await service.resume(run_id, by="test")
        assert (state.status, state.cancel_requested) == ("running", None)
        assert (await over(service, run_id)).status == "succeeded"
        assert (await service.trace(run_id)).attributes["resumed"]


async def test_a_run_that_is_being_cancelled_goes_on_once_it_has_stopped(tmp_path: Path) -> None:
    gate = Gate()

    async def stubborn(request: Request) -> str:
        with anyio.CancelScope(shield=True):
            await gate(request)
        return "done"

    async with service_in(tmp_path, {"planner": TWO, "worker:critic": stubborn}) as service:
        run_id = (await service.start(WHY)).run_id
        await gate.reached.wait()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: service.cancel(run_id, reason="enough"))
            while (await service.get(run_id)).cancel_requested is None:
                await anyio.lowlevel.checkpoint()
            tasks.start_soon(lambda: service.resume(run_id, by="test"))
            await anyio.wait_all_tasks_blocked()
            gate.opened.set()
        state = await over(service, run_id)
    assert (state.status, state.resumed) == ("succeeded", 1)


async def test_a_run_cancelled_from_elsewhere_is_not_cancelled_again_once_it_goes_on(
    store: Store,
) -> None:
    gate = Gate()
    async with (
        service_in(store, {"planner": TWO, "worker:critic": gate}) as owner,
        service_in(store) as other,
    ):
        run_id = (await owner.start(RunOrder(task="why?"))).run_id
        await gate.reached.wait()
        await other.cancel(run_id, reason="from elsewhere")
        gate.reached = anyio.Event()
        await owner.resume(run_id, by="test")
        await gate.reached.wait()
        # A commit of another process is what makes the owner look whether it is to stop.
        await other.start(PlanOrder(task="another"))
        state = await other.cancel(run_id, reason="once more")
        assert state.reasons == ("The run was cancelled: once more.",)


async def test_a_partial_run_keeps_its_answer_until_there_is_another(store: Store) -> None:
    scripts: dict[str, Script] = {
        "planner": TWO,
        "worker:critic": BUSY,
        "synthesizer": "half of it",
    }
    async with service_in(store, scripts) as service:
        run_id = (await service.start(RunOrder(task="why?"))).run_id
        assert (await over(service, run_id)).status == "partial"
    gate = Gate("the rest")
    async with service_in(store, {"worker:critic": gate, "synthesizer": "all of it"}) as service:
        await service.resume(run_id, by="test")
        await gate.reached.wait()
        state = await service.get(run_id)
        assert (state.answer, state.reasons) == ("half of it", ())
        state = await service.cancel(run_id, reason="enough")
        assert (state.status, state.answer) == ("cancelled", "half of it")
        gate.opened.set()
        await service.resume(run_id, by="test")
        state = await over(service, run_id)
    assert (state.status, state.answer) == ("succeeded", "all of it")


async def test_a_partial_result_stays_when_its_next_attempt_is_cancelled(store: Store) -> None:
    cut = FakeLLM({"planner": TWO, "worker:critic": reply_with("half", stop_reason="max_tokens")})
    async with service_in(store, llm=cut) as service:
        run_id = (await service.start(RunOrder(task="why?"))).run_id
        assert (await over(service, run_id)).status == "partial"
    gate = Gate()
    async with service_in(store, {"worker:critic": gate}) as service:
        await service.resume(run_id, by="test")
        await gate.reached.wait()
        state = await service.cancel(run_id, reason="enough")
        assert state.subtasks["s2"].status == "partial"
        assert (await service.result(run_id, "s2")).text == "half"


async def test_a_run_that_has_succeeded_stays_as_it_is(store: Store) -> None:
    async with service_in(store, {"planner": TWO}) as service:
        run_id = (await service.start(RunOrder(task="why?"))).run_id
        await over(service, run_id)
        state = await service.resume(run_id, by="test")
        assert (state.status, state.resumed) == ("succeeded", 0)
        with pytest.raises(UnknownRunError):
            await service.resume("r-nothing", by="test")


async def test_a_run_whose_worker_is_gone_says_so(store: Store) -> None:
    gate = Gate()
    plan = plan_json(subtask("s1", "poet"))
    async with service_in(
        store, {"planner": plan, "worker:poet": gate}, workers=[worker("poet")]
    ) as service:
        run_id = (await service.start(RunOrder(task="why?"))).run_id
        await gate.reached.wait()
    async with service_in(store) as service:
        with pytest.raises(RequestError, match="'poet'"):
            await service.resume(run_id, by="test")


async def test_a_run_that_was_cut_off_before_it_had_a_plan_is_planned(store: Store) -> None:
    gate = Gate()
    async with service_in(store, {"planner": gate}) as service:
        run_id = (await service.start(RunOrder(task="why?"))).run_id
        await gate.reached.wait()
    async with service_in(store, {"planner": TWO}) as service:
        assert (await service.resume(run_id, by="test")).status == "planning"
        assert (await over(service, run_id)).status == "succeeded"


async def test_a_run_under_way_is_left_as_it_is(store: Store) -> None:
    gate = Gate()
    async with (
        service_in(store, {"planner": TWO, "worker:critic": gate}) as owner,
        service_in(store) as other,
    ):
        run_id = (await owner.start(RunOrder(task="why?"))).run_id
        await gate.reached.wait()
        for service in (owner, other):
            state = await service.resume(run_id, by="test")
            assert (state.still, state.resumed) == (False, 0)
        gate.opened.set()
        assert (await over(owner, run_id)).status == "succeeded"


class Meanwhile(FailingJournal):
    """Lets something happen right before, or right after, events are first read."""

    before: Callable[[], Awaitable[object]] | None = None
    after: Callable[[], Awaitable[object]] | None = None

    async def events(self, run_id: str) -> Sequence[Event]:
        before, self.before = self.before, None
        if before is not None:
            await before()
        found = await super().events(run_id)
        after, self.after = self.after, None
        if after is not None:
            await after()
        return found


async def test_a_run_that_is_taken_up_while_it_is_looked_at_is_not_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await interrupted(tmp_path)
    async with (
        service_in(tmp_path, {"worker:critic": Gate()}) as other,
        failing_service(tmp_path, FakeLLM(), journal=Meanwhile) as service,
    ):
        take_up = partial(other.resume, run_id, by="other")
        monkeypatch.setattr(Meanwhile, "before", staticmethod(take_up))
        assert (await service.get(run_id)).status == "running"


async def test_a_run_that_is_taken_up_here_while_it_is_looked_at_is_not_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await interrupted(tmp_path)
    llm = FakeLLM({"worker:critic": Gate()})
    async with failing_service(tmp_path, llm, journal=Meanwhile) as service:
        take_up = partial(service.resume, run_id, by="test")
        monkeypatch.setattr(Meanwhile, "before", staticmethod(take_up))
        assert (await service.get(run_id)).status == "running"


async def test_a_run_that_ends_while_it_is_to_be_resumed_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await interrupted(tmp_path)
    async with (
        service_in(tmp_path) as other,
        failing_service(tmp_path, FakeLLM(), journal=Meanwhile) as service,
    ):

        async def finish() -> None:
            await other.resume(run_id, by="other")
            assert (await over(other, run_id)).status == "succeeded"

        monkeypatch.setattr(Meanwhile, "after", staticmethod(finish))
        state = await service.resume(run_id, by="test")
        assert (state.status, state.resumed) == ("succeeded", 1)


async def test_a_run_that_ended_elsewhere_can_be_taken_up_though_its_process_lives(
    store: Store,
) -> None:
    async with (
        service_in(store, {"planner": TWO, "worker:critic": BUSY}) as owner,
        service_in(store) as other,
    ):
        run_id = (await owner.start(RunOrder(task="why?"))).run_id
        assert (await over(owner, run_id)).status == "partial"
        await other.resume(run_id, by="test")
        assert (await over(other, run_id)).status == "succeeded"
        assert (await owner.get(run_id)).status == "succeeded"


@pytest.mark.parametrize("services", [1, 2])
async def test_of_many_who_resume_at_once_one_wins_and_the_others_follow(
    store: Store, services: int
) -> None:
    run_id = await interrupted(store)
    llm = FakeLLM()
    async with AsyncExitStack() as stack:
        opened = [
            await stack.enter_async_context(service_in(store, llm=llm)) for _ in range(services)
        ]

        async def resume(service: RunService) -> None:
            await service.resume(run_id, by="test")
            assert (await over(service, run_id)).status == "succeeded"

        await anyio.amap(resume, opened * 4)
    assert llm.callers() == ["worker:critic", "synthesizer"]


async def test_a_process_that_comes_back_cannot_write_to_a_run_that_another_took_over(
    store: Store,
) -> None:
    gate = Gate()
    async with service_in(store, {"planner": TWO, "worker:critic": gate}) as owner:
        run_id = (await owner.start(RunOrder(task="why?"))).run_id
        await gate.reached.wait()
        # Its own process is thought dead.
        store.change("UPDATE runs SET owner = 'dead'")
        async with service_in(store, {"planner": TWO}) as other:
            await other.resume(run_id, by="test")
            ended = await over(other, run_id)
            gate.opened.set()
            assert (await over(owner, run_id)).events == ended.events
            assert ended.status == "succeeded"


async def test_a_run_whose_journal_could_not_be_written_goes_on_once_it_can(
    tmp_path: Path,
) -> None:
    llm = FakeLLM({"planner": TWO})
    refused = ["subtask-finished"]
    async with failing_service(tmp_path, llm, refused) as service:
        run_id = (await service.start(RunOrder(task="why?"))).run_id
        assert (await over(service, run_id)).reasons == ("The run was given up. The disk is full.",)
        refused.clear()
        await service.resume(run_id, by="test")
        assert (await over(service, run_id)).status == "succeeded"


async def test_a_run_that_cannot_be_taken_over_stays_as_it_is(tmp_path: Path) -> None:
    run_id = await interrupted(tmp_path)
    async with failing_service(tmp_path, FakeLLM(), ("run-resumed",)) as service:
        with pytest.raises(StoreError):
            await service.resume(run_id, by="test")
        assert (await service.get(run_id)).status == "interrupted"


async def stopped_again(service: RunService, run_id: str, status: str) -> None:
    """Return once a run that a process has taken over is nobody's again."""
    with anyio.fail_after(60):
        while (await service.get(run_id)).status != status:
            await anyio.lowlevel.checkpoint()


async def test_a_run_that_cannot_go_on_where_it_was_taken_over_does_so_elsewhere(
    tmp_path: Path,
) -> None:
    run_id = await interrupted(tmp_path)
    async with (
        failing_service(tmp_path, FakeLLM(), blind_after_take_over=True) as service,
        service_in(tmp_path) as other,
    ):
        with pytest.raises(StoreError):
            await service.resume(run_id, by="test")
        await stopped_again(other, run_id, "interrupted")
        await other.resume(run_id, by="test")
        assert (await over(other, run_id)).status == "succeeded"


async def test_a_run_whose_cancellation_is_in_the_journal_is_cancelled_though_its_end_is_not_there(
    tmp_path: Path,
) -> None:
    run_id = await interrupted(tmp_path)
    async with (
        failing_service(tmp_path, FakeLLM(), ["run-ended"]) as service,
        service_in(tmp_path) as other,
    ):
        with pytest.raises(StoreError):
            await service.cancel(run_id, reason="enough")
        await stopped_again(other, run_id, "cancelled")
        assert (await other.cancel(run_id, reason="again")).reasons == (
            "The run was cancelled: enough.",
        )
        # Whoever takes up runs writes the end that is missing.
        await Takeover(other, by="test").look()
    async with open_sqlite(tmp_path) as journal:
        assert (await journal.events(run_id))[-1].kind == "run-ended"
        assert await journal.unfinished() == []


async def test_runs_of_dead_processes_are_taken_up_together(store: Store) -> None:
    first, second = await interrupted(store), await interrupted(store)
    async with service_in(store) as service:
        await Takeover(service, by="test").look()
        for run_id in (first, second):
            assert (await over(service, run_id)).status == "succeeded"


async def test_runs_of_processes_that_die_later_are_taken_up_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(takeover, "LOOK_SECONDS", 0)
    monkeypatch.setattr(takeover, "RETURN_SECONDS", 0)
    async with (
        failing_service(tmp_path, FakeLLM(), reads_refused=3) as service,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(Takeover(service, by="test").keep_on)
        run_id = await interrupted(tmp_path)
        with anyio.fail_after(60):
            while (await service.get(run_id)).status != "succeeded":
                await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    assert caplog.text.count("The disk is gone.") == 1


async def test_an_interrupted_run_that_is_cancelled_does_not_go_on_by_itself(store: Store) -> None:
    run_id = await interrupted(store)
    async with service_in(store) as service:
        await service.cancel(run_id, reason="enough")
        await Takeover(service, by="test").look()
        state = await over(service, run_id)
        assert (state.status, state.subtasks["s1"].status) == ("cancelled", "succeeded")
        assert "enough" in state.reasons[0]
        await service.resume(run_id, by="test")
        assert (await over(service, run_id)).status == "succeeded"


async def test_a_run_that_is_cut_off_time_and_again_is_not_taken_up_by_itself(
    store: Store,
) -> None:
    run_id = await interrupted(store)
    for _ in range(MOST_DEATHS + 2):
        async with service_in(store, {"worker:critic": Gate()}) as service:
            await Takeover(service, by="test").look()
    async with service_in(store) as service:
        state = await service.get(run_id)
        assert (state.status, state.resumed) == ("interrupted", MOST_DEATHS)


async def test_a_run_that_somebody_wants_to_go_on_is_taken_up_by_itself_again(
    store: Store,
) -> None:
    run_id = await interrupted(store)
    for _ in range(MOST_DEATHS):
        async with service_in(store, {"worker:critic": Gate()}) as service:
            await Takeover(service, by="test").look()
    gate = Gate()
    async with service_in(store, {"worker:critic": gate}) as service:
        await service.resume(run_id, by="a person")
        await gate.reached.wait()
    async with service_in(store) as service:
        await Takeover(service, by="test").look()
        assert (await over(service, run_id)).status == "succeeded"


def test_a_run_that_is_handed_over_goes_on_whatever_its_processes_died_of() -> None:
    start = RunStarted(name="run/start", at=0, request=RunRequest(task="why?"))
    life = RunResumed(name="run/resume/4", at=1, epoch=4, by="test", deaths=MOST_DEATHS)
    row = RunRow(run_id="r-1", created_at=0, epoch=4, alive=False, mine=False, attended=True)
    assert folded(row, [start, life]).status == "interrupted"
    assert folded(row, [start, life.model_copy(update={"deaths": 2})]).status == "queued"
    assert folded(replace(row, queued=True), [start, life]).status == "queued"


async def test_a_run_that_cannot_go_on_does_not_keep_others_from_it(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()
    plan = plan_json(subtask("s1", "poet"))
    async with service_in(
        store, {"planner": plan, "worker:poet": gate}, workers=[worker("poet")]
    ) as service:
        await service.start(RunOrder(task="why?"))
        await gate.reached.wait()
    run_id = await interrupted(store)
    async with service_in(store) as service:
        looking = Takeover(service, by="test")
        await looking.look()
        assert (await over(service, run_id)).status == "succeeded"
        await looking.look()
    assert caplog.text.count("'poet'") == 1


async def test_an_orphan_that_cannot_be_read_does_not_keep_others_from_going_on(
    store: Store,
) -> None:
    damaged, sound = await interrupted(store), await interrupted(store)
    store.change("UPDATE events SET data = '{}' WHERE run_id = ?", damaged)
    async with service_in(store) as service:
        await Takeover(service, by="test").look()
        assert (await over(service, sound)).status == "succeeded"


async def test_an_orphan_whose_inputs_are_gone_from_the_store_keeps_no_other_from_going_on(
    store: Store,
) -> None:
    damaged = RunOrder(task="why?", inputs=(InlineInput(name="a.txt", text="a text"),))
    await interrupted(store, damaged)
    sound = [await interrupted(store) for _ in range(2)]
    store.change("DELETE FROM texts")
    async with service_in(store) as service:
        looking = Takeover(service, by="test")
        for _ in range(2):
            with pytest.raises(StoreError, match="Give the inputs again"):
                await looking.look()
        for run_id in sound:
            assert (await over(service, run_id)).status == "succeeded"


async def test_a_journal_that_fails_meanwhile_leaves_no_run_alone_for_good(
    tmp_path: Path,
) -> None:
    run_id = await interrupted(tmp_path)
    refused = ["run-resumed"]
    async with failing_service(tmp_path, FakeLLM(), refused) as service:
        looking = Takeover(service, by="test")
        with pytest.raises(StoreError):
            await looking.look()
        refused.clear()
        await looking.look()
        assert (await over(service, run_id)).status == "succeeded"


async def test_a_store_that_comes_back_leaves_others_time_to_say_that_they_are_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(takeover, "RETURN_SECONDS", 0)

    class BackJournal(SqliteJournal):
        async def unfinished(self) -> Sequence[RunRow]:
            rows = await super().unfinished()
            if not asked:
                asked.append("in vain")
                raise StoreError("The store is away.")
            asked.append("in time")
            return [replace(row, alive=len(asked) != 2) for row in rows]

    asked: list[str] = []
    run_id = await interrupted(tmp_path)
    journal = BackJournal(tmp_path)
    async with (
        journal.committing(),
        open_service(journal=journal, setup=setup(FakeLLM()), policy=RunPolicy()) as service,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(Takeover(service, by="test").keep_on)
        with anyio.fail_after(60):
            while len(asked) < 5:
                await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
        assert (await service.get(run_id)).resumed == 0


async def test_a_run_begun_offline_does_not_go_on_with_a_model(store: Store) -> None:
    offline = FakeLLM({"planner": TWO, "worker:critic": Gate()})
    offline.notice = "There is no language model."
    async with service_in(store, llm=offline) as service:
        run_id = (await service.start(WHY)).run_id
    async with service_in(store) as service:
        with pytest.raises(RequestError, match="begun without a language model"):
            await service.resume(run_id, by="test")


def test_a_commit_is_waited_for_longer_than_the_store_takes_to_give_it_up() -> None:
    assert 2 * max(PATIENCE_SECONDS, WRITE_SECONDS) < COMMIT_SECONDS
