"""Deadlines, in virtual time: an hour takes no time."""

import math
from collections.abc import Awaitable
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import pytest
from pydantic import ValidationError
from trio.testing import MockClock

from building import RecordedRun, drive, setup, worker
from concertmaster.engine.events import CallFailed, CallFinished, RunEnded
from concertmaster.engine.plan.plan import Plan
from concertmaster.engine.request import Limits, RunRequest
from concertmaster.engine.strategies import condensing
from concertmaster.llm.messages import Draft, Reply, Request
from concertmaster.llm.wrapper import Brake, Braked
from fakes import USAGE, FakeLLM, FakeTool, plan_json, subtask, wants
from patterns import findings, screening

pytestmark = pytest.mark.anyio

LIMITS = Limits(subtask_seconds=60, run_seconds=600)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return ("trio", {"clock": MockClock(autojump_threshold=0)})


AnswerT = TypeVar("AnswerT", str, Reply)


async def after(seconds: float, answer: AnswerT = "late") -> AnswerT:
    await anyio.sleep(seconds)
    return answer


def request(*subtasks: object, limits: Limits = LIMITS) -> RunRequest:
    return RunRequest(task="t", plan=Plan.model_validate({"subtasks": subtasks}), limits=limits)


async def test_a_subtask_that_passes_its_deadline_fails_and_its_sibling_does_not() -> None:
    run, _ = await drive(
        request(subtask("s1"), subtask("s2", "critic")),
        {"worker:analyst": lambda _request: after(61)},
    )
    assert run.results["s1"].status == "failed"
    assert "deadline of 60 s" in run.results["s1"].errors[0]
    assert run.results["s2"].status == "succeeded"


@pytest.mark.parametrize(
    ("own", "by_worker", "expected"), [(10, 20, 10), (None, 20, 20), (None, None, 60)]
)
async def test_the_nearest_limit_holds(
    own: float | None, by_worker: float | None, expected: float
) -> None:
    run, _ = await drive(
        request(subtask("s1", timeout_seconds=own)),
        {"worker:analyst": lambda _request: after(3600)},
        workers=[worker("analyst", timeout_seconds=by_worker)],
    )
    assert f"deadline of {expected} s" in run.results["s1"].errors[0]
    assert run.results["s1"].status == "failed"


class SlowlyWriting(FakeLLM):
    """Writes a piece and then nothing more."""

    async def complete(self, request: Request, draft: Draft, /) -> Reply:
        self.requests.append(request)
        draft.update(text="so far", usage=USAGE)
        await anyio.sleep(3600)
        raise AssertionError("unreachable")


async def test_text_that_arrived_before_the_deadline_is_partial_and_its_cost_counted() -> None:
    run = RecordedRun(request(subtask("s1")))
    await run.drive(setup(SlowlyWriting()))
    assert (run.results["s1"].status, run.results["s1"].text) == ("partial", "so far")
    assert run.results["s1"].usage == USAGE
    abandoned = [event for event in run.events if isinstance(event, CallFailed)]
    assert [event.usage for event in abandoned] == [USAGE]


async def test_when_the_run_s_time_is_up_nothing_new_starts_and_the_rest_is_synthesized() -> None:
    limits = Limits(subtask_seconds=3600, run_seconds=100, slots=1)
    run, llm = await drive(
        request(subtask("s1"), subtask("s2", "critic"), subtask("s3", "writer"), limits=limits),
        {
            "worker:analyst": lambda _request: after(50, "in time"),
            "worker:critic": lambda _request: after(50),
            "synthesizer": "what there is",
        },
    )
    statuses = [run.results[name].status for name in ("s1", "s2", "s3")]
    assert statuses == ["succeeded", "failed", "skipped"]
    assert "worker:writer" not in llm.callers()
    assert (run.end.status, run.end.answer) == ("partial", "what there is")
    assert any("time was up" in reason for reason in run.end.reasons)


async def test_a_part_that_gets_its_slot_when_the_time_is_up_is_not_asked_for() -> None:
    strategy = {"kind": "map", "over": "contexts", "contexts": [{"part": "1"}, {"part": "2"}]}
    limits = Limits(subtask_seconds=100, run_seconds=100, slots=1)
    run, llm = await drive(
        request(subtask("s1", strategy=strategy), limits=limits),
        {"worker:analyst": lambda _request: after(100)},
    )
    assert llm.callers() == ["worker:analyst"]
    assert "No time was left for it." in run.results["s1"].errors[0]


