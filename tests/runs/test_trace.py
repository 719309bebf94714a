import json
from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import JsonValue

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
    SubtaskFinished,
    SubtaskResult,
    SubtaskStarted,
    SubtaskStatus,
    SynthesisStarted,
    ToolAnswered,
    ToolAsked,
    ToolCalled,
    ToolsMissing,
    ToolStarted,
)
from concertmaster.engine.plan.plan import Plan
from concertmaster.engine.request import RunRequest
from concertmaster.errors import UnreadableRunError
from concertmaster.llm.messages import Image, ServerToolUse, ToolCall, ToolOutcome
from concertmaster.runs.trace import Span, trace, visible_trace
from fakes import USAGE, reply_with, subtask

SAID = "what was said"

STARTED = RunStarted(name="run/start", at=0, request=RunRequest(task=SAID))


def call_started(step: str, at: float, caller: str, subtask_id: str | None = None) -> Event:
    return CallStarted(
        name=f"{step}/start", at=at, step=step, caller=caller, model="m", subtask_id=subtask_id
    )


def call_finished(step: str, at: float, caller: str, subtask_id: str | None = None) -> Event:
    reply = reply_with(SAID)
    return CallFinished(name=step, at=at, caller=caller, subtask_id=subtask_id, reply=reply)


def call_failed(step: str, at: float, caller: str, subtask_id: str | None = None) -> Event:
    return CallFailed(
        name=f"{step}/failed",
        at=at,
        step=step,
        caller=caller,
        subtask_id=subtask_id,
        error="overloaded",
        usage=USAGE,
    )


def accepted(at: float, *ids: str, **fields: tuple[str, ...]) -> Event:
    plan = Plan(subtasks=tuple(subtask(name) for name in ids))
    return PlanAccepted.model_validate({"name": "plan/1", "at": at, "plan": plan} | fields)


def started(subtask_id: str, at: float) -> Event:
    return SubtaskStarted(name=f"subtask/{subtask_id}/start", at=at, subtask_id=subtask_id)


def finished(subtask_id: str, at: float, status: SubtaskStatus = "succeeded") -> Event:
    result = SubtaskResult(
        subtask_id=subtask_id,
        worker="analyst",
        status=status,
        text=SAID if status == "succeeded" else "",
        errors=() if status == "succeeded" else ("why not",),
    )
    return SubtaskFinished(name=f"subtask/{subtask_id}/result", at=at, result=result)


def outline(span: Span) -> dict[str, object]:
    """Return the names, statuses and times of a tree."""
    key = f"{span.name}: {span.status} {span.started_at:g}-{span.ended_at}"
    return {key: [outline(child) for child in span.spans]} if span.spans else {key: []}


def usage(calls: int) -> JsonValue:
    total = USAGE
    for _ in range(calls - 1):
        total += USAGE
    return total.model_dump(mode="json")


WHOLE_RUN: Sequence[Event] = (
    STARTED,
    call_started("plan/call/1", 1, "planner"),
    call_finished("plan/call/1", 2, "planner"),
    accepted(3, "s1", "s2"),
    started("s1", 4),
    started("s2", 4),
    call_started("subtask/s1/call/1", 5, "worker:analyst", "s1"),
    call_started("subtask/s2/call/1", 5, "worker:analyst", "s2"),
    call_failed("subtask/s2/call/1", 6, "worker:analyst", "s2"),
    finished("s2", 7, "failed"),
    call_finished("subtask/s1/call/1", 8, "worker:analyst", "s1"),
    ToolCalled(
        name="subtask/s1/tool/1.1",
        at=10,
        subtask_id="s1",
        call=ToolCall(id="1", name="read_file", arguments={"path": SAID}),
        outcome=ToolOutcome(id="1", text=SAID),
        seconds=2,
    ),
    call_started("subtask/s1/call/2", 11, "worker:analyst", "s1"),
    call_finished("subtask/s1/call/2", 12, "worker:analyst", "s1"),
    finished("s1", 13),
    SynthesisStarted(name="synthesis/start", at=14),
    call_started("synthesis/call/1", 15, "synthesizer"),
    call_finished("synthesis/call/1", 16, "synthesizer"),
    RunEnded(name="run/end", at=17, status="partial", answer=SAID, reasons=("s2 failed",)),
)


