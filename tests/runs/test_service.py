"""The run service over a real store in a temporary folder, with a model that follows a script."""

from collections.abc import Collection, Mapping
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from concertmaster.engine import steps
from concertmaster.engine.events import Event
from concertmaster.engine.plan.plan import Plan, read_plan
from concertmaster.engine.request import Limits
from concertmaster.errors import (
    InputError,
    ModelReplyError,
    RequestError,
    StoreError,
    UnknownRunError,
    UnknownSubtaskError,
    UnreadableRunError,
)
from concertmaster.llm.messages import Request
from concertmaster.llm.usage import NO_USAGE
from concertmaster.runs import service as service_module
from concertmaster.runs.orders import PlanOrder, RunOrder, WorkerOrder
from concertmaster.runs.state import RecentRuns
from concertmaster.store.journal import Outline, Reservation
from concertmaster.store.sqlite.store import open_sqlite
from concertmaster.tools.inputs import InlineInput
from fakes import USAGE, FakeLLM, plan_json, reply_with, subtask
from services import FailingJournal, Gate, change, failing_service, service_in

pytestmark = pytest.mark.anyio

TWO = plan_json(subtask("s1"), subtask("s2", "critic"))


async def test_a_run_goes_on_by_itself_and_can_be_waited_for(tmp_path: Path) -> None:
    async with service_in(tmp_path, {"planner": TWO, "synthesizer": "because"}) as service:
        started = await service.start(RunOrder(task="why?"))
        assert started.status == "planning"
        with anyio.fail_after(60):
            ended = await service.wait(started.run_id, seconds=60)
        assert (ended.status, ended.answer) == ("succeeded", "because")
        assert ended.usage.calls == 4


async def test_waiting_ends_after_its_time_and_the_run_goes_on(tmp_path: Path) -> None:
    gate = Gate()
    async with service_in(tmp_path, {"planner": gate}) as service:
        started = await service.start(RunOrder(task="why?"))
        state = await service.wait(started.run_id, seconds=0)
        assert state.status == "planning"
        gate.opened.set()


async def test_a_change_wakes_whoever_waits_for_one(tmp_path: Path) -> None:
    gate = Gate(TWO)
    async with service_in(tmp_path, {"planner": gate}) as service:
        started = await service.start(RunOrder(task="why?"))
        await gate.reached.wait()
        seen = (await service.get(started.run_id)).events
        gate.opened.set()
        with anyio.fail_after(60):
            changed = await service.wait_for_change(started.run_id, seen=seen, seconds=60)
        assert changed.events > seen


async def test_waiting_for_a_change_ends_after_its_time(tmp_path: Path) -> None:
    gate = Gate()
    async with service_in(tmp_path, {"planner": gate}) as service:
        started = await service.start(RunOrder(task="why?"))
        await gate.reached.wait()
        seen = (await service.get(started.run_id)).events
        state = await service.wait_for_change(started.run_id, seen=seen, seconds=0)
        assert state.events == seen


async def test_listeners_are_told_of_every_change(tmp_path: Path) -> None:
    heard: list[str] = []
    async with service_in(tmp_path, {"planner": TWO}) as service:
        service.on_change(heard.append)
        started = await service.start(RunOrder(task="why?"))
        state = await service.wait(started.run_id, seconds=60)
        assert set(heard) == {started.run_id}
        assert len(heard) >= state.events - 1


async def test_a_finished_run_can_be_read_after_its_process_has_ended(tmp_path: Path) -> None:
    async with service_in(tmp_path, {"planner": TWO, "synthesizer": "because"}) as service:
        run_id = (await service.start(RunOrder(task="why?"))).run_id
        before = await service.wait(run_id, seconds=60)
    async with service_in(tmp_path) as service:
        after = await service.get(run_id)
        assert (after.status, after.answer, after.usage) == (
            before.status,
            before.answer,
            before.usage,
        )
        assert (await service.result(run_id, "s2")).text == "done"
        (recent,) = (await service.recent()).states
        assert (recent.run_id, recent.usage) == (run_id, before.usage)
        assert (await service.trace(run_id)).name.startswith("invoke_workflow")