async def test_a_worker_run_has_all_of_its_time_for_the_work() -> None:
    limits = Limits(subtask_seconds=100, run_seconds=100)
    one = request(subtask("s1"), limits=limits).model_copy(update={"kind": "worker"})
    run, _ = await drive(one, {"worker:analyst": lambda _request: after(99, "in time")})
    assert run.end.answer == "in time"


async def test_a_plan_that_takes_too_long_fails_the_run() -> None:
    run, _ = await drive(
        RunRequest(task="t", limits=LIMITS), {"planner": lambda _request: after(3600)}
    )
    assert run.end.status == "failed"
    assert "longer than 480 s" in run.end.reasons[0]


async def test_a_synthesis_that_takes_too_long_leaves_the_results_as_they_are() -> None:
    run, _ = await drive(
        RunRequest(task="t", limits=LIMITS),
        {
            "planner": plan_json(subtask("s1"), subtask("s2", "critic")),
            "synthesizer": lambda _request: after(3600),
        },
    )
    assert run.end.status == "partial"
    assert run.end.answer.count("done") == 2


async def test_makespan_is_the_critical_path() -> None:
    """Two chains that cross: a barrier between levels would take 6 s, not 4 s."""
    durations = {"a1": 1.0, "a2": 3.0, "b1": 3.0, "b2": 1.0}
    plan = [
        subtask("a1", "a1"),
        subtask("b1", "b1"),
        subtask("a2", "a2", depends_on=["a1"]),
        subtask("b2", "b2", depends_on=["b1"]),
    ]

    def slow(request: Request) -> Awaitable[str]:
        return after(durations[request.caller.removeprefix("worker:")])

    started = anyio.current_time()
    await drive(
        request(*plan),
        {f"worker:{name}": slow for name in durations},
        workers=[worker(name) for name in durations],
    )
    assert anyio.current_time() - started == pytest.approx(4.0)


async def test_cancelling_a_run_ends_its_calls_and_commits_what_had_come_back() -> None:
    run = RecordedRun(request(subtask("s1"), subtask("s2", "critic")))
    llm = FakeLLM({"worker:critic": lambda _request: after(3600)})
    with anyio.move_on_after(1) as scope:
        await run.drive(setup(llm))
    assert scope.cancelled_caught
    assert [event.name for event in run.events if isinstance(event, CallFinished)] == [
        "subtask/s1/call/1"
    ]
    abandoned = [event for event in run.events if isinstance(event, CallFailed)]
    assert [(event.step, event.error) for event in abandoned] == [
        ("subtask/s2/call/1", "abandoned")
    ]


FROM_PLANNING = {"planner": plan_json(subtask("s1"), subtask("s2", "critic"))}


@pytest.mark.parametrize(
    ("order", "last"),
    [
        (request(subtask("s1"), subtask("s2", "critic", depends_on=["s1"])), "worker:critic"),
        (RunRequest(task="t", limits=LIMITS), "planner"),
        (RunRequest(task="t", limits=LIMITS), "worker:analyst"),
        (RunRequest(task="t", limits=LIMITS), "synthesizer"),
        (RunRequest(task="t", limits=LIMITS, guard="writer"), "guard"),
        (RunRequest(task="t", limits=LIMITS, verify="report"), "verifier"),
    ],
)
@pytest.mark.parametrize("pulled_at", [0, 30], ids=["before the call", "during the call"])
async def test_time_that_is_up_once_the_process_is_to_end_decides_nothing(
    order: RunRequest, last: str, pulled_at: float
) -> None:
    brake = Brake()
    scripts = {"guard": screening(allowed=True), "verifier": findings(), **FROM_PLANNING}
    llm = FakeLLM({**scripts, last: lambda _request: after(3600)})

    class Pulling(FakeLLM):
        async def complete(self, request: Request, draft: Draft, /) -> Reply:
            if request.caller == last and not pulled_at:
                tasks.start_soon(brake.pull)
                await anyio.lowlevel.checkpoint()
            return await Braked(llm, brake).complete(request, draft)

    run = RecordedRun(order, brake=brake)
    async with anyio.create_task_group() as tasks:
        if pulled_at:
            tasks.start_soon(pull_later, brake, pulled_at)
        with anyio.move_on_after(10 * 3600):
            await run.drive(setup(Pulling()))
        tasks.cancel_scope.cancel()
    assert run.events
    assert not [event for event in run.events if isinstance(event, RunEnded)]
    assert all(result.status == "succeeded" for result in run.results.values())
    again = RecordedRun(order, recorded=run.events)
    await again.drive(setup(FakeLLM(scripts)))
    assert again.end.status == "succeeded"


