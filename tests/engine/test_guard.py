"""A guard that screens the task while the first work on it has begun."""

import json

import anyio
import pytest

from building import ROOT, RecordedRun, drive, setup, worker
from concertmaster.catalog.definitions import read_worker
from concertmaster.engine import guard
from concertmaster.engine.events import CallFailed, CallFinished, Event, GuardDecided, RunEnded
from concertmaster.engine.plan.plan import Plan
from concertmaster.engine.request import Limits, RunRequest
from concertmaster.engine.run import Setup
from concertmaster.errors import ModelUnavailableError, StoreError
from concertmaster.llm.messages import Reply, Request, ToolMessage
from fakes import USAGE, FakeLLM, FakeTool, Script, plan_json, subtask, texts, wants

pytestmark = pytest.mark.anyio

PLAN = Plan(subtasks=(subtask("s1"), subtask("s2", "writer")))
GUARDED = RunRequest(task="the task", plan=PLAN, guard="critic")
PASSED = json.dumps({"allowed": True, "reason": "nothing is touched"})
OBJECTED = json.dumps({"allowed": False, "reason": "it names a customer"})
SCRIPTS: dict[str, Script] = {"guard": PASSED, "synthesizer": "so"}


def decisions(run: RecordedRun) -> list[tuple[bool, str]]:
    return [(event.passed, event.reason) for event in run.events if isinstance(event, GuardDecided)]


async def test_a_task_that_passes_is_worked_on_as_ever() -> None:
    run, llm = await drive(GUARDED, SCRIPTS)
    assert (run.end.status, run.end.answer) == ("succeeded", "so")
    assert llm.callers().count("guard") == 1
    assert decisions(run) == [(True, "nothing is touched")]


def calling(tool: FakeTool, asked: anyio.Event, verdict: str) -> tuple[Setup, list[int]]:
    """Return a setup whose guard answers only once a worker has asked for `tool`."""
    calls_before: list[int] = []

    def ask(request: Request) -> Reply | str:
        asked.set()
        told = isinstance(request.messages[-1], ToolMessage)
        return "told" if told else wants((tool.spec.name, {}))

    async def screen(_: Request) -> str:
        await asked.wait()
        await anyio.wait_all_tasks_blocked()
        calls_before.append(len(tool.calls))
        return verdict

    llm = FakeLLM({"worker:analyst": ask, "guard": screen})
    caller = worker("analyst", tools=(tool.spec.name,))
    return setup(llm, workers=[caller], tools=[tool]), calls_before


ONE = GUARDED.model_copy(update={"plan": Plan(subtasks=(subtask("s1"),))})


@pytest.mark.parametrize(("verdict", "calls"), [(PASSED, 1), (OBJECTED, 0)])
async def test_nothing_is_said_to_others_by_a_tool_before_the_guard_lets_it_pass(
    verdict: str, calls: int
) -> None:
    tool = FakeTool("look", lambda _arguments, _scope: "seen", outward=True)
    chosen, before = calling(tool, anyio.Event(), verdict)
    with anyio.fail_after(60):
        await RecordedRun(ONE).drive(chosen)
    assert before == [0]
    assert len(tool.calls) == calls


async def test_a_tool_that_tells_nobody_is_called_while_the_guard_is_reading() -> None:
    tool = FakeTool("look", lambda _arguments, _scope: "seen")
    chosen, before = calling(tool, anyio.Event(), PASSED)
    with anyio.fail_after(60):
        await RecordedRun(ONE).drive(chosen)
    assert before == [1]


async def test_a_run_without_a_guard_is_not_screened() -> None:
    run, llm = await drive(GUARDED.model_copy(update={"guard": ""}), SCRIPTS)
    assert "guard" not in llm.callers()
    assert decisions(run) == []


