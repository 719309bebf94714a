"""The pattern of evaluator and optimizer: a critic judges, the worker revises."""

import json
from collections.abc import Callable

import anyio
import anyio.lowlevel
import pytest

from building import RecordedRun, drive, setup, worker
from concertmaster.engine.events import CallFinished, CallStarted, Event, SubtaskFinished
from concertmaster.engine.orchestrator import Orchestrator
from concertmaster.engine.plan.plan import Plan
from concertmaster.engine.request import Limits, RunRequest
from concertmaster.engine.run import Run
from concertmaster.engine.steps import Steps
from concertmaster.errors import ModelUnavailableError, StoreError
from concertmaster.llm.messages import Reply, Request
from fakes import USAGE, FakeLLM, FakeTool, in_turn, reply_with, subtask, texts, wants

pytestmark = pytest.mark.anyio

CONTENT = json.dumps({"points": [], "satisfactory": True})
OBJECTION = json.dumps({"points": ["the year is wrong"], "satisfactory": False})
BUSY = ModelUnavailableError("overloaded", usage=USAGE)


def revise(**fields: object) -> RunRequest:
    strategy = {"kind": "revise"} | fields
    return RunRequest(task="t", plan=Plan(subtasks=(subtask("s1", strategy=strategy),)))


async def test_a_result_that_satisfies_the_critic_is_taken_as_it_is() -> None:
    run, llm = await drive(revise(), {"worker:analyst": "first", "critic": CONTENT})
    result = run.results["s1"]
    assert (result.status, result.text) == ("succeeded", "first")
    assert result.notes == ("A critic read it; it was revised not at all.",)
    assert llm.callers() == ["worker:analyst", "critic"]


async def test_points_go_back_to_the_worker_until_the_critic_is_satisfied() -> None:
    run, llm = await drive(
        revise(rounds=3),
        {
            "worker:analyst": in_turn("first", "second", "third"),
            "critic": in_turn(OBJECTION, OBJECTION, CONTENT),
        },
    )
    result = run.results["s1"]
    assert (result.status, result.text) == ("succeeded", "third")
    assert result.notes == ("A critic read it; it was revised twice.",)
    revision = llm.requests[2]
    assert [message.role for message in revision.messages] == ["user", "assistant", "user"]
    assert getattr(revision.messages[1], "text", "") == "first"
    assert "the year is wrong" in getattr(revision.messages[2], "text", "")


@pytest.mark.parametrize("rounds", [1, 5])
async def test_rounds_are_bounded_and_what_is_open_then_is_told(rounds: int) -> None:
    run, llm = await drive(revise(rounds=rounds), {"critic": OBJECTION})
    assert llm.callers().count("worker:analyst") == 1 + rounds
    assert llm.callers().count("critic") == 1 + rounds
    assert run.end.status == "partial"
    assert "The critic objects: the year is wrong" in run.end.reasons[0]


async def test_every_critic_sees_the_latest_result_and_no_earlier_one() -> None:
    _, llm = await drive(
        revise(),
        {
            "worker:analyst": in_turn("FIRST", "SECOND"),
            "critic": in_turn(OBJECTION, CONTENT),
        },
    )
    first, second = texts([request for request in llm.requests if request.caller == "critic"])
    assert "FIRST" in first
    assert "SECOND" in second
    assert "FIRST" not in second


async def test_a_critic_who_objects_without_a_point_leaves_the_result_incomplete() -> None:
    unhappy = json.dumps({"points": [], "satisfactory": False})
    run, llm = await drive(revise(), {"critic": unhappy})
    assert run.results["s1"].status == "partial"
    assert run.results["s1"].errors == ("The critic was not satisfied and gave no points.",)
    assert llm.callers() == ["worker:analyst", "critic"]


async def test_a_worker_can_be_the_critic_with_its_instructions_and_its_model() -> None:
    _, llm = await drive(
        revise(critic="critic"),
        {"critic": CONTENT},
        workers=[worker("critic", model="haiku", instructions="Doubt everything.")],
    )
    assert llm.requests[1].model == "haiku"
    assert "Doubt everything." in texts(llm.requests)[1]


async def test_the_neutral_critic_uses_the_model_of_workers() -> None:
    _, llm = await drive(revise(), {"critic": CONTENT})
    assert llm.requests[1].model == "small"


async def test_a_result_that_failed_is_shown_to_no_critic() -> None:
    run, llm = await drive(revise(), {"worker:analyst": BUSY})
    assert run.results["s1"].status == "failed"
    assert llm.callers() == ["worker:analyst"]


@pytest.mark.parametrize("critic", [BUSY, "no JSON", '{"points": "none", "satisfactory": 1}'])
@pytest.mark.parametrize("rounds_before", [0, 1])
async def test_a_critic_that_fails_leaves_the_latest_result(
    critic: str | Exception, rounds_before: int
) -> None:
    run, _ = await drive(
        revise(),
        {
            "worker:analyst": in_turn("first", "second"),
            "critic": in_turn(*[OBJECTION] * rounds_before, critic, critic),
        },
    )
    result = run.results["s1"]
    assert (result.status, result.text) == ("partial", ["first", "second"][rounds_before])
    assert "No critic could judge it" in result.errors[0]