async def pull_later(brake: Brake, seconds: float) -> None:
    await anyio.sleep(seconds)
    await brake.pull()


async def test_a_tool_that_is_not_called_because_the_process_is_to_end_fails_nothing() -> None:
    brake = Brake()
    tool = FakeTool("look", lambda _arguments, _scope: "seen")
    llm = FakeLLM({"worker:analyst": lambda _request: after(1, wants(("look", {})))})
    run = RecordedRun(request(subtask("s1")), brake=brake)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(brake.pull)
        with anyio.move_on_after(3600):
            analyst = worker("analyst", tools=("look",))
            await run.drive(setup(llm, workers=[analyst], tools=[tool]))
    assert (tool.calls, run.results) == ([], {})


async def held_up(brake: Brake) -> str:
    """Take as long as a call that waits for its turn when the process is told to end."""
    await anyio.sleep(1)
    await brake.pull()
    return await after(3600)


async def test_time_that_is_up_while_the_guard_is_waited_for_decides_nothing() -> None:
    brake = Brake()
    tool = FakeTool("send", lambda _arguments, _scope: "sent", outward=True)
    caller = worker("caller", tools=("send",))
    order = request(subtask("s1", "caller", timeout_seconds=30))
    order = order.model_copy(update={"guard": "writer"})
    llm = FakeLLM({"guard": lambda _: held_up(brake), "worker:caller": wants(("send", {}))})
    run = RecordedRun(order, brake=brake)
    with anyio.move_on_after(3600):
        await run.drive(setup(llm, workers=[caller], tools=[tool]))
    assert (len(run.calls), run.results) == (1, {})
    again = RecordedRun(order, recorded=run.events)
    llm = FakeLLM({"guard": screening(allowed=True), "worker:caller": "sent it"})
    await again.drive(setup(llm, workers=[caller], tools=[tool]))
    assert (again.end.status, again.end.answer, len(tool.calls)) == ("succeeded", "sent it", 1)


@pytest.mark.parametrize("seconds", [math.inf, math.nan, "inf"])
def test_a_limit_of_time_has_an_end(seconds: Any) -> None:
    with pytest.raises(ValidationError):
        Limits(run_seconds=seconds)


async def test_condensing_that_hangs_leaves_time_for_the_synthesis_of_what_there_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(condensing, "READABLE_CHARS", 1000)
    began = anyio.current_time()
    run, llm = await drive(
        request(*(subtask(f"s{number}") for number in range(6))),
        {
            "worker:analyst": "x" * 900,
            "condenser": lambda _: after(3600),
            "synthesizer": lambda _: after(100, "because"),
        },
    )
    assert (run.end.status, run.end.answer) == ("succeeded", "because")
    assert llm.callers().count("condenser") == 6
    assert anyio.current_time() - began == pytest.approx(300 + 100)


async def test_rounds_of_condensing_share_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(condensing, "READABLE_CHARS", 1000)
    began = anyio.current_time()
    seconds = iter((200, 200, 3600, 3600, 3600, 3600))
    run, _ = await drive(
        request(subtask("s1"), subtask("s2", "critic")),
        {
            "worker:analyst": "x" * 990,
            "worker:critic": "x" * 990,
            "condenser": lambda _: after(next(seconds), "y" * 900),
            "synthesizer": lambda _: after(100, "because"),
        },
    )
    assert (run.end.status, run.end.answer) == ("succeeded", "because")
    assert anyio.current_time() - began == pytest.approx(300 + 100)
