import pytest

from concertmaster.engine.events import (
    CallFailed,
    CallFinished,
    CallStarted,
    CancelRequested,
    Event,
    Finding,
    GuardDecided,
    PlanAccepted,
    PlanRejected,
    PlanRevised,
    ResultsVerified,
    RunEnded,
    RunResumed,
    RunStarted,
    SubtaskDrafted,
    SubtaskFinished,
    SubtaskResult,
    SubtaskStarted,
    SubtaskStatus,
    SynthesisStarted,
    ToolCalled,
    ToolsMissing,
)
from concertmaster.engine.plan.plan import Plan
from concertmaster.engine.request import RunRequest
from concertmaster.errors import UnreadableRunError
from concertmaster.llm.messages import ToolCall, ToolOutcome
from concertmaster.llm.usage import NO_USAGE
from concertmaster.runs.state import RunState, fold
from fakes import USAGE, reply_with, subtask

REQUEST = RunRequest(task="why?")
STARTED = RunStarted(name="run/start", at=1, request=REQUEST, notice="offline")
PLAN = Plan(subtasks=(subtask("s1"), subtask("s2")))
ACCEPTED = PlanAccepted(name="plan/1", at=2, plan=PLAN, warnings=("mended",))
ENDED = RunEnded(
    name="run/end", at=9, status="partial", answer="so", value={"a": 1}, reasons=("s2",)
)


def after(*events: Event, alive: bool = True) -> RunState:
    return fold("r-1", [STARTED, *events], alive=alive)


def call_started(subtask_id: str | None) -> Event:
    return CallStarted(
        name="call/start", at=3, step="call", caller="c", model="big", subtask_id=subtask_id
    )


def call_finished(subtask_id: str | None, model: str = "big") -> Event:
    reply = reply_with("done", usage=USAGE.model_copy(update={"model": model}))
    return CallFinished(name="call", at=4, caller="c", subtask_id=subtask_id, reply=reply)


def call_failed(subtask_id: str | None) -> Event:
    return CallFailed(
        name="call/failed",
        at=4,
        step="call",
        caller="c",
        subtask_id=subtask_id,
        error="overloaded",
        usage=USAGE.model_copy(update={"model": "big"}),
    )


def tool_called(subtask_id: str) -> Event:
    return ToolCalled(
        name="tool",
        at=4,
        subtask_id=subtask_id,
        call=ToolCall(id="1", name="read_file", arguments={}),
        outcome=ToolOutcome(id="1", text="…"),
        seconds=1,
    )


def started(subtask_id: str) -> Event:
    return SubtaskStarted(name=f"subtask/{subtask_id}/start", at=3, subtask_id=subtask_id)


def result(subtask_id: str, status: SubtaskStatus = "succeeded") -> SubtaskResult:
    return SubtaskResult(subtask_id=subtask_id, worker="analyst", status=status, text="done")


def finished(subtask_id: str, status: SubtaskStatus = "succeeded") -> Event:
    return SubtaskFinished(
        name=f"subtask/{subtask_id}/result", at=5, result=result(subtask_id, status)
    )


def test_a_run_that_has_only_started_is_planning() -> None:
    state = after()
    assert state == RunState(
        run_id="r-1",
        request=REQUEST,
        started_at=1,
        updated_at=1,
        notice="offline",
        status="planning",
        events=1,
    )
    assert not state.over


def test_the_latest_event_is_when_a_run_was_updated() -> None:
    assert after(tool_called("s1")).updated_at == 4


def test_a_second_start_is_an_event_that_changes_nothing() -> None:
    state = after(STARTED)
    assert (state.status, state.started_at, state.events) == ("planning", 1, 2)


def test_a_rejected_plan_leaves_a_run_planning() -> None:
    state = after(PlanRejected(name="plan/rejected/1", at=2, problems=("a cycle",)))
    assert (state.status, state.plan, state.events) == ("planning", None, 2)