@pytest.mark.parametrize("revision", [BUSY, "", reply_with("", stop_reason="refusal")])
@pytest.mark.parametrize("rounds_before", [0, 1])
async def test_a_revision_that_fails_leaves_the_result_before_it_with_the_open_points(
    revision: str | Reply | Exception, rounds_before: int
) -> None:
    good = ["first", "second"][: 1 + rounds_before]
    run, _ = await drive(
        revise(rounds=3),
        {"worker:analyst": in_turn(*good, revision, revision), "critic": OBJECTION},
    )
    result = run.results["s1"]
    assert (result.status, result.text) == ("partial", good[-1])
    assert "the year is wrong No revision came:" in result.errors[0]


async def test_a_fault_in_a_tool_during_a_revision_loses_no_result(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def break_down(_arguments: object, _scope: object) -> str:
        raise ZeroDivisionError

    run, _ = await drive(
        revise(),
        {"worker:analyst": in_turn("first", wants(("look", {}))), "critic": OBJECTION},
        workers=[worker("analyst", tools=("look",))],
        tools=[FakeTool("look", break_down)],
    )
    assert (run.results["s1"].status, run.results["s1"].text) == ("partial", "first")
    assert "ZeroDivisionError" in run.results["s1"].errors[0]
    assert "conversation broke" in caplog.text


async def test_what_failed_revisions_and_critics_cost_is_counted() -> None:
    run, _ = await drive(revise(), {"worker:analyst": in_turn("first", BUSY), "critic": OBJECTION})
    assert run.results["s1"].usage.calls == 3


async def test_a_revision_may_call_tools_for_all_of_its_turns() -> None:
    tool = FakeTool("look", lambda _arguments, _scope: "seen")
    look = wants(("look", {}))
    run, _ = await drive(
        revise(),
        {
            "worker:analyst": in_turn(look, "first", look, "second"),
            "critic": in_turn(OBJECTION, CONTENT),
        },
        workers=[worker("analyst", tools=("look",), max_turns=2)],
        tools=[tool],
    )
    assert run.results["s1"].text == "second"
    assert len(tool.calls) == 2


async def test_worker_and_critic_share_one_slot() -> None:
    at_once = most = 0

    async def count(request: Request) -> str:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await anyio.lowlevel.checkpoint()
        at_once -= 1
        return CONTENT if request.caller == "critic" else "done"

    plan = Plan(subtasks=tuple(subtask(f"s{n}", strategy="revise") for n in range(4)))
    llm = FakeLLM(default=count)
    await RecordedRun(RunRequest(task="t", plan=plan, limits=Limits(slots=2))).drive(setup(llm))
    assert most == 2


SCRIPTS: dict[str, Callable[[Request], str]] = {
    "worker:analyst": lambda request: "second" if len(request.messages) > 1 else "first",
    "critic": lambda request: CONTENT if "second" in texts([request])[0] else OBJECTION,
}


@pytest.mark.parametrize("stopped_after", range(14))
async def test_a_revision_taken_up_at_any_event_makes_no_finished_call_again(
    stopped_after: int,
) -> None:
    whole, llm = await drive(revise(), SCRIPTS)
    recorded: list[Event] = whole.events[:stopped_after]
    finished = sum(isinstance(event, CallFinished) for event in recorded)
    again = FakeLLM(SCRIPTS)
    resumed = RecordedRun(revise(), recorded=recorded)
    await resumed.drive(setup(again))
    assert resumed.end.answer == "second"
    assert len(again.requests) == len(llm.requests) - finished
    assert resumed.run.steps.usage("s1").calls == 4


@pytest.mark.parametrize("call", range(1, 5))
async def test_a_run_cancelled_at_any_call_of_a_revision_writes_no_result(call: int) -> None:
    scope = anyio.CancelScope()

    async def stop(request: Request) -> str:
        if len(llm.requests) == call:
            scope.cancel()
            await anyio.sleep_forever()
        script = SCRIPTS[request.caller]
        return script(request)

    llm = FakeLLM(default=stop)
    run = RecordedRun(revise())
    with scope:
        await run.drive(setup(llm))
    assert scope.cancelled_caught
    assert len(llm.requests) == call
    assert not any(isinstance(event, SubtaskFinished) for event in run.events)
    started = sum(isinstance(event, CallStarted) for event in run.events)
    assert started == call


@pytest.mark.parametrize(
    "refused", ["call/1", "critique/1/call/1", "call/2", "critique/2/call/1", "result"]
)
async def test_a_journal_that_cannot_be_written_stops_a_revision(refused: str) -> None:
    async def append(event: Event, /, *, wait: bool = True) -> None:
        del wait
        if event.name == f"subtask/s1/{refused}":
            raise StoreError("disk full")

    run = Run(request=revise(), documents={}, steps=Steps(append))
    with pytest.raises(StoreError):
        await Orchestrator(setup(FakeLLM(SCRIPTS))).drive(run)
