"""Runs of every kind, cut off at every event and taken up again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest

from building import RecordedRun, setup, worker
from concertmaster.engine.events import (
    CallFinished,
    Event,
    RunEnded,
    RunResumed,
    RunStarted,
    SubtaskFinished,
    SubtaskKept,
)
from concertmaster.engine.orchestrator import NOTHING_RETRIED
from concertmaster.engine.plan.plan import Plan
from concertmaster.engine.request import RunRequest
from concertmaster.errors import ModelUnavailableError, StoreError
from concertmaster.llm.messages import JsonSchema, Request
from concertmaster.runs.state import fold
from concertmaster.runs.trace import trace
from fakes import FakeLLM, FakeTool, Script, plan_json, reply_with, subtask, texts, wants
from patterns import critique, decision, finding, findings, judging, scores, screening

pytestmark = pytest.mark.anyio

SCHEMA: JsonSchema = {"type": "object", "properties": {"x": {"type": "integer"}}}
BUSY = ModelUnavailableError("The provider is busy.")
CUT = reply_with("half", stop_reason="max_tokens")


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of run, whose model says the same however often and in whatever order it is asked."""

    scripts: Mapping[str, Script]
    request: RunRequest = field(default_factory=lambda: RunRequest(task="why?"))
    inputs: Mapping[str, str] = field(default_factory=dict[str, str])
    tools: tuple[FakeTool, ...] = ()
    status: str = "succeeded"


def second_thoughts(first: Any, then: Any) -> Script:
    """Answer `first`, and `then` to what is said after that."""
    return lambda request: first if len(request.messages) == 1 else then


def strategy(kind: str, **fields: Any) -> str:
    return plan_json(subtask("s1", strategy={"kind": kind, **fields}), subtask("s2", "critic"))


def next_step(request: Request) -> str:
    (text,) = texts([request])
    if "- s2 (" in text:
        return decision(done=True, reason="enough")
    return decision(add=[subtask("s2", "critic", depends_on=["s1"])], reason="s1 says so")


async def late(_: Request) -> str:
    await anyio.sleep(0.05)
    return "late"