async def test_a_run_whose_process_ended_is_interrupted_and_keeps_what_was_finished(
    tmp_path: Path,
) -> None:
    gate = Gate()
    async with service_in(tmp_path, {"planner": TWO, "worker:critic": gate}) as service:
        run_id = (await service.start(RunOrder(task="why?"))).run_id
        await gate.reached.wait()
        while (await service.get(run_id)).subtasks["s1"].status != "succeeded":
            await anyio.lowlevel.checkpoint()
    async with service_in(tmp_path) as service:
        state = await service.get(run_id)
        assert state.status == "interrupted"
        assert state.subtasks["s1"].status == "succeeded"
        assert (await service.wait(run_id, seconds=60)).status == "interrupted"
        assert (await service.recent()).states[0].status == "interrupted"


async def test_cancelling_stops_a_run_and_keeps_what_is_finished(tmp_path: Path) -> None:
    gate = Gate()
    plan = plan_json(subtask("s1"), subtask("s2", "critic"), subtask("s3", depends_on=["s2"]))
    async with service_in(tmp_path, {"planner": plan, "worker:critic": gate}) as service:
        run_id = (await service.start(RunOrder(task="why?"))).run_id
        await gate.reached.wait()
        while (await service.get(run_id)).subtasks["s1"].status != "succeeded":
            await anyio.lowlevel.checkpoint()
        state = await service.cancel(run_id, reason="enough")
        assert state.status == "cancelled"
        assert "enough" in state.reasons[0]
        statuses = [item.status for item in state.subtasks.values()]
        assert statuses == ["succeeded", "cancelled", "cancelled"]
        assert (await service.cancel(run_id, reason="again")).reasons == state.reasons


async def test_a_run_cancelled_while_it_is_planned_has_no_subtasks(tmp_path: Path) -> None:
    gate = Gate()
    async with service_in(tmp_path, {"planner": gate}) as service:
        run_id = (await service.start(RunOrder(task="why?"))).run_id
        await gate.reached.wait()
        state = await service.cancel(run_id, reason="enough")
        assert (state.status, state.subtasks) == ("cancelled", {})


async def test_another_process_can_watch_and_cancel_a_run(tmp_path: Path) -> None:
    gate = Gate()
    async with (
        service_in(tmp_path, {"worker:critic": gate}) as owner,
        service_in(tmp_path) as other,
    ):
        run_id = (await owner.start(RunOrder(task="why?", plan=read_plan(TWO)))).run_id
        await gate.reached.wait()
        with anyio.fail_after(60):
            assert (await other.get(run_id)).status == "running"
            assert (await other.recent()).states[0].status == "running"
            state = await other.cancel(run_id, reason="from elsewhere")
        assert state.status == "cancelled"
        assert "from elsewhere" in state.reasons[0]


async def test_another_process_sees_a_run_end(tmp_path: Path) -> None:
    gate = Gate("because")
    async with (
        service_in(tmp_path, {"planner": TWO, "synthesizer": gate}) as owner,
        service_in(tmp_path) as other,
    ):
        run_id = (await owner.start(RunOrder(task="why?"))).run_id
        await gate.reached.wait()
        async with anyio.create_task_group() as tasks:

            async def wait() -> None:
                assert (await other.wait(run_id, seconds=60)).answer == "because"

            tasks.start_soon(wait)
            gate.opened.set()


async def test_a_plan_is_kept_and_can_be_run_with_the_inputs_it_was_made_for(
    tmp_path: Path,
) -> None:
    llm = FakeLLM({"planner": plan_json(subtask("s1", inputs=["a.txt"]))})
    inputs = (InlineInput(name="a.txt", text="ALPHA"),)
    async with service_in(tmp_path, llm=llm) as service:
        planned = await service.start(PlanOrder(task="why?", inputs=inputs))
        planned = await service.wait(planned.run_id, seconds=60)
        assert (planned.status, len(planned.subtasks)) == ("succeeded", 1)
        assert planned.subtasks["s1"].status == "pending"
        started = await service.start(RunOrder(plan_id=planned.run_id))
        state = await service.wait(started.run_id, seconds=60)
        assert (state.status, state.request.task) == ("succeeded", "why?")
    assert llm.callers() == ["planner", "worker:analyst"]
    assert "ALPHA" in llm.requests[-1].shared


