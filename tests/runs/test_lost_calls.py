"""Calls whose process was killed: what they had taken counts, in every projection of the run."""

from collections.abc import Sequence

import pytest

from concertmaster.engine.events import (
    CallFailed,
    CallFinished,
    CallProgressed,
    CallStarted,
    Event,
    PlanAccepted,
    RunEnded,
    RunResumed,
    RunStarted,
    SubtaskStarted,
)
from concertmaster.engine.plan.plan import Plan
from concertmaster.engine.replay import Recorded
from concertmaster.engine.request import RunRequest
from concertmaster.engine.steps import Steps
from concertmaster.llm.usage import NO_USAGE, Usage
from concertmaster.runs.state import fold
from concertmaster.runs.trace import Span, trace
from concertmaster.telemetry.conventions import usage_of
from fakes import USAGE, reply_with, subtask

STEP = "subtask/s1/call/1"
BEGINNING = (
    RunStarted(name="run/start", at=0, request=RunRequest(task="t")),
    PlanAccepted(name="plan/1", at=1, plan=Plan(subtasks=(subtask("s1"),))),
)
BEGUN: Sequence[Event] = (
    SubtaskStarted(name="subtask/s1/start", at=2, subtask_id="s1"),
    CallStarted(
        name=f"{STEP}/start", at=3, step=STEP, caller="worker:analyst", model="m", subtask_id="s1"
    ),
)


def so_far(tokens_out: int) -> Usage:
    """Return what a call had taken of which one token of output was reported."""
    estimated = tokens_out - 1
    return USAGE.model_copy(update={"tokens_out": tokens_out, "estimated_out": estimated})


def lost(tokens_out: int) -> Usage:
    return so_far(tokens_out).model_copy(update={"estimated_out": tokens_out})


def progressed(number: int, tokens_out: int) -> Event:
    return CallProgressed(
        name=f"{STEP}/usage/{number}",
        at=4,
        step=STEP,
        caller="worker:analyst",
        subtask_id="s1",
        usage=so_far(tokens_out),
    )


FINISHED = CallFinished(
    name=STEP, at=6, caller="worker:analyst", subtask_id="s1", reply=reply_with("done")
)
FAILED = CallFailed(
    name=f"{STEP}/failed", at=6, step=STEP, caller="worker", subtask_id="s1", error="", usage=USAGE
)
RESUMED = RunResumed(name="run/resume", at=7, epoch=2, by="a test")
ENDED = RunEnded(name="run/end", at=9, status="cancelled")


def calls_in(span: Span) -> list[Span]:
    inner = [call for each in span.spans for call in calls_in(each)]
    return [span, *inner] if span.kind == "call" else inner


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([*BEGUN], NO_USAGE),
        ([*BEGUN, progressed(1, 1), progressed(2, 5)], lost(5)),
        ([*BEGUN, progressed(1, 5), FINISHED], USAGE),
        ([*BEGUN, progressed(1, 5), FAILED], USAGE),
        ([*BEGUN, progressed(1, 5), RESUMED, *BEGUN, FINISHED], lost(5) + USAGE),
        ([*BEGUN, progressed(1, 5), RESUMED, *BEGUN, FAILED], lost(5) + USAGE),
        (
            [*BEGUN, progressed(1, 5), RESUMED, *BEGUN, progressed(1, 3)],
            lost(5) + lost(3),
        ),
        ([*BEGUN, progressed(1, 5), RESUMED, *BEGUN, progressed(1, 3), FINISHED], lost(5) + USAGE),
        ([*BEGUN, progressed(1, 5), ENDED], lost(5)),
        ([*BEGUN, progressed(1, 5), ENDED, RESUMED], lost(5)),
    ],
)
def test_what_a_call_had_taken_counts_once_in_all_projections_when_it_never_ends(
    events: Sequence[Event], expected: Usage
) -> None:
    whole = [*BEGINNING, *events]
    state = fold("r-1", whole, alive=False)
    tree = trace("r-1", whole, alive=False)
    assert state.usage == state.subtasks["s1"].usage == expected
    assert Recorded(whole).usage.get("s1", NO_USAGE) == expected
    assert usage_of(tree) == expected
    assert sum((usage_of(call) for call in calls_in(tree)), start=NO_USAGE) == expected


def test_a_call_that_is_under_way_is_not_counted_as_lost() -> None:
    whole = [*BEGINNING, *BEGUN, progressed(1, 5)]
    assert fold("r-1", whole, alive=True).usage == NO_USAGE
    assert usage_of(trace("r-1", whole, alive=True)) == NO_USAGE


def test_a_resumed_run_has_less_to_spend_by_what_was_lost() -> None:
    async def append(_event: Event, /, *, wait: bool = True) -> None:
        del wait

    steps = Steps(append, recorded=[*BEGINNING, *BEGUN, progressed(1, 5), RESUMED])
    assert steps.usage("s1") == lost(5)
    left, limit = steps.spending.left, steps.spending.limit
    assert limit.usd - left.usd == pytest.approx(USAGE.usd)
    assert limit.tokens - left.tokens == USAGE.tokens_in + 5


def test_the_trace_shows_a_lost_call_as_interrupted_with_what_it_had_taken() -> None:
    tree = trace("r-1", [*BEGINNING, *BEGUN, progressed(1, 5), RESUMED], alive=True)
    (call,) = calls_in(tree)
    assert (call.status, usage_of(call)) == ("interrupted", lost(5))
