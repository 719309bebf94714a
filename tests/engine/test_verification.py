"""Checking the results of a run against one another, and mending what is found."""

import json
from collections.abc import Callable

import anyio
import pytest

from building import RecordedRun, drive, setup, worker
from concertmaster.engine.events import CallFinished, Event, ResultsVerified, SubtaskFinished
from concertmaster.engine.plan.plan import Plan, Subtask, Verify
from concertmaster.engine.request import Limits, RunRequest
from concertmaster.errors import ModelUnavailableError, StoreError
from concertmaster.llm.messages import Request
from fakes import (
    USAGE,
    Answer,
    FakeLLM,
    FakeTool,
    Script,
    in_turn,
    plan_json,
    reply_with,
    subtask,
    texts,
    wants,
)

pytestmark = pytest.mark.anyio

TWO = (subtask("s1"), subtask("s2", "critic"))
BUSY = ModelUnavailableError("overloaded", usage=USAGE)


def checked(*subtasks: Subtask, verify: Verify = "report", slots: int = 8) -> RunRequest:
    plan = Plan(subtasks=subtasks or TWO)
    return RunRequest(task="t", plan=plan, verify=verify, limits=Limits(slots=slots))


def found(*subtasks: str, what: str = "they name it differently", mend: str = "use b") -> str:
    finding = {"what": what, "mend": mend, "severity": "high", "subtasks": subtasks}
    return json.dumps({"findings": [finding]})


AGREED = json.dumps({"findings": []})


def revising(first: str, second: str | Exception) -> Callable[[Request], str | Exception]:
    """Return a worker that answers `first`, and `second` when it is to revise that."""
    return lambda request: second if len(request.messages) > 1 else first


async def test_results_that_agree_leave_everything_as_it_is() -> None:
    run, llm = await drive(checked(), {"verifier": AGREED, "synthesizer": "so"})
    assert (run.end.status, run.end.answer) == ("succeeded", "so")
    assert llm.callers()[-2:] == ["verifier", "synthesizer"]


async def test_the_verifier_reads_every_result_with_its_objective() -> None:
    _, llm = await drive(
        checked(), {"worker:analyst": "ALPHA", "worker:critic": "BETA", "verifier": AGREED}
    )
    (text,) = texts([request for request in llm.requests if request.caller == "verifier"])
    for word in ("ALPHA", "BETA", "do s1", "do s2"):
        assert word in text


async def test_what_is_found_is_told_to_the_synthesis_and_leaves_the_run_whole() -> None:
    run, llm = await drive(checked(), {"verifier": found("s2")})
    told = texts(llm.requests[-1:])[0]
    assert "one another (s2, high): they name it differently" in told
    assert "sent back" not in told
    assert run.end.status == "succeeded"
    (event,) = [item for item in run.events if isinstance(item, ResultsVerified)]
    assert [finding.what for finding in event.findings] == ["they name it differently"]
    assert llm.callers().count("worker:critic") == 1


@pytest.mark.parametrize(
    "scripts",
    [
        {"worker:critic": BUSY},
        {"worker:critic": BUSY, "worker:analyst": BUSY},
    ],
)
async def test_fewer_than_two_results_are_not_checked(scripts: dict[str, Script]) -> None:
    _, llm = await drive(checked(), scripts)
    assert "verifier" not in llm.callers()


async def test_one_subtask_alone_is_not_checked() -> None:
    _, llm = await drive(checked(subtask("s1")), {})
    assert llm.callers() == ["worker:analyst"]


@pytest.mark.parametrize("verifier", [BUSY, "no JSON", '{"findings": "none"}'])
async def test_a_verifier_that_fails_leaves_the_results_and_makes_the_run_partial(
    verifier: Script,
) -> None:
    run, llm = await drive(checked(verify="mend"), {"verifier": verifier, "synthesizer": "so"})
    assert (run.end.status, run.end.answer) == ("partial", "so")
    assert "The results were not checked against one another: " in run.end.reasons[0]
    assert run.end.reasons[0] in texts(llm.requests[-1:])[0]


async def test_the_plan_decides_where_the_request_does_not() -> None:
    plan = plan_json(*TWO, verify="report")
    _, by_plan = await drive(RunRequest(task="t"), {"planner": plan, "verifier": AGREED})
    _, against = await drive(RunRequest(task="t", verify="none"), {"planner": plan})
    assert "verifier" in by_plan.callers()
    assert "verifier" not in against.callers()