def test_a_run_is_a_tree_of_its_plan_its_subtasks_and_its_synthesis() -> None:
    assert outline(trace("r-1", WHOLE_RUN)) == {
        "invoke_workflow: partial 0-17.0": [
            {"plan: succeeded 1-3.0": [{"chat m: succeeded 1-2.0": []}]},
            {
                "invoke_agent analyst: succeeded 4-13.0": [
                    {"chat m: succeeded 5-8.0": []},
                    {"execute_tool read_file: succeeded 8-10.0": []},
                    {"chat m: succeeded 11-12.0": []},
                ]
            },
            {"invoke_agent analyst: failed 4-7.0": [{"chat m: failed 5-6.0": []}]},
            {"invoke_agent synthesizer: partial 14-17.0": [{"chat m: succeeded 15-16.0": []}]},
        ]
    }


def test_kinds_tell_the_parts_of_a_run_apart() -> None:
    root = trace("r-1", WHOLE_RUN)
    assert root.kind == "run"
    assert [span.kind for span in root.spans] == ["plan", "subtask", "subtask", "synthesis"]
    assert [span.kind for span in root.spans[1].spans] == ["call", "tool", "call"]


def test_every_span_tells_what_the_calls_in_it_took() -> None:
    root = trace("r-1", WHOLE_RUN)
    plan, first, second, synthesis = root.spans
    assert root.attributes["usage"] == usage(5)
    assert [plan.attributes["usage"], synthesis.attributes["usage"]] == [usage(1), usage(1)]
    assert first.attributes["usage"] == usage(2)
    assert first.spans[0].attributes["usage"] == usage(1)
    assert "usage" not in first.spans[1].attributes
    assert second.attributes["usage"] == usage(1), "failed calls cost too"


def test_attributes_say_what_was_done_and_how_it_ended() -> None:
    root = trace("r-1", WHOLE_RUN)
    plan, first, second, _ = root.spans
    call, tool, _ = first.spans
    chars = len(SAID)
    assert root.attributes == {
        "run_id": "r-1",
        "kind": "orchestration",
        "chars": chars,
        "reasons": ["s2 failed"],
        "usage": usage(5),
    }
    assert plan.attributes == {"subtasks": 2, "usage": usage(1)}
    assert first.attributes == {
        "subtask_id": "s1",
        "objective": "do s1",
        "depends_on": [],
        "chars": chars,
        "usage": usage(2),
    }
    assert second.attributes["errors"] == ["why not"]
    assert call.attributes == {
        "step": "subtask/s1/call/1",
        "caller": "worker:analyst",
        "stop_reason": "end",
        "chars": chars,
        "usage": usage(1),
    }
    assert tool.attributes == {
        "step": "subtask/s1/tool/1.1",
        "arguments": f'{{"path": "{SAID}"}}',
        "chars": chars,
    }
    assert second.spans[0].attributes["error"] == "overloaded"


def test_what_was_said_to_models_or_by_them_or_by_tools_is_not_in_the_trace() -> None:
    shown = [event for event in WHOLE_RUN if not isinstance(event, ToolCalled)]
    assert SAID not in trace("r-1", shown).model_dump_json()
    assert "outcome" not in trace("r-1", WHOLE_RUN).model_dump_json()


def tool_called(**fields: Any) -> ToolCalled:
    values = {
        "name": "subtask/s1/tool/1.1",
        "at": 9,
        "subtask_id": "s1",
        "call": ToolCall(id="c", name="git.commit", arguments={"message": "m" * 600}),
        "outcome": ToolOutcome(id="c", text="committed"),
        "seconds": 1,
    }
    return ToolCalled.model_validate(values | fields)


def tool_span(*events: Event, content: bool = False) -> Span:
    root = trace("r-1", [*WHOLE_RUN[:5], *events], content=content)
    return next(span for span in root.spans[1].spans if span.kind == "tool")