def test_an_accepted_plan_makes_its_subtasks_pending_in_its_order() -> None:
    state = after(ACCEPTED)
    assert (state.status, state.plan, state.warnings) == ("running", PLAN, ("mended",))
    assert [(name, item.status) for name, item in state.subtasks.items()] == [
        ("s1", "pending"),
        ("s2", "pending"),
    ]


@pytest.mark.parametrize("planned", [True, False])
def test_a_subtask_that_was_drafted_counts_until_the_plan_does_without_it(planned: bool) -> None:
    draft = SubtaskDrafted(name="subtask/s9/draft", at=2, subtask=subtask("s9"))
    state = after(*([ACCEPTED] if planned else []), draft, started("s9"))
    assert {name: item.status for name, item in state.subtasks.items()} == (
        {"s1": "pending", "s2": "pending"} if planned else {"s9": "running"}
    )
    state = after(draft, started("s9"), ACCEPTED, finished("s9", "cancelled"))
    assert list(state.subtasks) == ["s1", "s2"]


def test_a_subtask_with_a_slot_is_running() -> None:
    first, second = after(ACCEPTED, started("s1")).subtasks.values()
    assert (first.status, first.started_at, first.ended_at) == ("running", 3, None)
    assert second.status == "pending"


@pytest.mark.parametrize("status", ["succeeded", "partial", "failed", "skipped", "cancelled"])
def test_a_subtask_that_ended_has_the_status_of_its_result(status: SubtaskStatus) -> None:
    state = after(ACCEPTED, finished("s1", status))
    item = state.subtasks["s1"]
    assert (item.status, item.ended_at, item.result) == (status, 5, result("s1", status))
    assert state.ended_subtasks == 1


def test_a_subtask_tells_the_model_it_waits_for_until_the_call_has_ended() -> None:
    waiting = (ACCEPTED, started("s1"), call_started("s1"))
    assert after(*waiting).subtasks["s1"].doing == "big"
    assert after(*waiting, call_finished("s1")).subtasks["s1"].doing == ""
    assert after(*waiting, call_failed("s1")).subtasks["s1"].doing == ""


def test_a_subtask_that_ended_does_nothing() -> None:
    state = after(ACCEPTED, started("s1"), tool_called("s1"), finished("s1"))
    assert state.subtasks["s1"].doing == ""


def test_calls_of_no_subtask_are_charged_to_the_run_alone() -> None:
    state = after(ACCEPTED, call_started(None), call_finished(None), call_failed(None))
    assert state.usage.calls == 2
    assert [item.usage for item in state.subtasks.values()] == [NO_USAGE, NO_USAGE]


def test_a_tool_call_of_an_unknown_subtask_changes_nothing() -> None:
    state = after(tool_called("s1"))
    assert (state.status, state.events) == ("planning", 2)


def test_calls_of_a_subtask_are_charged_to_it_and_to_the_run_failed_ones_too() -> None:
    state = after(ACCEPTED, started("s1"), call_finished("s1"), call_failed("s1"))
    assert state.subtasks["s1"].usage == state.usage
    assert state.usage.usd == 2 * (USAGE.usd or 0)
    assert state.subtasks["s2"].usage == NO_USAGE


def test_usage_is_told_for_each_model() -> None:
    state = after(call_finished(None, "big"), call_finished(None, "small"), call_failed(None))
    assert {model: usage.calls for model, usage in state.by_model.items()} == {
        "big": 2,
        "small": 1,
    }


def test_a_run_whose_answer_is_being_written_is_synthesizing() -> None:
    state = after(ACCEPTED, SynthesisStarted(name="synthesis/start", at=6))
    assert state.status == "synthesizing"


def test_a_cancel_request_is_remembered_with_its_reason() -> None:
    state = after(CancelRequested(name="run/cancel/1", at=2, reason="enough"))
    assert (state.cancel_requested, state.status) == ("enough", "planning")