async def test_results_that_a_finding_concerns_are_revised_once_by_their_workers() -> None:
    run, llm = await drive(
        checked(verify="mend"),
        {
            "worker:analyst": "first",
            "worker:critic": revising("second", "mended"),
            "verifier": found("s2"),
        },
    )
    assert run.results["s1"].text == "first"
    assert (run.results["s2"].status, run.results["s2"].text) == ("succeeded", "mended")
    assert run.results["s2"].usage.calls == 2
    assert "revised it after the check" in run.results["s2"].notes[0]
    assert llm.callers().count("verifier") == 1
    told = texts(llm.requests[-1:])[0]
    assert "mended" in told
    assert "they name it differently It was sent back." in told
    mending = next(request for request in llm.requests if len(request.messages) == 3)
    assert "they name it differently use b" in getattr(mending.messages[2], "text", "")


async def test_a_finding_that_concerns_no_result_is_told_and_sent_nowhere() -> None:
    _, llm = await drive(checked(verify="mend"), {"verifier": found()})
    told = texts(llm.requests[-1:])[0]
    assert "(the results, high)" in told
    assert "sent back" not in told
    assert llm.callers().count("worker:critic") == 1


async def test_a_worker_that_mends_has_the_results_that_it_built_on() -> None:
    _, llm = await drive(
        checked(subtask("s1"), subtask("s2", "critic", depends_on=["s1"]), verify="mend"),
        {"worker:analyst": "GROUNDWORK", "verifier": found("s2")},
    )
    mending = next(request for request in llm.requests if len(request.messages) == 3)
    assert "GROUNDWORK" in texts([mending])[0]


CHAIN = (
    subtask("s1"),
    subtask("s2", "critic", depends_on=["s1"]),
    subtask("s3", "writer", depends_on=["s2"]),
    subtask("s4", "writer"),
)


async def test_what_was_made_from_a_revised_result_is_revised_too_down_to_the_last() -> None:
    run, llm = await drive(
        checked(*CHAIN, verify="mend"),
        {
            "worker:analyst": revising("s1 wrong", "s1 right"),
            "worker:critic": revising("s2 wrong", "s2 right"),
            "worker:writer": revising("s3 wrong", "s3 right"),
            "verifier": found("s1"),
        },
    )
    assert run.end.status == "succeeded"
    final = {name: item.text for name, item in run.results.items()}
    assert final == {"s1": "s1 right", "s2": "s2 right", "s3": "s3 right", "s4": "s3 wrong"}
    revisions = {item.caller: item for item in llm.requests if len(item.messages) == 3}
    for caller, new in (("worker:critic", "s1 right"), ("worker:writer", "s2 right")):
        assert new in texts([revisions[caller]])[0]
        assert "made from results that have been revised since" in getattr(
            revisions[caller].messages[2], "text", ""
        )


async def test_a_result_that_cannot_be_brought_into_line_makes_the_run_partial() -> None:
    run, _ = await drive(
        checked(*CHAIN[:2], verify="mend"),
        {
            "worker:analyst": revising("s1 wrong", "s1 right"),
            "worker:critic": revising("s2 wrong", BUSY),
            "verifier": found("s1"),
        },
    )
    assert run.end.status == "partial"
    assert run.end.reasons[0].startswith("Subtask s2 (critic) is incomplete: It was not revised")
    assert run.results["s2"].text == "s2 wrong"


@pytest.mark.parametrize("mended", [BUSY, "", reply_with("", stop_reason="refusal")])
async def test_mending_that_fails_keeps_the_old_result_and_says_so(mended: Answer) -> None:
    run, _ = await drive(
        checked(verify="mend"),
        {
            "worker:critic": lambda request: mended if len(request.messages) > 1 else "second",
            "verifier": found("s2"),
        },
    )
    assert (run.results["s2"].status, run.results["s2"].text) == ("partial", "second")
    assert "It was not revised after the check of all results" in run.end.reasons[0]