KINDS = {
    "static": Kind(
        scripts={
            "planner": plan_json(
                subtask("s1"),
                subtask("s2", "critic", depends_on=["s1"]),
                subtask("s3", "writer", priority="high"),
            )
        }
    ),
    "adaptive": Kind(
        scripts={
            "planner": plan_json(subtask("s1", decisive=True), mode="adaptive"),
            "orchestrator": next_step,
        }
    ),
    "called done early": Kind(
        scripts={
            "planner": plan_json(
                subtask("s1", decisive=True),
                subtask("s2", "critic"),
                subtask("s3", "writer", depends_on=["s2"]),
                mode="adaptive",
            ),
            "worker:critic": late,
            "orchestrator": decision(done=True, reason="enough"),
        }
    ),
    "a plan sent back": Kind(
        scripts={"planner": second_thoughts("no plan", plan_json(subtask("s1"), subtask("s2")))}
    ),
    "judged": Kind(scripts={"planner": strategy("vote", decide="judge"), "judge": judging("done")}),
    "scored": Kind(
        scripts={
            "planner": strategy("vote", decide="rubric", criteria=[{"name": "clear"}]),
            "rubric": scores(clear=7),
        }
    ),
    "by majority": Kind(scripts={"planner": strategy("vote", decide="consensus", answers=5)}),
    "revised": Kind(
        scripts={
            "planner": strategy("revise"),
            "worker:analyst": second_thoughts("first draft", "second draft"),
            "critic": lambda request: critique(
                *([] if "second draft" in texts([request])[0] else ["It is a first draft."])
            ),
        }
    ),
    "in parts": Kind(
        scripts={
            "planner": strategy(
                "map", over="contexts", contexts=[{"locale": "de"}, {"locale": "fr"}]
            )
        }
    ),
    "verified and mended": Kind(
        scripts={
            "planner": plan_json(subtask("s1"), subtask("s2", "critic"), verify="mend"),
            "verifier": findings(finding("They differ.", "s1")),
            "worker:analyst": second_thoughts("one", "mended"),
        }
    ),
    "mended though it stays incomplete": Kind(
        scripts={
            "planner": plan_json(subtask("s1"), subtask("s2", "critic"), verify="mend"),
            "verifier": findings(finding("They differ.", "s1")),
            "worker:analyst": lambda request: (
                "mended" if "They differ." in texts([request])[0] else CUT
            ),
        },
        status="partial",
    ),
    "mended, and so is what was made from it": Kind(
        scripts={
            "planner": plan_json(
                subtask("s1"),
                subtask("s2", "critic", depends_on=["s1"]),
                subtask("s3", "writer", depends_on=["s2"]),
                verify="mend",
            ),
            "verifier": findings(finding("It is wrong.", "s1")),
            "worker:analyst": second_thoughts("text of s1", "revised s1"),
            "worker:critic": lambda request: (
                "revised s2" if "revised s1" in texts([request])[0] else "text of s2"
            ),
            "worker:writer": lambda request: (
                "revised s3" if "revised s2" in texts([request])[0] else "text of s3"
            ),
            "synthesizer": lambda request: (
                f"made of {sum(f'revised s{n}' in texts([request])[0] for n in (1, 2, 3))} revised"
            ),
        }
    ),
    "guarded": Kind(
        request=RunRequest(task="why?", guard="writer"),
        scripts={
            "planner": plan_json(subtask("s1"), subtask("s2", "critic")),
            "guard": screening(allowed=True),
        },
    ),
    "with tools": Kind(
        scripts={
            "planner": plan_json(subtask("s1", "reader"), subtask("s2")),
            "worker:reader": second_thoughts(
                wants(("look", {"at": 1}), ("look", {"at": 2})), "seen"
            ),
        },
        tools=(FakeTool("look", lambda arguments, _: str(arguments)),),
    ),
    "condensed": Kind(
        scripts={
            "planner": plan_json(subtask("s1"), subtask("s2", "critic")),
            "worker:analyst": "a" * 300_000,
            "worker:critic": "b" * 300_000,
            "condenser": "short",
        }
    ),
    "one worker": Kind(
        request=RunRequest(kind="worker", task="t", plan=Plan(subtasks=(subtask("s1"),))),
        scripts={"worker:analyst": second_thoughts(reply_with("", stop_reason="end"), "done")},
    ),
    "a direct answer of a schema": Kind(
        request=RunRequest(task="why?", output_schema=SCHEMA),
        scripts={"planner": plan_json(direct_answer="one"), "synthesizer": '{"x": 1}'},
    ),
}

WORKERS = (worker("reader", tools=("look",)),)


def resumed(epoch: int = 2) -> RunResumed:
    return RunResumed(name=f"run/resume/{epoch}", at=9.0, epoch=epoch, by="test")


def calls(events: Sequence[Event]) -> list[str]:
    return [event.name for event in events if isinstance(event, CallFinished)]


async def go_on(
    kind: Kind,
    recorded: Sequence[Event],
    scripts: Mapping[str, Script] | None = None,
    *,
    breaks_after: int | None = None,
) -> list[Event]:
    """Return the events of the next life of a run, which may break off before its end."""
    run = BreakingRun(kind, recorded, breaks_after)
    llm = FakeLLM(kind.scripts if scripts is None else scripts)
    try:
        await run.drive(setup(llm, workers=WORKERS, tools=kind.tools))
    except StoreError:
        assert breaks_after is not None
    return run.events


class BreakingRun(RecordedRun):
    """A run whose process ends after so many events."""

    def __init__(self, kind: Kind, recorded: Sequence[Event], breaks_after: int | None) -> None:
        super().__init__(kind.request, inputs=kind.inputs, recorded=recorded)
        self._breaks_after = breaks_after

    async def _append(self, event: Event, /, *, wait: bool = True) -> None:
        if self._breaks_after is not None and len(self.events) >= self._breaks_after:
            raise StoreError("The process has ended.")
        await super()._append(event, wait=wait)