def test_long_arguments_of_a_tool_call_are_shortened() -> None:
    arguments = str(tool_span(tool_called()).attributes["arguments"])
    assert arguments.startswith('{"message": "mmm')
    assert arguments.endswith('m… [400 more characters]"}')
    assert len(arguments) < 510


def test_the_content_of_a_tool_call_is_whole_for_whoever_asks_for_it() -> None:
    span = tool_span(tool_called(), content=True)
    assert span.attributes["arguments"] == json.dumps({"message": "m" * 600})
    assert span.attributes["result"] == "committed"


@pytest.mark.parametrize("content", [False, True])
def test_the_images_of_a_tool_call_are_told_of_and_not_shown(content: bool) -> None:
    image = Image(media_type="image/png", data="iVBORw0KGgo=")
    outcome = ToolOutcome(id="c", text="seen", images=(image, image))
    span = tool_span(tool_called(outcome=outcome), content=content)
    assert span.attributes["images"] == ["image/png, 8 bytes"] * 2
    assert image.data not in span.model_dump_json()


def test_a_tool_call_that_was_denied_is_marked() -> None:
    span = tool_span(tool_called(outcome=ToolOutcome(id="c", text="no", failed=True), denied=True))
    assert (span.status, span.attributes["denied"]) == ("failed", True)


def test_a_tool_call_with_effects_has_a_span_from_its_start() -> None:
    started = ToolStarted(
        name="subtask/s1/tool/1.1/start",
        at=7,
        step="subtask/s1/tool/1.1",
        subtask_id="s1",
        call=ToolCall(id="c", name="git.commit", arguments={}),
    )
    assert tool_span(started).status == "running"
    span = tool_span(started, tool_called())
    assert (span.started_at, span.ended_at, span.status) == (7, 9, "succeeded")


def test_a_subtask_says_which_of_its_tools_were_missing() -> None:
    missing = ToolsMissing(
        name="subtask/s1/tools", at=5, subtask_id="s1", worker="analyst", problems=("gone",)
    )
    root = trace("r-1", [*WHOLE_RUN[:5], missing])
    assert root.spans[1].attributes["tools_missing"] == ["gone"]


def test_a_trace_survives_json() -> None:
    root = trace("r-1", WHOLE_RUN)
    assert Span.model_validate_json(root.model_dump_json()) == root


def test_what_has_not_ended_is_running_and_has_no_end() -> None:
    assert outline(trace("r-1", WHOLE_RUN[:7])) == {
        "invoke_workflow: running 0-None": [
            {"plan: succeeded 1-3.0": [{"chat m: succeeded 1-2.0": []}]},
            {"invoke_agent analyst: running 4-None": [{"chat m: running 5-None": []}]},
            {"invoke_agent analyst: running 4-None": []},
        ]
    }


def test_what_had_not_ended_when_the_process_died_is_interrupted() -> None:
    assert outline(trace("r-1", WHOLE_RUN[:2], alive=False)) == {
        "invoke_workflow: interrupted 0-None": [
            {"plan: interrupted 1-None": [{"chat m: interrupted 1-None": []}]}
        ]
    }


def test_a_rejected_plan_is_a_span_of_its_own_with_its_problems() -> None:
    events = [
        STARTED,
        call_started("plan/call/1", 1, "planner"),
        call_finished("plan/call/1", 2, "planner"),
        PlanRejected(name="plan/rejected/1", at=3, problems=("a cycle",)),
        call_started("plan/call/2", 4, "planner"),
        call_finished("plan/call/2", 5, "planner"),
        accepted(6, "s1", warnings=("mended",), left_out=("s9",)),
    ]
    rejected, plan = trace("r-1", events).spans
    assert rejected.status == "rejected"
    assert rejected.attributes["problems"] == ["a cycle"]
    assert [len(rejected.spans), len(plan.spans)] == [1, 1]
    assert plan.status == "succeeded"
    assert plan.attributes["warnings"] == ["mended"]
    assert plan.attributes["left_out"] == ["s9"]


def test_a_plan_that_came_with_the_request_has_a_span_without_calls() -> None:
    (plan,) = trace("r-1", [STARTED, accepted(1, "s1")]).spans
    assert outline(plan) == {"plan: succeeded 1-1.0": []}