@pytest.mark.parametrize(("asked", "expected"), [(None, 0.75), (1.5, 1.5)])
async def test_a_plan_is_run_with_the_budget_it_was_made_for_unless_another_is_asked_for(
    asked: float | None, expected: float, tmp_path: Path
) -> None:
    async with service_in(tmp_path, {"planner": plan_json(subtask("s1"))}) as service:
        planned = await service.start(PlanOrder(task="why?", budget_usd=0.75))
        await service.wait(planned.run_id, seconds=60)
        started = await service.start(RunOrder(plan_id=planned.run_id, budget_usd=asked))
        state = await service.wait(started.run_id, seconds=60)
        assert state.request.limits.budget_usd == expected


async def test_a_plan_id_with_a_task_of_its_own_is_refused(tmp_path: Path) -> None:
    async with service_in(tmp_path) as service:
        with pytest.raises(RequestError, match="leave out"):
            await service.start(RunOrder(plan_id="r-1", task="another"))


async def test_a_plan_that_was_never_made_is_not_run(tmp_path: Path) -> None:
    async with service_in(tmp_path, {"planner": "no plan"}) as service:
        planned = await service.start(PlanOrder(task="why?"))
        await service.wait(planned.run_id, seconds=60)
        with pytest.raises(RequestError, match="has no plan"):
            await service.start(RunOrder(plan_id=planned.run_id))