def state_after(kind: Kind, events: Sequence[Event], *, alive: bool = True) -> Any:
    """Return the state after some events, which also have to make a trace."""
    started = RunStarted(name="run/start", at=0.0, request=kind.request)
    assert trace("r-1", [started, *events]).kind == "run"
    return fold("r-1", [started, *events], alive=alive)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
async def test_a_run_cut_off_at_any_event_goes_on_from_there(kind: Kind) -> None:
    whole = await go_on(kind, [])
    end = whole[-1]
    assert isinstance(end, RunEnded)
    assert end.status == kind.status
    for cut in range(len(whole)):
        before = [*whole[:cut], resumed()]
        after = await go_on(kind, before)
        assert isinstance(after[-1], RunEnded)
        assert (after[-1].status, after[-1].answer) == (kind.status, end.answer)
        assert not set(calls(before)) & set(calls(after))
        state = state_after(kind, [*before, *after])
        assert (state.status, state.answer) == (kind.status, end.answer)
        assert {item.status for item in state.subtasks.values()} <= {
            item.status for item in state_after(kind, whole).subtasks.values()
        } | {"skipped"}
        assert state.usage.calls == len(calls(before)) + len(calls(after))


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
async def test_a_run_cut_off_again_and_again_comes_to_its_end(kind: Kind) -> None:
    journal: list[Event] = []
    for epoch in range(2, 40):
        journal += await go_on(kind, journal, breaks_after=epoch + 2)
        if isinstance(journal[-1], RunEnded):
            break
        assert state_after(kind, journal, alive=False).status == "interrupted"
        journal.append(resumed(epoch))
    assert state_after(kind, journal).status == kind.status
    assert len(calls(journal)) == len(set(calls(journal)))


def replies(events: Sequence[Event], *names: str) -> list[str]:
    """Return which of some steps are called in `events`."""
    return [name for name in names if name in calls(events)]


TWO = plan_json(subtask("s1"), subtask("s2", "critic"))


async def two_lives(
    scripts: Mapping[str, Script], then: Mapping[str, Script], **request: Any
) -> tuple[list[Event], list[Event]]:
    """Return the events of a run that ended, and of its next life with other scripts."""
    kind = Kind(scripts=scripts, request=RunRequest(task="why?", **request))
    first = await go_on(kind, [])
    second = await go_on(kind, [*first, resumed()], then)
    state_after(kind, [*first, resumed(), *second])
    return first, second


def end_of(events: Sequence[Event]) -> RunEnded:
    assert isinstance(events[-1], RunEnded)
    return events[-1]


@pytest.mark.parametrize("problem", [BUSY, CUT], ids=["the call failed", "the replies were cut"])
async def test_what_did_not_succeed_is_tried_again_and_the_answer_made_anew(problem: Any) -> None:
    first, second = await two_lives(
        {"planner": TWO, "worker:critic": problem, "synthesizer": "half of it"},
        {"worker:critic": "done", "synthesizer": "all of it"},
    )
    assert end_of(first).status == "partial"
    assert (end_of(second).status, end_of(second).answer) == ("succeeded", "all of it")
    assert calls(second) == ["subtask/s2/call/1", "synthesis/call/1"]


async def test_what_fails_again_for_the_same_reason_costs_no_new_answer() -> None:
    scripts = {"planner": TWO, "worker:critic": BUSY}
    first, second = await two_lives(scripts, scripts)
    assert end_of(second).reasons == end_of(first).reasons
    assert calls(second) == []


async def test_an_attempt_that_brings_nothing_leaves_what_an_earlier_one_had_brought() -> None:
    first, second = await two_lives({"planner": TWO, "worker:critic": CUT}, {"worker:critic": BUSY})
    (result,) = [event.result for event in second if isinstance(event, SubtaskFinished)]
    assert (result.status, result.text) == ("partial", "half")
    assert "Tried again, it brought nothing: The provider is busy." in result.errors
    assert end_of(second).status == end_of(first).status == "partial"


@pytest.mark.parametrize("problem", [BUSY, CUT], ids=["the call failed", "the replies were cut"])
async def test_a_synthesis_that_did_not_succeed_is_made_again_alone(problem: Any) -> None:
    first, second = await two_lives(
        {"planner": TWO, "synthesizer": problem}, {"synthesizer": "because"}
    )
    assert end_of(first).status == "partial"
    assert (end_of(second).status, end_of(second).answer) == ("succeeded", "because")
    assert calls(second) == ["synthesis/call/1"]