def test_planning_that_led_to_nothing_ends_as_the_run_does() -> None:
    events = [*WHOLE_RUN[:3], RunEnded(name="run/end", at=9, status="failed")]
    (plan,) = trace("r-1", events).spans
    assert (plan.status, plan.ended_at) == ("failed", 9)


def test_a_skipped_subtask_has_a_span_without_duration() -> None:
    events = [STARTED, accepted(1, "s1"), finished("s1", 2, "skipped")]
    _, skipped = trace("r-1", events).spans
    assert outline(skipped) == {"invoke_agent analyst: skipped 2-2.0": []}
    assert skipped.attributes["errors"] == ["why not"]


def test_a_tool_call_that_failed_says_so() -> None:
    call = ToolCalled(
        name="subtask/s1/tool/1.1",
        at=3,
        subtask_id="s1",
        call=ToolCall(id="1", name="read_file", arguments={}),
        outcome=ToolOutcome(id="1", text="no such file", failed=True),
        seconds=1,
    )
    _, running = trace("r-1", [STARTED, accepted(1, "s1"), started("s1", 1), call]).spans
    assert outline(running.spans[0]) == {"execute_tool read_file: failed 2-3.0": []}


def test_calls_that_belong_to_no_part_belong_to_the_run() -> None:
    (call,) = trace("r-1", [STARTED, call_started("judge/call/1", 1, "judge")]).spans
    assert outline(call) == {"chat m: running 1-None": []}


def test_a_cancelled_run_tells_why_and_ends_all_that_was_under_way() -> None:
    events = [
        *WHOLE_RUN[:7],
        CancelRequested(name="run/cancel/1", at=20, reason="enough"),
        RunEnded(name="run/end", at=21, status="cancelled"),
    ]
    root = trace("r-1", events)
    _, first, second = root.spans
    assert root.attributes["cancel_requested"] == "enough"
    assert outline(first) == {
        "invoke_agent analyst: cancelled 4-21.0": [{"chat m: cancelled 5-21.0": []}]
    }
    assert second.status == "cancelled"


def test_what_a_process_left_when_it_was_asked_to_stop_is_cancelled() -> None:
    events = [*WHOLE_RUN[:7], CancelRequested(name="run/cancel/1", at=20, reason="enough")]
    assert trace("r-1", events, alive=False).status == "cancelled"
    assert trace("r-1", events, alive=True).status == "running"
    resumed = RunResumed(name="run/resume/2", at=21, epoch=2, by="me")
    assert trace("r-1", [*events, resumed], alive=False).status == "interrupted"


def test_what_is_made_again_after_the_death_of_a_process_is_there_twice() -> None:
    events = [
        *WHOLE_RUN[:7],
        started("s1", 30),
        call_started("subtask/s1/call/1", 31, "worker:analyst", "s1"),
        call_finished("subtask/s1/call/1", 32, "worker:analyst", "s1"),
        finished("s1", 33),
        call_started("plan/call/9", 34, "planner"),
        call_started("plan/call/9", 35, "planner"),
        RunEnded(name="run/end", at=40, status="succeeded"),
    ]
    assert outline(trace("r-1", events)) == {
        "invoke_workflow: succeeded 0-40.0": [
            {"plan: succeeded 1-3.0": [{"chat m: succeeded 1-2.0": []}]},
            {"invoke_agent analyst: interrupted 4-None": [{"chat m: interrupted 5-None": []}]},
            {"invoke_agent analyst: succeeded 4-40.0": []},
            {"invoke_agent analyst: succeeded 30-33.0": [{"chat m: succeeded 31-32.0": []}]},
            {
                "plan: succeeded 34-40.0": [
                    {"chat m: interrupted 34-None": []},
                    {"chat m: succeeded 35-40.0": []},
                ]
            },
        ]
    }


@pytest.mark.parametrize(
    "events",
    [
        [],
        [STARTED, SubtaskStarted(name="subtask/s1/start", at=1, subtask_id="s1")],
        [STARTED, call_finished("call/1", 1, "planner")],
    ],
)
def test_a_journal_with_holes_is_refused(events: list[Event]) -> None:
    with pytest.raises(UnreadableRunError, match="Run r-1 cannot be read"):
        trace("r-1", events)