def test_a_run_that_was_asked_to_stop_is_cancelling_and_then_cancelled() -> None:
    events = [STARTED, ACCEPTED, CancelRequested(name="run/cancel/1", at=7, reason="enough")]
    alive = fold("r-1", events, alive=True)
    assert (alive.status, alive.displayed_status) == ("running", "cancelling")
    for handed_over in (False, True):
        dead = fold("r-1", events, alive=False, handed_over=handed_over)
        assert (dead.status, dead.displayed_status, dead.over) == ("cancelled", "cancelled", True)
        assert (dead.reasons, dead.ended_at) == (("The run was cancelled: enough.",), 7)
        assert {item.status for item in dead.subtasks.values()} == {"cancelled"}
    resumed = RunResumed(name="run/resume/2", at=8, epoch=2, by="me")
    assert fold("r-1", [*events, resumed], alive=False).status == "interrupted"


def test_a_run_that_ended_is_over_and_has_its_answer() -> None:
    state = after(ACCEPTED, ENDED)
    assert state.over
    assert (state.status, state.answer, state.value, state.reasons, state.ended_at) == (
        "partial",
        "so",
        {"a": 1},
        ("s2",),
        9,
    )


def test_every_event_counts_as_a_change() -> None:
    state = after()
    seen = [state.events]
    for event in (ACCEPTED, started("s1"), call_started("s1"), tool_called("s1"), ENDED):
        state.apply(event)
        seen.append(state.events)
    assert seen == [1, 2, 3, 4, 5, 6]


def test_a_run_without_an_end_whose_process_is_dead_is_interrupted() -> None:
    state = after(ACCEPTED, alive=False)
    assert state.status == "interrupted"
    assert not state.over


def test_a_run_stopped_when_it_ended_or_was_last_heard_of() -> None:
    assert after(ACCEPTED).stopped_at is None
    assert after(ACCEPTED, alive=False).stopped_at == ACCEPTED.at
    assert after(ACCEPTED, ENDED).stopped_at == ENDED.at


def test_what_an_interrupted_run_was_at_is_to_be_done_again() -> None:
    state = after(ACCEPTED, started("s1"), call_started("s1"), alive=False)
    first = state.subtasks["s1"]
    assert (first.status, first.started_at, first.doing) == ("pending", None, "")


def test_a_run_that_ended_stays_ended_when_its_process_dies() -> None:
    assert after(ACCEPTED, ENDED, alive=False).status == "partial"


def test_a_journal_that_does_not_begin_with_the_start_of_its_run_is_refused() -> None:
    for events in ([ACCEPTED], []):
        with pytest.raises(UnreadableRunError, match=r"Run r-1 .* begin with its start"):
            fold("r-1", events, alive=True)


def test_a_journal_with_a_subtask_of_no_plan_is_refused() -> None:
    with pytest.raises(UnreadableRunError, match="subtask/s1/start"):
        after(started("s1"))


def revised(*ids: str, done: bool = False, reason: str = "why so") -> Event:
    plan = Plan(subtasks=tuple(subtask(name) for name in ids))
    return PlanRevised(
        name="plan/2", at=6, plan=plan, done=done, reason=reason, warnings=("mended again",)
    )


def test_a_revised_plan_drops_and_adds_subtasks_and_leaves_others_where_they_stand() -> None:
    state = after(ACCEPTED, started("s1"), call_finished("s1"), finished("s1"), revised("s1", "s3"))
    assert {name: item.status for name, item in state.subtasks.items()} == {
        "s1": "succeeded",
        "s3": "pending",
    }
    assert state.subtasks["s1"].usage.calls == 1
    assert state.plan is not None
    assert [item.id for item in state.plan.subtasks] == ["s1", "s3"]
    assert state.warnings == ("mended", "mended again")


def tool_call(number: int, **fields: object) -> Event:
    return ToolCalled.model_validate(
        {
            "name": f"subtask/s1/tool/1.{number}",
            "at": 5,
            "subtask_id": "s1",
            "call": ToolCall(id="c", name="git.commit", arguments={}),
            "outcome": ToolOutcome(id="c", text="Not called: why.", failed=True),
            "seconds": 1,
        }
        | fields
    )