@pytest.mark.parametrize("problem", [BUSY, "no plan"], ids=["the call failed", "no plan came"])
async def test_a_run_that_got_no_plan_is_planned_again(problem: Any) -> None:
    first, second = await two_lives({"planner": problem}, {"planner": TWO})
    assert end_of(first).status == "failed"
    assert end_of(second).status == "succeeded"
    assert replies(second, "plan/call/1") == ["plan/call/1"]


async def test_what_was_mended_is_mended_again_once_other_results_are_there() -> None:
    scripts: dict[str, Script] = {
        "planner": plan_json(
            subtask("s1"), subtask("s2", "critic"), subtask("s3", "writer"), verify="mend"
        ),
        "worker:analyst": second_thoughts("one", "mended"),
        "worker:critic": BUSY,
        "verifier": findings(finding("They differ.", "s1")),
    }
    first, second = await two_lives(scripts, scripts | {"worker:critic": "two"})
    assert end_of(first).status == "partial"
    assert end_of(second).status == "succeeded"
    assert calls(second) == [
        "subtask/s2/call/1",
        "verify/call/1",
        "subtask/s1/mend/call/1",
        "synthesis/call/1",
    ]


async def test_what_was_not_needed_is_not_done_after_all() -> None:
    plan = plan_json(
        subtask("s1", decisive=True),
        subtask("s2", "critic", depends_on=["s1"]),
        subtask("s3", "writer"),
        mode="adaptive",
    )
    scripts: dict[str, Script] = {
        "planner": plan,
        "worker:writer": BUSY,
        "orchestrator": decision(done=True, reason="enough"),
    }
    first, second = await two_lives(scripts, scripts | {"worker:writer": "done"})
    assert end_of(first).status == "partial"
    assert end_of(second).status == "succeeded"
    assert calls(second) == ["subtask/s3/call/1", "synthesis/call/1"]


async def test_what_a_decision_left_out_is_still_told_after_resuming() -> None:
    many = [subtask(f"t{number}", "writer") for number in range(9)]
    scripts: dict[str, Script] = {
        "planner": plan_json(subtask("s1", decisive=True), mode="adaptive"),
        "orchestrator": lambda request: (
            decision(done=True) if "- t0 (" in texts([request])[0] else decision(add=many)
        ),
        "synthesizer": BUSY,
    }
    first, second = await two_lives(scripts, scripts | {"synthesizer": "because"})
    told = [reason for reason in end_of(first).reasons if "was left out" in reason]
    assert len(told) == 2
    assert list(end_of(second).reasons) == told


async def test_an_objection_of_the_guard_stands() -> None:
    scripts: dict[str, Script] = {"planner": TWO, "guard": screening(allowed=False)}
    _, second = await two_lives(
        scripts, scripts | {"guard": screening(allowed=True)}, guard="writer"
    )
    assert end_of(second).status == "failed"


async def test_a_guard_that_could_not_be_asked_is_asked_again() -> None:
    scripts: dict[str, Script] = {"planner": TWO, "guard": BUSY}
    first, second = await two_lives(
        scripts, scripts | {"guard": screening(allowed=True)}, guard="writer"
    )
    assert end_of(first).status == "failed"
    assert end_of(second).status == "succeeded"


CHAIN = plan_json(
    subtask("s1"),
    subtask("s2", "critic", depends_on=["s1"]),
    subtask("s3", "writer", depends_on=["s2"]),
    subtask("s4", "reader"),
)


def builds_on(name: str, *dependencies: str) -> Script:
    """Return the script of a worker whose result says which results it was given."""

    def work(request: Request) -> str:
        (text,) = texts([request])
        return f"{name} with {[item for item in dependencies if f'text of {item}' in text]}"

    return work


CHAIN_SCRIPTS: dict[str, Script] = {
    "planner": CHAIN,
    "worker:analyst": "text of s1",
    "worker:critic": builds_on("text of s2", "s1"),
    "worker:writer": builds_on("text of s3", "s1", "s2"),
}