def revised(at: float, *ids: str, done: bool = False) -> Event:
    plan = Plan(subtasks=tuple(subtask(name) for name in ids))
    return PlanRevised(
        name="plan/2", at=at, plan=plan, done=done, reason="why so", left_out=("no room",)
    )


def test_each_decision_of_the_orchestrator_is_a_plan_with_its_call_and_its_reason() -> None:
    first, *_, second = trace(
        "r-1",
        [
            STARTED,
            accepted(1, "s1"),
            started("s1", 2),
            finished("s1", 3),
            call_started("next-step/1/call/1", 4, "orchestrator"),
            call_finished("next-step/1/call/1", 5, "orchestrator"),
            revised(6, "s1", "s2"),
        ],
    ).spans
    assert outline(first) == {"plan: succeeded 1-1.0": []}
    assert outline(second) == {"plan: succeeded 4-6.0": [{"chat m: succeeded 4-5.0": []}]}
    assert second.attributes["reason"] == "why so"
    assert second.attributes["left_out"] == ["no room"]
    assert "done" not in second.attributes


def test_a_subtask_that_a_decision_added_is_in_the_trace() -> None:
    events = [STARTED, accepted(1, "s1"), revised(2, "s1", "s2", done=True), started("s2", 3)]
    _, decision, added = trace("r-1", events).spans
    assert decision.attributes["done"] is True
    assert added.attributes["subtask_id"] == "s2"


def test_what_the_guard_decided_is_in_the_trace_and_its_call_beside_the_plan() -> None:
    def decided(*, passed: bool) -> Span:
        decision = GuardDecided(name="guard", at=2, passed=passed, reason="names a customer")
        guard = (
            call_started("guard/call/1", 1, "guard"),
            call_finished("guard/call/1", 2, "guard"),
        )
        return trace("r-1", [STARTED, *guard, decision])

    assert decided(passed=True).attributes["guard"] == "passed"
    assert decided(passed=False).attributes["guard"] == "names a customer"
    (call,) = decided(passed=True).spans
    assert (call.kind, call.attributes["caller"]) == ("call", "guard")


def test_a_withheld_trace_has_all_spans_and_no_word_of_a_model() -> None:
    request = RunRequest(task=SAID, guard="writer")
    start = RunStarted(name="run/start", at=0, request=request)
    decision = GuardDecided(name="guard", at=16.5, passed=False, reason="names a customer")
    events = [start, *WHOLE_RUN[1:-1], decision]
    whole, withheld = trace("r-1", events), visible_trace("r-1", events)

    def facts(span: Span) -> list[object]:
        own = (span.kind, span.status, span.started_at, span.ended_at)
        return [(*own, span.attributes.get("usage")), *(facts(part) for part in span.spans)]

    assert facts(withheld) == facts(whole)
    text = withheld.model_dump_json()
    assert "names a customer" in text
    assert "chat m" in text
    for written in (SAID, "s1", "s2", "analyst", "read_file", "overloaded", "why not", "do s1"):
        assert written in whole.model_dump_json(), written
        assert written not in text, written
    allowed = [start, *WHOLE_RUN[1:-1], decision.model_copy(update={"passed": True})]
    assert visible_trace("r-1", allowed) == trace("r-1", allowed)


def test_findings_are_in_the_trace() -> None:
    finding = Finding(subtasks=("s1",), severity="high", what="they differ", mend="say b")
    events = [STARTED, ResultsVerified(name="verification", at=1, findings=(finding,))]
    assert trace("r-1", events).attributes["findings"] == ["they differ"]


def test_a_result_that_is_mended_makes_its_subtask_longer_and_its_calls_are_part_of_it() -> None:
    (_, span) = trace(
        "r-1",
        [
            STARTED,
            accepted(1, "s1"),
            started("s1", 2),
            finished("s1", 3),
            call_started("subtask/s1/mend/call/1", 5, "worker:analyst", "s1"),
            call_finished("subtask/s1/mend/call/1", 6, "worker:analyst", "s1"),
            finished("s1", 7, "partial"),
        ],
    ).spans
    assert outline(span) == {
        "invoke_agent analyst: partial 2-7.0": [{"chat m: succeeded 5-6.0": []}]
    }
    assert span.attributes["usage"] == usage(1)