async def test_a_fault_in_a_tool_while_mending_keeps_the_old_result(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def break_down(_arguments: object, _scope: object) -> str:
        raise ZeroDivisionError

    run, _ = await drive(
        checked(verify="mend"),
        {
            "worker:critic": lambda request: (
                wants(("look", {})) if len(request.messages) > 1 else "second"
            ),
            "verifier": found("s2"),
        },
        workers=[worker("critic", tools=("look",))],
        tools=[FakeTool("look", break_down)],
    )
    assert (run.results["s2"].status, run.results["s2"].text) == ("partial", "second")
    assert "conversation broke" in caplog.text


async def test_a_result_that_was_incomplete_stays_so_when_it_is_mended() -> None:
    cut = reply_with("cut", stop_reason="max_tokens")
    run, _ = await drive(
        checked(verify="mend"),
        {"worker:critic": in_turn(cut, cut, "mended"), "verifier": found("s2")},
    )
    assert (run.results["s2"].status, run.results["s2"].text) == ("partial", "mended")
    assert "The reply was cut" in run.results["s2"].errors[0]


async def test_mending_takes_no_more_slots_than_there_are_and_happens_at_the_same_time() -> None:
    at_once = most = 0
    two = anyio.Event()

    async def mend(request: Request) -> str:
        nonlocal at_once, most
        if len(request.messages) == 1:
            return "first"
        at_once += 1
        most = max(most, at_once)
        if at_once == 2:
            two.set()
        await two.wait()
        at_once -= 1
        return "mended"

    names = [f"s{number}" for number in range(5)]
    with anyio.fail_after(60):
        run, _ = await drive(
            checked(*(subtask(name) for name in names), verify="mend", slots=2),
            {"worker:analyst": mend, "verifier": found(*names)},
        )
    assert most == 2
    assert {result.text for result in run.results.values()} == {"mended"}


MENDED: dict[str, Script] = {
    "worker:critic": revising("second", "mended"),
    "verifier": found("s2"),
    "synthesizer": lambda request: "so" if "mended" in texts([request])[0] else "unmended",
}


async def verified_run() -> RecordedRun:
    run, _ = await drive(checked(verify="mend"), MENDED)
    return run


@pytest.mark.parametrize("stopped_after", range(20))
async def test_a_verification_taken_up_at_any_event_makes_no_finished_call_again(
    stopped_after: int,
) -> None:
    whole = await verified_run()
    recorded: list[Event] = whole.events[:stopped_after]
    finished = sum(isinstance(event, CallFinished) for event in recorded)
    llm = FakeLLM(MENDED)
    resumed = RecordedRun(checked(verify="mend"), recorded=recorded)
    end = await resumed.drive(setup(llm))
    assert (end.status, end.answer) == ("succeeded", "so")
    assert len(llm.requests) == 5 - finished


async def test_a_mending_that_failed_is_tried_again_when_the_run_is_taken_up() -> None:
    failing = {**MENDED, "worker:critic": revising("second", BUSY)}
    whole, _ = await drive(checked(verify="mend"), failing)
    llm = FakeLLM(MENDED)
    resumed = RecordedRun(checked(verify="mend"), recorded=whole.events[:-3])
    await resumed.drive(setup(llm))
    assert (resumed.results["s2"].status, resumed.results["s2"].text) == ("succeeded", "mended")


@pytest.mark.parametrize("caller", ["verifier", "worker:critic"])
async def test_a_run_cancelled_while_it_is_verified_mends_nothing(caller: str) -> None:
    scope = anyio.CancelScope()

    async def stop(request: Request) -> str:
        if request.caller == caller and (caller == "verifier" or len(request.messages) > 1):
            scope.cancel()
            await anyio.sleep_forever()
        return found("s2") if request.caller == "verifier" else "done"

    run = RecordedRun(checked(verify="mend"))
    with anyio.fail_after(60), scope:
        await run.drive(setup(FakeLLM(default=stop)))
    assert scope.cancelled_caught
    assert sum(isinstance(event, SubtaskFinished) for event in run.events) == 2


@pytest.mark.parametrize(
    "refused",
    ["verify/call/1", "verification", "subtask/s2/mend/call/1", "subtask/s2/result/mended"],
)
async def test_a_journal_that_cannot_be_written_stops_a_verification(refused: str) -> None:
    async def refuse(event: Event) -> None:
        if event.name == refused:
            raise StoreError("disk full")

    with pytest.raises(StoreError):
        await RecordedRun(checked(verify="mend"), before=refuse).drive(setup(FakeLLM(MENDED)))