async def test_the_guard_judges_by_its_worker_s_rules_with_every_input_and_its_model() -> None:
    _, llm = await drive(
        GUARDED,
        SCRIPTS,
        inputs={"a.txt": "ALPHA", "b.txt": "BETA"},
        workers=[worker("critic", instructions="No customers.", model="haiku")],
    )
    (asked,) = [request for request in llm.requests if request.caller == "guard"]
    assert "No customers." in texts([asked])[0]
    assert "the task" in texts([asked])[0]
    assert "ALPHA" in asked.shared
    assert "BETA" in asked.shared
    assert asked.model == "haiku"


async def test_work_is_under_way_while_the_guard_screens() -> None:
    working = anyio.Event()

    def work(_request: Request) -> str:
        working.set()
        return "done"

    async def once_work_has_begun(_request: Request) -> str:
        await working.wait()
        return PASSED

    with anyio.fail_after(60):
        run, _ = await drive(GUARDED, {"worker:analyst": work, "guard": once_work_has_begun})
    assert run.end.status == "succeeded"


async def test_a_run_whose_work_is_done_ends_only_when_the_guard_has_decided() -> None:
    run = RecordedRun(GUARDED)

    async def once_all_is_done(_request: Request) -> str:
        await anyio.wait_all_tasks_blocked()
        assert "synthesizer" in llm.callers()
        assert not any(isinstance(event, RunEnded) for event in run.events)
        return PASSED

    llm = FakeLLM({**SCRIPTS, "guard": once_all_is_done})
    with anyio.fail_after(60):
        await run.drive(setup(llm))
    kinds = [type(event) for event in run.events]
    assert kinds.index(GuardDecided) < kinds.index(RunEnded)


async def test_an_objection_stops_all_work_and_the_run_fails_with_its_reason() -> None:
    both = anyio.Event()
    started: list[str] = []

    async def never(request: Request) -> str:
        started.append(request.caller)
        if len(started) == 2:
            both.set()
        await anyio.sleep_forever()
        return "never"

    async def object_then(_request: Request) -> str:
        await both.wait()
        return OBJECTED

    with anyio.fail_after(60):
        run, _ = await drive(
            GUARDED, {"worker:analyst": never, "worker:writer": never, "guard": object_then}
        )
    assert run.end.status == "failed"
    assert run.end.answer == ""
    assert run.end.reasons == ("The guard critic did not let it pass: it names a customer",)
    abandoned = {event.step for event in run.events if isinstance(event, CallFailed)}
    assert abandoned == {"subtask/s1/call/1", "subtask/s2/call/1"}
    assert run.results == {}


async def test_an_objection_after_all_work_is_done_lets_no_answer_out() -> None:
    async def object_late(_request: Request) -> str:
        await anyio.wait_all_tasks_blocked()
        return OBJECTED

    run, _ = await drive(GUARDED, {**SCRIPTS, "guard": object_late})
    assert (run.end.status, run.end.answer, run.end.value) == ("failed", "", None)


@pytest.mark.parametrize(
    "said",
    [
        ModelUnavailableError("overloaded", usage=USAGE),
        "yes",
        "",
        '{"allowed": true}',
        '{"allowed": "true", "reason": ""}',
    ],
)
async def test_a_guard_that_gives_no_judgement_lets_nothing_pass(said: Script) -> None:
    run, _ = await drive(GUARDED, {**SCRIPTS, "guard": said})
    assert (run.end.status, run.end.answer) == ("failed", "")
    assert "It could not be screened." in run.end.reasons[0]
    assert decisions(run)[0][0] is False


async def test_inputs_too_long_to_be_screened_whole_let_nothing_begin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guard, "READABLE_CHARS", 10)
    whole, _ = await drive(GUARDED, SCRIPTS, inputs={"a": "12345", "b": "12345"})
    run, llm = await drive(GUARDED, SCRIPTS, inputs={"a": "12345", "b": "123456"})
    assert (whole.end.status, run.end.status) == ("succeeded", "failed")
    assert "Its inputs have 11 characters, of which a guard reads 10" in run.end.reasons[0]
    assert llm.requests == []