ASKED = ToolAsked(
    name="subtask/s1/tool/1.1/question",
    at=9,
    step="subtask/s1/tool/1.1",
    question_id="q-1",
    subtask_id="s1",
    worker="analyst",
    tool="git.commit",
    arguments="{}",
    until=99,
)


def answered(*, allowed: bool, at: float) -> ToolAnswered:
    return ToolAnswered(
        name=f"question/q-1/{at}", at=at, question_id="q-1", allowed=allowed, by="Ann"
    )


def questions(*events: Event) -> list[Span]:
    root = trace("r-1", [*WHOLE_RUN[:5], ASKED, *events])
    return [span for span in root.spans[1].spans if span.kind == "question"]


def test_the_first_answer_to_a_question_is_the_one_in_the_trace() -> None:
    (span,) = questions(answered(allowed=False, at=10), answered(allowed=True, at=11))
    assert (span.name, span.status, span.started_at, span.ended_at) == (
        "ask git.commit",
        "denied",
        9,
        10,
    )


def test_a_question_that_is_asked_anew_after_a_restart_is_there_twice() -> None:
    resumed = RunResumed(name="run/resume/2", at=10, epoch=2, by="test")
    again = SubtaskStarted(name="subtask/s1/start", at=11, subtask_id="s1")
    events = [resumed, again, ASKED.model_copy(update={"at": 12}), answered(allowed=True, at=13)]
    root = trace("r-1", [*WHOLE_RUN[:5], ASKED, *events])
    spans = [span for part in root.spans for span in part.spans if span.kind == "question"]
    assert [span.status for span in spans] == ["interrupted", "allowed"]


def searched(*uses: ServerToolUse) -> list[Event]:
    """Return the events of a subtask whose worker's provider called tools itself."""
    reply = reply_with(SAID, server_tool_uses=uses)
    return [
        STARTED,
        accepted(1, "s1"),
        started("s1", 2),
        call_started("subtask/s1/call/1", 3, "worker:analyst", "s1"),
        CallFinished(
            name="subtask/s1/call/1", at=13, caller="worker:analyst", subtask_id="s1", reply=reply
        ),
    ]


SEARCH = ServerToolUse(
    id="1",
    name="web_search",
    arguments={"query": "x" * 600},
    result=SAID,
    result_chars=70,
    ago=8,
    seconds=2,
)
FETCH = ServerToolUse(id="2", name="web_fetch", error="url_not_allowed", ago=90, seconds=1)


def test_what_the_provider_called_itself_is_within_its_call() -> None:
    root = trace("r-1", searched(SEARCH, FETCH))
    (call,) = root.spans[-1].spans
    fetch, search = call.spans
    assert (search.name, search.kind, search.status) == (
        "execute_tool web_search",
        "tool",
        "succeeded",
    )
    assert (search.started_at, search.ended_at) == (5, 7)
    assert (search.attributes["by"], search.attributes["chars"]) == ("the provider", 70)
    assert str(search.attributes["arguments"]).endswith('more characters]"}')
    assert (fetch.status, fetch.attributes["error"]) == ("failed", "url_not_allowed")
    # It cannot have begun before its call, whatever the clocks say.
    assert fetch.started_at == 3
    assert SAID not in root.model_dump_json()


def test_a_use_whose_outcome_comes_later_is_pending() -> None:
    use = SEARCH.model_copy(update={"pending": True})
    (call,) = trace("r-1", searched(use)).spans[-1].spans
    assert call.spans[0].status == "pending"


def test_what_the_provider_found_is_shown_to_those_who_ask_for_it() -> None:
    (call,) = trace("r-1", searched(SEARCH), content=True).spans[-1].spans
    assert call.spans[0].attributes["result"] == SAID
    assert "x" * 600 in str(call.spans[0].attributes["arguments"])