async def test_files_under_the_roots_reach_the_worker(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("ALPHA")
    llm = FakeLLM()
    async with service_in(tmp_path / "data", llm=llm, roots=(tmp_path,)) as service:
        order = WorkerOrder(worker="analyst", task="read it", inputs=("a.txt",))
        started = await service.start(order)
        await service.wait(started.run_id, seconds=60)
    assert "ALPHA" in llm.requests[0].shared


async def test_a_run_and_those_like_it_tell_what_was_left_out_of_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.txt").write_text("ALPHA")
    (folder / "b.xlsx").write_text("no spreadsheet")
    async with service_in(tmp_path / "data", {"planner": TWO}, roots=(folder,)) as service:
        planned = await service.start(PlanOrder(task="why?", inputs=(".",)))
        await service.wait(planned.run_id, seconds=60)
        run = await service.start(RunOrder(plan_id=planned.run_id))
        await service.wait(run.run_id, seconds=60)
        again = await service.rerun(run.run_id, redo=["s2"])
        for run_id in (planned.run_id, run.run_id, again.run_id):
            (warning,) = (await service.get(run_id)).warnings
            assert warning.startswith("Left out: Input 'b.xlsx': it is no spreadsheet")


async def test_the_answer_and_the_results_of_a_run_can_be_inputs_of_another(
    tmp_path: Path,
) -> None:
    llm = FakeLLM({"planner": TWO, "worker:critic": "the critique", "synthesizer": "because"})
    async with service_in(tmp_path, llm=llm) as service:
        first = await service.start(RunOrder(task="why?"))
        await service.wait(first.run_id, seconds=60)
        uris = (f"runs://{first.run_id}/answer", f"runs://{first.run_id}/subtasks/s2")
        second = await service.start(WorkerOrder(worker="writer", task="write", inputs=uris))
        await service.wait(second.run_id, seconds=60)
    assert "because" in llm.requests[-1].shared
    assert "the critique" in llm.requests[-1].shared


@pytest.mark.parametrize("path", ["plan", "", "subtasks", "answer/x"])
async def test_other_parts_of_a_run_are_no_inputs(tmp_path: Path, path: str) -> None:
    async with service_in(tmp_path) as service:
        order = RunOrder(task="t", inputs=(f"runs://r-1/{path}",))
        with pytest.raises(InputError, match="can be inputs"):
            await service.start(order)


async def test_a_run_without_an_answer_is_no_input_yet(tmp_path: Path) -> None:
    gate = Gate()
    async with service_in(tmp_path, {"planner": gate}) as service:
        first = await service.start(RunOrder(task="why?"))
        order = RunOrder(task="t", inputs=(f"runs://{first.run_id}/answer",))
        with pytest.raises(InputError, match="Wait for it"):
            await service.start(order)


async def test_an_order_that_cannot_be_done_leaves_nothing_behind(tmp_path: Path) -> None:
    async with service_in(tmp_path) as service:
        with pytest.raises(RequestError):
            await service.start(RunOrder(task=""))
        assert await service.recent() == RecentRuns()


async def test_unknown_runs_and_subtasks_are_named(tmp_path: Path) -> None:
    async with service_in(tmp_path, {"planner": TWO}) as service:
        with pytest.raises(UnknownRunError):
            await service.get("r-nothing")
        with pytest.raises(UnknownRunError):
            await service.cancel("r-nothing", reason="x")
        run_id = (await service.start(RunOrder(task="why?"))).run_id
        await service.wait(run_id, seconds=60)
        with pytest.raises(UnknownSubtaskError) as caught:
            await service.result(run_id, "s9")
        assert "s1, s2" in str(caught.value)


async def test_a_subtask_that_has_not_ended_tells_where_it_stands(tmp_path: Path) -> None:
    gate = Gate()
    async with service_in(tmp_path, {"planner": TWO, "worker:critic": gate}) as service:
        run_id = (await service.start(RunOrder(task="why?"))).run_id
        await gate.reached.wait()
        assert (await service.result(run_id, "s2")).status == "running"


async def test_runs_under_way_are_among_the_latest(tmp_path: Path) -> None:
    gate = Gate()
    async with service_in(tmp_path, {"planner": gate}) as service:
        await service.start(RunOrder(task="why?"))
        assert [state.status for state in (await service.recent()).states] == ["planning"]


async def test_the_notice_of_the_model_is_part_of_every_run(tmp_path: Path) -> None:
    llm = FakeLLM({"planner": plan_json(direct_answer="42")})
    llm.notice = "No language model was used."
    async with service_in(tmp_path, llm=llm) as service:
        assert service.notice == llm.notice
        run_id = (await service.start(RunOrder(task="why?"))).run_id
        assert (await service.wait(run_id, seconds=60)).notice == llm.notice
    async with service_in(tmp_path) as service:
        assert (await service.get(run_id)).notice == llm.notice


async def test_a_failed_call_s_cost_is_in_the_state(tmp_path: Path) -> None:
    cut = reply_with("half", stop_reason="max_tokens")
    async with service_in(
        tmp_path, {"planner": plan_json(subtask("s1")), "worker:analyst": cut}
    ) as s:
        run_id = (await s.start(RunOrder(task="why?"))).run_id
        state = await s.wait(run_id, seconds=60)
        assert state.usage.calls == 3
        assert state.by_model["fake"].tokens_in == 300


async def test_the_latest_runs_are_read_in_one_go(tmp_path: Path) -> None:
    asked: list[Collection[str]] = []

    class Counted(FailingJournal):
        async def outlines(self, run_ids: Collection[str]) -> Mapping[str, Outline]:
            asked.append(run_ids)
            return await super().outlines(run_ids)

    gate = Gate()
    llm = FakeLLM({"planner": TWO, "worker:writer": gate})
    async with failing_service(tmp_path, llm, journal=Counted) as service:
        for _ in range(3):
            state = await service.start(RunOrder(task="why?"))
            await service.wait(state.run_id, seconds=60)
        await service.start(WorkerOrder(worker="writer", task="write"))
        assert len((await service.recent()).states) == 4
    assert [len(run_ids) for run_ids in asked] == [3]


async def test_many_runs_at_once_all_end(tmp_path: Path) -> None:
    async with service_in(tmp_path, {"planner": TWO}) as service:
        runs = [(await service.start(RunOrder(task=f"{n}?"))).run_id for n in range(30)]
        with anyio.fail_after(60):
            for run_id in runs:
                assert (await service.wait(run_id, seconds=60)).status == "succeeded"
        assert len((await service.recent(limit=50)).states) == 30


async def test_an_internal_error_ends_the_run_as_failed_and_harms_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with service_in(tmp_path, {"planner": ZeroDivisionError()}) as service:
        run_id = (await service.start(RunOrder(task="why?"))).run_id
        state = await service.wait(run_id, seconds=60)
        assert state.status == "failed"
        assert "internal error" in state.reasons[0]
        assert "run broke" in caplog.text
        again = await service.start(WorkerOrder(worker="analyst", task="t"))
        assert (await service.wait(again.run_id, seconds=60)).status == "succeeded"


@pytest.mark.parametrize("refused", [("call-finished",), ("subtask-finished",), ("run-ended",)])
async def test_a_run_that_cannot_be_recorded_is_given_up_with_the_reason(
    tmp_path: Path, refused: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    async with failing_service(tmp_path, FakeLLM({"planner": TWO}), refused) as service:
        run_id = (await service.start(RunOrder(task="why?"))).run_id
        with anyio.fail_after(60):
            state = await service.wait(run_id, seconds=60)
        assert state.status == "interrupted"
        assert state.reasons == ("The run was given up. The disk is full.",)
        assert await service.get(run_id) == state
        assert (await service.recent()).states == (state,)
        assert "Traceback" not in caplog.text


async def test_a_call_whose_commit_failed_is_charged_all_the_same(tmp_path: Path) -> None:
    async with failing_service(tmp_path, FakeLLM({"planner": TWO}), ("call-finished",)) as service:
        run_id = (await service.start(RunOrder(task="why?"))).run_id
        with anyio.fail_after(60):
            state = await service.wait(run_id, seconds=60)
        assert state.usage == USAGE


async def test_a_failed_call_whose_commit_failed_is_charged_all_the_same(tmp_path: Path) -> None:
    llm = FakeLLM({"planner": ModelReplyError("odd", usage=USAGE)})
    async with failing_service(tmp_path, llm, ("call-failed",)) as service:
        run_id = (await service.start(RunOrder(task="why?"))).run_id
        with anyio.fail_after(60):
            state = await service.wait(run_id, seconds=60)
        assert (state.status, state.usage) == ("interrupted", USAGE)


async def test_a_run_that_breaks_and_cannot_be_recorded_is_given_up(tmp_path: Path) -> None:
    llm = FakeLLM({"planner": ZeroDivisionError()})
    async with failing_service(tmp_path, llm, ("run-ended",)) as service:
        run_id = (await service.start(RunOrder(task="why?"))).run_id
        with anyio.fail_after(60):
            state = await service.wait(run_id, seconds=60)
        assert (state.status, state.reasons) == (
            "interrupted",
            ("The run was given up. The disk is full.",),
        )


@pytest.mark.parametrize("refused", [("cancel-requested",), ("cancel-requested", "run-ended")])
async def test_a_run_stops_though_nobody_can_write_down_that_it_was_cancelled(
    tmp_path: Path, refused: tuple[str, ...]
) -> None:
    gate = Gate()
    async with failing_service(tmp_path, FakeLLM({"planner": gate}), refused) as service:
        run_id = (await service.start(RunOrder(task="why?"))).run_id
        await gate.reached.wait()
        with anyio.fail_after(60):
            state = await service.cancel(run_id, reason="enough")
        assert state.still
        assert state.reasons


async def test_a_run_stops_though_whoever_cancelled_it_walks_away(tmp_path: Path) -> None:
    gate = Gate()
    async with service_in(tmp_path, {"planner": gate}) as service:
        run_id = (await service.start(RunOrder(task="why?"))).run_id
        await gate.reached.wait()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await service.cancel(run_id, reason="enough")
        with anyio.fail_after(60):
            state = await service.wait(run_id, seconds=60)
        assert (state.status, state.cancel_requested) == ("cancelled", "enough")


async def test_a_cancelled_run_that_is_slow_to_stop_is_cancelled_though_its_process_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "CANCEL_SECONDS", 0)
    reached, closing, let_go = anyio.Event(), anyio.Event(), anyio.Event()

    async def plan(_: Request) -> str:
        reached.set()
        with anyio.CancelScope(shield=True), anyio.fail_after(60):
            await let_go.wait()
        return TWO

    async def stop_when_closing() -> None:
        await closing.wait()
        let_go.set()

    async with (
        anyio.create_task_group() as tasks,
        service_in(tmp_path, {"planner": plan}) as service,
    ):
        tasks.start_soon(stop_when_closing)
        run_id = (await service.start(RunOrder(task="why?"))).run_id
        await reached.wait()
        state = await service.cancel(run_id, reason="enough")
        assert (state.status, state.displayed_status) == ("planning", "cancelling")
        async with service_in(tmp_path) as other:
            assert (await other.get(run_id)).displayed_status == "cancelling"
        closing.set()
    async with open_sqlite(tmp_path) as journal:
        (row,) = await journal.recent(1)
        assert (await journal.events(row.run_id))[-1].kind == "run-ended"
    async with service_in(tmp_path) as service:
        assert (await service.get(row.run_id)).status == "cancelled"


async def test_a_run_can_be_cancelled_before_it_has_begun_to_work(tmp_path: Path) -> None:
    async with service_in(tmp_path) as service:
        run_id = (await service.start(RunOrder(task="why?"))).run_id
        with anyio.fail_after(60):
            state = await service.cancel(run_id, reason="enough")
        assert (state.status, state.usage) == ("cancelled", NO_USAGE)


async def test_a_run_goes_on_from_an_event_whose_commit_takes_too_long_to_wait_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class SlowJournal(FailingJournal):
        async def append(self, run_id: str, event: Event, *, epoch: int, wait: bool = True) -> None:
            slow = event.kind == "plan-accepted"
            await super().append(run_id, event, epoch=epoch, wait=wait and not slow)
            if slow:
                await anyio.sleep_forever()

    monkeypatch.setattr(steps, "COMMIT_SECONDS", 0.01)
    async with failing_service(tmp_path, FakeLLM({"planner": TWO}), journal=SlowJournal) as service:
        run_id = (await service.start(RunOrder(task="why?"))).run_id
        with anyio.fail_after(60):
            state = await service.wait(run_id, seconds=60)
        assert (state.status, list(state.subtasks)) == ("succeeded", ["s1", "s2"])


async def test_a_run_that_vanishes_from_the_journal_is_given_up_and_harms_no_other(
    tmp_path: Path,
) -> None:
    gate = Gate(TWO)
    async with service_in(tmp_path, {"planner": gate}) as service:
        run_id = (await service.start(RunOrder(task="why?"))).run_id
        await gate.reached.wait()
        change(tmp_path, "DELETE FROM runs")
        gate.opened.set()
        with anyio.fail_after(60):
            state = await service.wait(run_id, seconds=60)
        assert state.status == "interrupted"
        assert "given up" in state.reasons[0]
        again = await service.start(WorkerOrder(worker="analyst", task="t"))
        assert (await service.wait(again.run_id, seconds=60)).status == "succeeded"


async def test_of_a_run_that_another_process_took_over_the_journal_tells_all(
    tmp_path: Path,
) -> None:
    gate = Gate(TWO)
    async with service_in(tmp_path, {"planner": gate}) as service:
        run_id = (await service.start(RunOrder(task="why?"))).run_id
        await gate.reached.wait()
        change(tmp_path, "UPDATE runs SET epoch = 2")
        gate.opened.set()
        with anyio.fail_after(60):
            state = await service.wait(run_id, seconds=60)
        assert (state.status, state.usage) == ("interrupted", NO_USAGE)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("UPDATE events SET data = '{}'", "is damaged"),
        ("UPDATE events SET version = 99", "newer Concertmaster"),
        ("DELETE FROM events", "does not begin with its start"),
        ("DELETE FROM events WHERE seq = 1", "does not begin with its start"),
        (
            "DELETE FROM events WHERE kind IN ('subtask-drafted', 'plan-accepted')",
            "of a subtask that no plan has",
        ),
    ],
)
async def test_one_run_that_cannot_be_read_is_named_and_the_others_are_listed(
    tmp_path: Path, damage: str, said: str
) -> None:
    async with service_in(tmp_path, {"planner": TWO}) as service:
        bad = (await service.start(RunOrder(task="why?"))).run_id
        await service.wait(bad, seconds=60)
        change(tmp_path, damage)
        good = (await service.start(RunOrder(task="why?"))).run_id
        await service.wait(good, seconds=60)
        recent = await service.recent()
        assert [state.run_id for state in recent.states] == [good]
        (sentence,) = recent.unreadable
        assert sentence.startswith(f"Run {bad} cannot be read")
        assert said in sentence
        for ask in (service.get, service.trace):
            with pytest.raises(UnreadableRunError):
                await ask(bad)