@pytest.mark.parametrize("kind", ["plan", "worker"])
async def test_plans_and_single_workers_are_screened_too(kind: str) -> None:
    plan = plan_json(subtask("s1"))
    request = RunRequest.model_validate(
        {
            "kind": kind,
            "task": "t",
            "guard": "critic",
            "plan": Plan(subtasks=(subtask("s1"),)) if kind == "worker" else None,
        }
    )
    run, _ = await drive(request, {"planner": plan, "guard": OBJECTED})
    assert run.end.status == "failed"


async def test_a_failure_of_the_work_waits_for_the_guard_too() -> None:
    run, _ = await drive(
        RunRequest(task="t", guard="critic"), {"planner": "no plan", "guard": OBJECTED}
    )
    assert "did not let it pass" in run.end.reasons[0]


@pytest.mark.parametrize("stopped_after", range(14))
@pytest.mark.parametrize("screening", [PASSED, OBJECTED])
async def test_a_guarded_run_taken_up_at_any_event_makes_no_finished_call_again(
    stopped_after: int, screening: str
) -> None:
    scripts = {**SCRIPTS, "guard": screening}
    whole, _ = await drive(GUARDED, scripts)
    recorded: list[Event] = whole.events[:stopped_after]
    resumed = RecordedRun(GUARDED, recorded=recorded)
    llm = FakeLLM(scripts)
    await resumed.drive(setup(llm))
    assert resumed.end.model_copy(update={"at": 0}) == whole.end.model_copy(update={"at": 0})
    made = {event.name for event in recorded if isinstance(event, CallFinished)}
    remade = {event.name for event in resumed.events if isinstance(event, CallFinished)}
    assert not made & remade


async def test_a_run_that_was_objected_to_starts_no_work_when_it_is_taken_up() -> None:
    decision = GuardDecided(name="guard", at=1, passed=False, reason="it names a customer")
    resumed = RecordedRun(GUARDED, recorded=[decision])
    llm = FakeLLM()
    end = await resumed.drive(setup(llm))
    assert end.status == "failed"
    assert resumed.events == [end]
    assert llm.requests == []


async def test_a_cancelled_run_is_not_called_objected_to() -> None:
    scope = anyio.CancelScope()

    async def stop(_request: Request) -> str:
        scope.cancel()
        await anyio.sleep_forever()
        return PASSED

    run = RecordedRun(GUARDED)
    with anyio.fail_after(60), scope:
        await run.drive(setup(FakeLLM({"guard": stop})))
    assert scope.cancelled_caught
    assert decisions(run) == []
    assert not any(isinstance(event, RunEnded) for event in run.events)


@pytest.mark.parametrize("refused", ["guard/call/1", "guard", "subtask/s1/result", "run/end"])
async def test_a_journal_that_cannot_be_written_stops_a_guarded_run(refused: str) -> None:
    async def refuse(event: Event) -> None:
        if event.name == refused:
            raise StoreError("disk full")

    run = RecordedRun(GUARDED, before=refuse)
    with pytest.raises(StoreError):
        await run.drive(setup(FakeLLM(SCRIPTS)))
    assert not any(isinstance(event, RunEnded) for event in run.events)


async def test_the_guard_counts_among_no_slots() -> None:
    working = anyio.Event()

    async def work(_request: Request) -> str:
        working.set()
        return "done"

    async def once_work_has_begun(_request: Request) -> str:
        await working.wait()
        return PASSED

    request = GUARDED.model_copy(update={"limits": Limits(slots=1)})
    with anyio.fail_after(60):
        run, _ = await drive(request, {"guard": once_work_has_begun, "worker:analyst": work})
    assert run.end.status == "succeeded"


async def test_the_guard_that_is_built_in_screens_by_its_own_rules() -> None:
    built_in = read_worker(ROOT / "workers" / "general" / "guard.md", tools=())
    request = RunRequest(task="the task", plan=PLAN, guard="guard")
    run, llm = await drive(request, {"guard": OBJECTED}, workers=[built_in])
    assert run.end.status == "failed"
    assert run.end.reasons == ("The guard guard did not let it pass: it names a customer",)
    (asked,) = texts([each for each in llm.requests if each.caller == "guard"])
    assert "Secrets that could be used" in asked