TOO_MANY = plan_json(*(subtask(f"s{number}") for number in range(10)))


async def resumed_again_and_again(
    scripts: Mapping[str, Script], times: int = 3, **request: Any
) -> list[list[Event]]:
    """Return the events of each life of a run that is resumed with the same scripts."""
    kind = Kind(scripts=scripts, request=RunRequest(task="why?", **request))
    journal: list[Event] = []
    lives: list[list[Event]] = []
    for epoch in range(2, times + 2):
        lives.append(await go_on(kind, journal))
        journal += [*lives[-1], resumed(epoch)]
    return lives


@pytest.mark.parametrize("verify", ["none", "report", "mend"])
async def test_a_partial_run_with_nothing_left_to_retry_is_resumed_without_a_call(
    verify: str,
) -> None:
    scripts: dict[str, Script] = {
        "planner": TOO_MANY,
        "verifier": findings(finding("They differ.", "s1")),
        "synthesizer": "all but two",
    }
    first, *again = await resumed_again_and_again(scripts, verify=verify)
    assert (end_of(first).status, end_of(first).nothing_left) == ("partial", True)
    assert NOTHING_RETRIED not in end_of(first).reasons
    for life in again:
        assert calls(life) == []
        assert (end_of(life).status, end_of(life).answer) == ("partial", "all but two")
        assert end_of(life).reasons == (*end_of(first).reasons, NOTHING_RETRIED)
        assert end_of(life).nothing_left


async def test_long_results_are_not_condensed_again_where_nothing_is_left_to_retry() -> None:
    scripts: dict[str, Script] = {
        "planner": TOO_MANY,
        "worker:analyst": "a" * 300_000,
        "condenser": "short",
    }
    first, again = await resumed_again_and_again(scripts, times=2)
    assert any(name.startswith("condense/") for name in calls(first))
    assert calls(again) == []


async def test_a_partial_run_whose_answer_was_cut_has_something_left_to_retry() -> None:
    first, second = await two_lives(
        {"planner": TOO_MANY, "synthesizer": CUT}, {"synthesizer": "whole"}
    )
    assert not end_of(first).nothing_left
    assert calls(second) == ["synthesis/call/1"]
    assert (end_of(second).answer, end_of(second).nothing_left) == ("whole", True)
    assert NOTHING_RETRIED not in end_of(second).reasons


async def test_a_check_that_could_not_be_made_is_made_and_the_answer_after_it() -> None:
    scripts: dict[str, Script] = {"planner": TWO, "verifier": BUSY, "synthesizer": "unchecked"}
    first, second = await two_lives(
        scripts,
        {"verifier": findings(finding("They differ.", "s1")), "synthesizer": "checked"},
        verify="report",
    )
    assert (end_of(first).status, end_of(first).nothing_left) == ("partial", False)
    assert calls(second) == ["verify/call/1", "synthesis/call/1"]
    assert (end_of(second).status, end_of(second).answer) == ("succeeded", "checked")


async def test_what_was_made_without_a_failed_result_is_done_again_once_that_is_there() -> None:
    first, second = await two_lives(
        CHAIN_SCRIPTS | {"worker:analyst": BUSY, "worker:writer": "text of s3"}, CHAIN_SCRIPTS
    )
    assert end_of(first).status == "partial"
    assert (end_of(second).status, end_of(second).reasons) == ("succeeded", ())
    # The text of s2 is another, so s3 is done again; s4 depends on nothing and is not.
    assert calls(second) == [
        "subtask/s1/call/1",
        "subtask/s2/call/1",
        "subtask/s3/call/1",
        "synthesis/call/1",
    ]
    state = state_after(Kind(scripts={}), [*first, resumed(), *second])
    assert state.subtasks["s2"].result.text == "text of s2 with ['s1']"
    assert {item.status for item in state.subtasks.values()} == {"succeeded"}