async def test_a_run_is_listed_as_under_way_from_the_moment_it_is_in_the_journal(
    tmp_path: Path,
) -> None:
    class SlowJournal(FailingJournal):
        async def create(
            self,
            run_id: str,
            event: Event,
            texts: Mapping[str, str],
            *,
            key: str = "",
            queued: bool = False,
            reservation: Reservation | None = None,
        ) -> None:
            await super().create(
                run_id, event, texts, key=key, queued=queued, reservation=reservation
            )
            (state,) = (await service.recent()).states
            seen.append(state.status)

    seen: list[str] = []
    async with failing_service(tmp_path, FakeLLM(), journal=SlowJournal) as service:
        await service.start(RunOrder(task="why?"))
    assert seen == ["planning"]


async def test_a_run_that_could_not_be_created_is_not_there(tmp_path: Path) -> None:
    class FullJournal(FailingJournal):
        async def create(
            self,
            run_id: str,
            event: Event,
            texts: Mapping[str, str],
            *,
            key: str = "",
            queued: bool = False,
            reservation: Reservation | None = None,
        ) -> None:
            ids.append(run_id)
            raise StoreError(f"No room for {event.name}, {key}, {queued}, {reservation}, {texts}.")

    ids: list[str] = []
    async with failing_service(tmp_path, FakeLLM(), journal=FullJournal) as service:
        with pytest.raises(StoreError):
            await service.start(RunOrder(task="why?"))
        with pytest.raises(UnknownRunError):
            await service.get(ids[0])