def test_tool_calls_that_were_denied_are_warned_of_once() -> None:
    state = after(ACCEPTED, tool_call(1), tool_call(2, denied=True), tool_call(3, denied=True))
    assert state.warnings == ("mended", "Subtask s1: Not called: why.")


def test_tools_that_a_worker_goes_without_are_warned_of() -> None:
    missing = ToolsMissing(
        name="subtask/s1/tools", at=5, subtask_id="s1", worker="analyst", problems=("gone", "cut")
    )
    assert after(ACCEPTED, missing).warnings == (
        "mended",
        "Subtask s1 (analyst) goes without tools: gone",
        "Subtask s1 (analyst) goes without tools: cut",
    )


def test_a_subtask_that_is_replaced_is_the_new_one() -> None:
    better = subtask("s2", "critic")
    plan = Plan(subtasks=(subtask("s1"), better))
    state = after(ACCEPTED, PlanRevised(name="plan/2", at=6, plan=plan, done=False))
    assert state.subtasks["s2"].subtask == better


def test_the_reasons_of_all_decisions_are_kept_in_order() -> None:
    state = after(ACCEPTED, revised("s1", reason="one"), revised("s1", done=True, reason="two"))
    assert state.decisions == ("one", "two")
    assert state.status == "running"


def test_findings_are_those_of_the_last_check() -> None:
    one = Finding(subtasks=("s1",), severity="high", what="they differ")
    two = Finding(subtasks=(), severity="low", what="nobody did it")
    state = after(
        ACCEPTED,
        ResultsVerified(name="verification", at=6, findings=(one,)),
        ResultsVerified(name="verification", at=7, findings=(two,)),
    )
    assert state.findings == (two,)


def test_a_result_that_is_mended_is_the_one_that_counts() -> None:
    state = after(ACCEPTED, finished("s1"), call_started("s1"), finished("s1", "partial"))
    item = state.subtasks["s1"]
    assert (item.status, item.doing, item.result) == ("partial", "", result("s1", "partial"))


def guarded(*events: Event, alive: bool = True) -> RunState:
    request = REQUEST.model_copy(update={"guard": "critic"})
    begun = STARTED.model_copy(update={"request": request})
    return fold("r-1", [begun, *events], alive=alive)


def guard(*, passed: bool) -> Event:
    return GuardDecided(name="guard", at=3, passed=passed, reason="names a customer")


WORK = (
    ACCEPTED,
    started("s1"),
    finished("s1"),
    revised("s1"),
    ResultsVerified(name="v", at=6, findings=(Finding(subtasks=(), severity="low", what="x"),)),
)


def test_a_run_without_a_guard_withholds_nothing() -> None:
    state = after(*WORK)
    assert state.guard == "none"
    assert state.shown() is state


@pytest.mark.parametrize(
    ("decisions", "standing"), [((), "pending"), ((guard(passed=False),), "objected")]
)
@pytest.mark.parametrize("end", [(), (ENDED,)])
def test_what_no_guard_has_let_pass_is_not_shown(
    decisions: tuple[Event, ...], standing: str, end: tuple[Event, ...]
) -> None:
    state = guarded(*WORK, *decisions, *end)
    shown = state.shown()
    assert shown.guard == standing
    assert (shown.plan, shown.subtasks, shown.answer, shown.value) == (None, {}, "", None)
    assert (shown.warnings, shown.decisions, shown.findings) == ((), (), ())
    assert shown.events == state.events
    assert shown.status == state.status


def test_what_a_guard_has_let_pass_is_shown_whole() -> None:
    state = guarded(*WORK, guard(passed=True), ENDED)
    assert state.guard == "passed"
    assert state.shown() is state
    assert state.shown().answer == "so"


def test_what_was_withheld_of_an_interrupted_run_stays_so() -> None:
    assert guarded(*WORK, alive=False).shown().subtasks == {}