async def test_a_dependant_keeps_its_result_where_what_it_was_made_from_comes_out_the_same() -> (
    None
):
    first, second = await two_lives(
        CHAIN_SCRIPTS | {"worker:analyst": BUSY},
        CHAIN_SCRIPTS | {"worker:analyst": BUSY},
    )
    assert end_of(first).status == end_of(second).status == "partial"
    assert calls(second) == []
    kept = [event.subtask_id for event in second if isinstance(event, SubtaskKept)]
    assert kept == ["s2", "s3"]
    state = state_after(Kind(scripts={}), [*first, resumed(), *second])
    assert [item.status for item in state.subtasks.values()] == ["failed", *["succeeded"] * 3]
    assert all(item.ended_at is not None for item in state.subtasks.values())


async def test_a_run_stays_partial_where_a_dependant_cannot_be_done_again() -> None:
    first, second = await two_lives(
        CHAIN_SCRIPTS | {"worker:analyst": BUSY}, CHAIN_SCRIPTS | {"worker:critic": BUSY}
    )
    assert end_of(first).status == end_of(second).status == "partial"
    (reason,) = end_of(second).reasons
    assert reason == (
        "Subtask s2 (critic) is incomplete: It was made before results that it depends on changed. "
        "Done again, it brought nothing: The provider is busy."
    )


async def test_a_run_cut_off_while_dependants_are_done_again_loses_nothing_paid_for() -> None:
    scripts = CHAIN_SCRIPTS | {"planner": CHAIN.replace('"verify": "none"', '"verify": "report"')}
    scripts |= {"verifier": findings()}
    scripts["synthesizer"] = lambda request: f"made of {texts([request])[0].count('text of')}"
    kind = Kind(scripts=scripts)
    first = await go_on(kind, [], scripts | {"worker:analyst": BUSY, "worker:writer": "text of s3"})
    whole = await go_on(kind, [*first, resumed()])
    for cut in range(len(whole)):
        before = [*first, resumed(), *whole[:cut]]
        after = await go_on(kind, [*before, resumed(3)])
        assert (end_of(after).status, end_of(after).answer) == ("succeeded", end_of(whole).answer)
        assert sorted(calls([*whole[:cut], *after])) == sorted(calls(whole))
        state = state_after(kind, [*before, resumed(3), *after])
        assert {item.status for item in state.subtasks.values()} == {"succeeded"}
        assert state.subtasks["s3"].result.text == "text of s3 with ['s2']"


async def test_a_run_cancelled_before_a_dependant_is_done_again_does_not_call_it_done() -> None:
    kind = Kind(scripts=CHAIN_SCRIPTS)
    first = await go_on(kind, [], CHAIN_SCRIPTS | {"worker:analyst": BUSY})
    again = await go_on(kind, [*first, resumed()])
    begun = next(n for n, event in enumerate(again) if event.name == "subtask/s2/start")
    stopped = RunEnded(name="run/end", at=9.0, status="cancelled")
    journal = [*first, resumed(), *again[: begun + 1], stopped]
    state = state_after(kind, journal)
    assert (state.subtasks["s1"].status, state.subtasks["s2"].status) == ("succeeded", "cancelled")
    after = await go_on(kind, [*journal, resumed(3)])
    state = state_after(kind, [*journal, resumed(3), *after])
    assert (state.status, state.subtasks["s2"].result.text) == (
        "succeeded",
        "text of s2 with ['s1']",
    )


async def test_the_trace_tells_which_calls_were_made_again() -> None:
    kind = KINDS["static"]
    whole = await go_on(kind, [])
    began = next(n for n, event in enumerate(whole) if event.name == "subtask/s3/call/1/start")
    before = [*whole[: began + 1], resumed()]
    after = await go_on(kind, before)
    started = RunStarted(name="run/start", at=0.0, request=kind.request)
    span = trace("r-1", [started, *before, *after])
    assert span.attributes["resumed"] == [{"at": 9.0, "by": "test", "epoch": 2}]
    again = [
        (inner.attributes["step"], inner.status)
        for outer in span.spans
        for inner in outer.spans
        if inner.attributes.get("made_again")
    ]
    assert ("subtask/s3/call/1", "succeeded") in again
    cut_off = [inner.status for outer in span.spans for inner in outer.spans].count("interrupted")
    assert cut_off == len(again)