async def test_a_run_that_could_not_be_created_leaves_its_room_to_others(tmp_path: Path) -> None:
    class SlowJournal(FailingJournal):
        async def create(
            self,
            run_id: str,
            event: Event,
            texts: Mapping[str, str],
            *,
            key: str = "",
            queued: bool = False,
            reservation: Reservation | None = None,
        ) -> None:
            creating.set()
            await full.wait()
            raise StoreError(
                f"No room for {run_id}, {event.name}, {key}, {queued}, {reservation}, {texts}."
            )

    async def start() -> None:
        with pytest.raises(StoreError):
            await service.start(RunOrder(task="why?"))

    creating, full = anyio.Event(), anyio.Event()
    async with (
        failing_service(tmp_path, FakeLLM(), journal=SlowJournal) as service,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(start)
        await creating.wait()
        with anyio.fail_after(60):
            async with anyio.create_task_group() as waiting:
                waiting.start_soon(service.room.idle)
                await anyio.lowlevel.checkpoint()
                full.set()


async def test_a_run_that_cannot_be_read_keeps_no_other_from_being_cancelled_from_elsewhere(
    tmp_path: Path,
) -> None:
    gates = Gate(), Gate()
    waiting = iter(gates)
    llm = FakeLLM({"planner": lambda request: next(waiting)(request)})
    async with service_in(tmp_path, llm=llm) as owner, service_in(tmp_path) as other:
        bad = (await owner.start(RunOrder(task="why?"))).run_id
        await gates[0].reached.wait()
        good = (await owner.start(RunOrder(task="why?"))).run_id
        await gates[1].reached.wait()
        change(tmp_path, "UPDATE events SET version = 99 WHERE run_id = ?", bad)
        with anyio.fail_after(60):
            assert (await other.cancel(good, reason="enough")).status == "cancelled"


async def test_a_cancel_from_elsewhere_is_seen_though_the_store_could_not_be_read_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()
    llm = FakeLLM({"planner": gate})
    async with (
        failing_service(tmp_path, llm, reads_refused=1) as owner,
        service_in(tmp_path) as other,
    ):
        run_id = (await owner.start(RunOrder(task="why?"))).run_id
        await gate.reached.wait()
        with anyio.fail_after(60):
            state = await other.cancel(run_id, reason="from elsewhere")
        assert state.status == "cancelled"
    assert "store not looked at" in caplog.text


async def test_slots_bound_how_many_work_at_once(tmp_path: Path) -> None:
    working = 0
    most = 0

    async def work(_request: Request) -> str:
        nonlocal working, most
        working += 1
        most = max(most, working)
        await anyio.lowlevel.checkpoint()
        working -= 1
        return "done"

    plan = Plan(subtasks=tuple(subtask(f"s{n}") for n in range(12)))
    limits = Limits(slots=3)
    async with service_in(tmp_path, {"worker:analyst": work}, limits=limits) as service:
        run_id = (await service.start(RunOrder(task="t", plan=plan))).run_id
        assert (await service.wait(run_id, seconds=60)).status == "succeeded"
    assert most <= 3


async def test_every_model_call_says_which_run_makes_it(tmp_path: Path) -> None:
    llm = FakeLLM({"planner": TWO})
    async with service_in(tmp_path, llm=llm) as service:
        started = [await service.start(RunOrder(task=task)) for task in ("why?", "when?")]
        for state in started:
            await service.wait(state.run_id, seconds=60)
    by_run = [[call.run_id for call in llm.requests].count(state.run_id) for state in started]
    assert by_run == [4, 4]
