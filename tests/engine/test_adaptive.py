"""Adaptive runs: the orchestrator is asked what to do next, and work goes on meanwhile."""

import json
from collections.abc import Callable, Sequence

import anyio
import anyio.lowlevel
import pytest

from building import RecordedRun, drive, setup
from concertmaster.engine.events import (
    CallFinished,
    Event,
    PlanRevised,
    RunResumed,
    SubtaskFinished,
    SubtaskStarted,
)
from concertmaster.engine.plan.plan import CustomWorker, Plan, Subtask
from concertmaster.engine.request import Limits, RunRequest
from concertmaster.errors import ModelUnavailableError, StoreError
from concertmaster.llm.messages import Request, WorkBrief
from fakes import UNPLANNED, FakeLLM, Script, in_turn, subtask, texts

pytestmark = pytest.mark.anyio


def adaptive(
    *subtasks: Subtask, slots: int = 8, rounds: int = 6, max_subtasks: int = 8, **fields: object
) -> RunRequest:
    plan = Plan.model_validate({"mode": "adaptive", "subtasks": subtasks} | fields)
    limits = Limits(slots=slots, rounds=rounds, max_subtasks=max_subtasks)
    return RunRequest(task="t", plan=plan, limits=limits)


def decide(
    *add: Subtask, done: bool = False, drop: Sequence[str] = (), reason: str = "so it is"
) -> str:
    added = [item.model_dump(mode="json", exclude=UNPLANNED) for item in add]
    return json.dumps({"reason": reason, "done": done, "add": added, "drop": list(drop)})


DONE = decide(done=True, reason="it suffices")
WAIT = decide()


def objective(request: Request) -> str:
    assert isinstance(request.brief, WorkBrief)
    return request.brief.objective.removeprefix("do ")


class Workers:
    """Workers that answer when they are told to, by subtask."""

    def __init__(self, *held: str) -> None:
        self.started = {name: anyio.Event() for name in held}
        self.released = {name: anyio.Event() for name in held}
        self.begun: list[str] = []

    async def __call__(self, request: Request) -> str:
        name = objective(request)
        self.begun.append(name)
        if name in self.started:
            self.started[name].set()
            await self.released[name].wait()
        return f"result of {name}"


def occasions(llm: FakeLLM) -> list[str]:
    """Return why the orchestrator was asked, each time."""
    asked = texts([request for request in llm.requests if request.caller == "orchestrator"])
    return [
        text.split("Why you are asked now:\n")[1].split("\n")[0].removesuffix(".") for text in asked
    ]


def revisions(run: RecordedRun) -> list[PlanRevised]:
    return [event for event in run.events if isinstance(event, PlanRevised)]


async def test_a_static_run_asks_nobody_what_to_do_next() -> None:
    plan = Plan(subtasks=(subtask("s1", decisive=True), subtask("s2")))
    _, llm = await drive(RunRequest(task="t", plan=plan), {})
    assert "orchestrator" not in llm.callers()


async def test_when_all_has_ended_the_orchestrator_may_finish() -> None:
    run, llm = await drive(adaptive(subtask("s1")), {"orchestrator": DONE})
    assert (run.end.status, run.end.answer) == ("succeeded", "done")
    assert occasions(llm) == ["All subtasks have ended"]


async def test_when_all_has_ended_the_orchestrator_may_add_work_with_what_was_found() -> None:
    new = subtask("s2", "writer", depends_on=["s1"])
    run, llm = await drive(
        adaptive(subtask("s1")),
        {
            "worker:analyst": "the cause",
            "worker:writer": lambda request: "told" if "the cause" in texts([request])[0] else "",
            "orchestrator": in_turn(decide(new), DONE),
        },
    )
    assert run.results["s2"].text == "told"
    assert occasions(llm) == ["All subtasks have ended"] * 2
    assert run.end.status == "succeeded"


async def test_the_end_of_a_decisive_subtask_is_asked_about_while_others_go_on() -> None:
    workers = Workers("slow")

    async def release(_request: Request) -> str:
        with anyio.fail_after(60):
            await workers.started["slow"].wait()
        workers.released["slow"].set()
        return WAIT

    async def wait(request: Request) -> str:
        return await release(request) if len(occasions(llm)) == 1 else DONE

    llm = FakeLLM({"worker:analyst": workers, "orchestrator": wait})
    request = adaptive(subtask("s1", decisive=True), subtask("slow"), subtask("s3"), slots=2)
    run = RecordedRun(request)
    await run.drive(setup(llm))
    assert occasions(llm)[0] == "Decisive subtasks have ended: s1 (succeeded)"
    assert run.end.status == "succeeded"


async def test_work_that_depends_on_nothing_decisive_continues_while_the_orchestrator_decides() -> (
    None
):
    next_started = anyio.Event()

    async def work(request: Request) -> str:
        if objective(request) == "s2":
            next_started.set()
        await anyio.lowlevel.checkpoint()
        return "done"

    async def once_s2_runs(_request: Request) -> str:
        await next_started.wait()
        return DONE

    with anyio.fail_after(60):
        await drive(
            adaptive(subtask("s0"), subtask("s1", decisive=True), subtask("s2", depends_on=["s0"])),
            {"worker:analyst": work, "orchestrator": once_s2_runs},
        )


AFTER_DECISIVE = (
    subtask("s1", decisive=True),
    subtask("s2", depends_on=["s1"]),
    subtask("s3", depends_on=["s2"]),
)


async def test_what_depends_on_a_decisive_subtask_starts_only_once_that_is_decided_on() -> None:
    workers = Workers()

    async def advise(_request: Request) -> str:
        await anyio.wait_all_tasks_blocked()
        begun.append(list(workers.begun))
        return WAIT if len(begun) == 1 else DONE

    begun: list[list[str]] = []
    llm = FakeLLM({"worker:analyst": workers, "orchestrator": advise})
    run = RecordedRun(adaptive(*AFTER_DECISIVE))
    with anyio.fail_after(60):
        await run.drive(setup(llm))
    assert begun[0] == ["s1"]
    assert workers.begun == ["s1", "s2", "s3"]
    assert run.end.status == "succeeded"


async def test_what_a_decision_drops_after_a_decisive_subtask_is_never_paid_for() -> None:
    for advice in (DONE, decide(drop=["s2", "s3"])):
        workers = Workers()
        scripts = {"worker:analyst": workers, "orchestrator": in_turn(advice, DONE)}
        with anyio.fail_after(60):
            run, _ = await drive(adaptive(*AFTER_DECISIVE), scripts)
        assert workers.begun == ["s1"]
        assert run.end.status == "succeeded"


@pytest.mark.parametrize("rounds", [1, 6])
async def test_what_waits_for_a_decision_starts_when_none_will_come(rounds: int) -> None:
    busy = ModelUnavailableError("The provider is busy.")
    # Either nobody can be asked, or nobody may be asked once more.
    advice: Script = busy if rounds > 1 else WAIT
    request = adaptive(
        *AFTER_DECISIVE[:2],
        subtask("s3", depends_on=["s2"], decisive=True),
        subtask("s4", depends_on=["s3"]),
        rounds=rounds,
    )
    with anyio.fail_after(60):
        run, _ = await drive(request, {"orchestrator": advice})
    assert {item.status for item in run.results.values()} == {"succeeded"}
    assert len(run.results) == 4
    assert run.end.status == "partial"


async def test_in_a_static_run_nothing_waits_for_a_decision() -> None:
    plan = Plan(subtasks=AFTER_DECISIVE)
    with anyio.fail_after(60):
        run, _ = await drive(RunRequest(task="t", plan=plan), {})
    assert (run.end.status, len(run.results)) == ("succeeded", 3)


async def test_a_run_cut_off_before_a_decision_still_waits_for_it() -> None:
    whole, _ = await drive(adaptive(*AFTER_DECISIVE), {"orchestrator": in_turn(WAIT, DONE)})
    asked = next(
        number for number, event in enumerate(whole.events) if event.name == "subtask/s1/result"
    )
    workers = Workers()
    scripts = {"worker:analyst": workers, "orchestrator": DONE}
    resumed = RecordedRun(adaptive(*AFTER_DECISIVE), recorded=whole.events[: asked + 1])
    with anyio.fail_after(60):
        await resumed.drive(setup(FakeLLM(scripts)))
    assert workers.begun == []
    assert resumed.end.status == "succeeded"


async def test_the_orchestrator_is_not_asked_after_every_result() -> None:
    many = [subtask(f"s{number}") for number in range(8)]
    _, llm = await drive(adaptive(*many, slots=1), {"orchestrator": in_turn(WAIT, DONE)})
    assert occasions(llm) == [
        "No subtask is left to start; some are still running",
        "All subtasks have ended",
    ]


async def test_the_end_of_all_important_work_is_asked_about_once() -> None:
    workers = Workers("s3")

    async def advise(_request: Request) -> str:
        if len(occasions(llm)) == 1:
            await anyio.lowlevel.checkpoint()
            return WAIT
        workers.released["s3"].set()
        return DONE

    llm = FakeLLM({"worker:analyst": workers, "orchestrator": advise})
    request = adaptive(
        subtask("s1", priority="high"),
        subtask("s2", priority="high"),
        subtask("s3"),
        subtask("s4"),
        subtask("s5", depends_on=["s3"]),
    )
    with anyio.fail_after(60):
        workers.released["s3"].set()
        await RecordedRun(request).drive(setup(llm))
    assert occasions(llm)[0] == "All subtasks of high priority have ended; others have not"
    assert occasions(llm).count(occasions(llm)[0]) == 1


async def test_important_work_that_is_added_is_asked_about_when_it_has_ended() -> None:
    workers = Workers("last")
    added = subtask("s2", priority="high")

    def advise(_request: Request) -> str:
        if len(occasions(llm)) == 1:
            return decide(added)
        workers.released["last"].set()
        return DONE

    llm = FakeLLM({"worker:analyst": workers, "orchestrator": advise})
    with anyio.fail_after(60):
        await RecordedRun(
            adaptive(
                subtask("s1", priority="high"),
                subtask("last"),
                subtask("after", depends_on=["last"]),
            )
        ).drive(setup(llm))
    important = "All subtasks of high priority have ended; others have not"
    assert occasions(llm)[:2] == [important, important]


async def test_nothing_new_is_nothing_to_ask_about() -> None:
    workers = Workers("slow")

    def advise(_request: Request) -> str:
        if len(occasions(llm)) == 1:
            workers.released["slow"].set()
            return WAIT
        return DONE

    llm = FakeLLM({"worker:analyst": workers, "orchestrator": advise})
    with anyio.fail_after(60):
        await RecordedRun(adaptive(subtask("s1", decisive=True), subtask("slow"))).drive(setup(llm))
    assert occasions(llm) == [
        "Decisive subtasks have ended: s1 (succeeded)",
        "All subtasks have ended",
    ]


async def test_the_orchestrator_sees_how_each_subtask_stands_and_what_was_found() -> None:
    workers = Workers("running")

    def advise(_request: Request) -> str:
        workers.released["running"].set()
        return DONE

    llm = FakeLLM({"worker:analyst": workers, "orchestrator": advise})
    with anyio.fail_after(60):
        await RecordedRun(
            adaptive(
                subtask("ended", decisive=True),
                subtask("running"),
                subtask("waiting", depends_on=["running"]),
            )
        ).drive(setup(llm))
    (text, *_) = texts([request for request in llm.requests if request.caller == "orchestrator"])
    assert "ended (analyst, medium): succeeded. do ended" in text
    assert "running (analyst, medium): running. do running" in text
    assert "waiting (analyst, medium, after running): not started. do waiting" in text
    assert "result of ended" in text
    assert "5 more subtasks, 5 more times to be asked" in text


async def stop_early() -> tuple[RecordedRun, FakeLLM]:
    """Return a run whose orchestrator finished while s2 was running and s3 had not started."""
    workers = Workers("s2")

    async def advise(_request: Request) -> str:
        await workers.started["s2"].wait()
        return DONE

    llm = FakeLLM({"worker:analyst": workers, "orchestrator": advise, "synthesizer": "so"})
    run = RecordedRun(
        adaptive(
            subtask("s0"),
            subtask("s1", decisive=True, depends_on=["s0"]),
            subtask("s2"),
            subtask("s3", depends_on=["s2"]),
        )
    )
    with anyio.fail_after(60):
        await run.drive(setup(llm))
    return run, llm


async def test_finishing_skips_what_waits_and_stops_what_runs_and_the_run_succeeds() -> None:
    run, llm = await stop_early()
    assert {name: result.status for name, result in run.results.items()} == {
        "s0": "succeeded",
        "s1": "succeeded",
        "s2": "cancelled",
        "s3": "skipped",
    }
    assert (run.end.status, run.end.reasons) == ("succeeded", ())
    (told,) = texts(llm.requests[-1:])
    assert "Not done, because there was enough without it: do s2" in told
    assert "Not done, because there was enough without it: do s3" in told
    assert "Not done, because there was enough without it: do s1" not in told


async def test_what_a_stopped_subtask_cost_is_counted() -> None:
    run, _ = await stop_early()
    stopped = run.results["s2"]
    assert stopped.errors == ("The orchestrator stopped it, having enough without it.",)
    names = [event.name for event in run.events]
    assert names.index("subtask/s2/call/1/failed") < names.index("subtask/s2/result")


async def test_a_run_taken_up_at_any_event_after_it_was_called_done_keeps_its_results() -> None:
    whole, llm = await stop_early()
    names = [event.name for event in whole.events]
    for stopped_after in range(names.index("plan/2") + 1, len(names)):
        again = FakeLLM({"synthesizer": "so"})
        resumed = RecordedRun(whole.run.request, recorded=whole.events[:stopped_after])
        await resumed.drive(setup(again))
        assert resumed.end.status == "succeeded"
        assert resumed.end.reasons == ()
        assert set(again.callers()) <= {"synthesizer"}
        assert not any(isinstance(event, SubtaskStarted) for event in resumed.events)
        assert "s0" not in resumed.results
        assert "s1" not in resumed.results
        if again.requests:
            (before,), (after,) = texts(llm.requests[-1:]), texts(again.requests)
            assert "result of s1" in after
            assert ("do s3" in after) == ("do s3" in before)


async def test_a_failure_before_it_was_called_done_is_still_a_gap_when_it_is_taken_up() -> None:
    scripts: dict[str, Script] = {
        "worker:critic": ModelUnavailableError("overloaded"),
        "orchestrator": DONE,
        "synthesizer": "so",
    }
    request = adaptive(subtask("s1"), subtask("s2", "critic"))
    whole, _ = await drive(request, scripts)
    names = [event.name for event in whole.events]
    resumed = RecordedRun(request, recorded=whole.events[: names.index("synthesis/start")])
    llm = FakeLLM(scripts)
    await resumed.drive(setup(llm))
    assert whole.end.reasons == resumed.end.reasons
    assert llm.callers() == ["synthesizer"]


async def test_a_subtask_that_ends_while_it_is_stopped_is_not_called_undone() -> None:
    async def finish_s2(event: Event) -> None:
        if isinstance(event, PlanRevised):
            workers.released["s2"].set()
            await anyio.wait_all_tasks_blocked()

    workers = Workers("s2")
    llm = FakeLLM({"worker:analyst": workers, "orchestrator": DONE})
    run = RecordedRun(adaptive(subtask("s1", decisive=True), subtask("s2")), before=finish_s2)
    with anyio.fail_after(60):
        await run.drive(setup(llm))
    assert run.results["s2"].status == "succeeded"
    assert "Not done" not in texts(llm.requests[-1:])[0]


async def test_subtasks_that_have_not_started_can_be_dropped_and_replaced() -> None:
    workers = Workers("s2")

    async def advise(_request: Request) -> str:
        await workers.started["s2"].wait()
        if len(occasions(llm)) > 1:
            return DONE
        workers.released["s2"].set()
        better = subtask("s4", objective="do better", depends_on=["s1"])
        return decide(better, drop=["s3", "s4"])

    llm = FakeLLM({"worker:analyst": workers, "orchestrator": advise})
    run = RecordedRun(
        adaptive(
            subtask("s1", decisive=True),
            subtask("s2"),
            subtask("s3", depends_on=["s2"]),
            subtask("s4", depends_on=["s3"]),
        )
    )
    with anyio.fail_after(60):
        await run.drive(setup(llm))
    assert run.end.status == "succeeded"
    assert run.results.keys() == {"s1", "s2", "s4"}
    assert run.results["s4"].text == "result of better"
    assert "'s3' was dropped, because so it is" in revisions(run)[0].warnings[0]


@pytest.mark.parametrize("recovers", [True, False])
async def test_a_decisive_result_is_decided_on_again_only_if_it_is_made_again(
    recovers: bool,
) -> None:
    busy = ModelUnavailableError("The provider is busy.")
    request = adaptive(
        subtask("s1", "critic"),
        subtask("s2", depends_on=["s1"], decisive=True),
        subtask("s3", "writer", depends_on=["s2"]),
    )
    scripts: dict[str, Script] = {
        "worker:critic": busy,
        "worker:analyst": lambda request: f"with s1: {'found' in texts([request])[0]}",
        "orchestrator": in_turn(WAIT, busy),
    }
    first, _ = await drive(request, scripts)
    assert first.end.status == "partial"
    resumed = RunResumed(name="run/resume/2", at=9.0, epoch=2, by="test")
    again = RecordedRun(request, recorded=[*first.events, resumed])
    llm = FakeLLM(scripts | {"worker:critic": "found" if recovers else busy, "orchestrator": WAIT})
    with anyio.fail_after(60):
        await again.drive(setup(llm))
    if recovers:
        assert occasions(llm)[0] == "Decisive subtasks have ended: s2 (succeeded)"
        assert again.results["s2"].text == "with s1: True"
        assert llm.callers().count("worker:writer") == 1
    else:
        assert not any("s2" in occasion for occasion in occasions(llm))
        assert llm.callers().count("worker:writer") == 0


async def test_what_has_started_is_neither_dropped_nor_replaced() -> None:
    workers = Workers("s2")

    async def advise(_request: Request) -> str:
        await workers.started["s2"].wait()
        workers.released["s2"].set()
        if len(occasions(llm)) > 1:
            return DONE
        return decide(subtask("s2", objective="do otherwise"), drop=["s1", "s2"])

    llm = FakeLLM({"worker:analyst": workers, "orchestrator": advise})
    run = RecordedRun(adaptive(subtask("s1", decisive=True), subtask("s2")))
    with anyio.fail_after(60):
        await run.drive(setup(llm))
    assert run.results["s2"].text == "result of s2"
    assert revisions(run)[0].warnings == (
        "Subtask 's2' was to be replaced, but had been started; it was left as it is.",
        "Subtask 's1' was to be dropped, but had been started; it was left as it is.",
        "Subtask 's2' was to be dropped, but had been started; it was left as it is.",
    )


async def test_a_slot_freed_while_a_decision_is_written_starts_nothing_that_it_drops() -> None:
    arrived: list[anyio.Event] = []

    async def vote(_request: Request) -> str:
        arrived.append(anyio.Event())
        await arrived[-1].wait()
        return "yes"

    async def until(count: int) -> None:
        while len(arrived) < count:
            await anyio.lowlevel.checkpoint()
        await anyio.wait_all_tasks_blocked()

    async def once_a_voter_has_come(_request: Request) -> str:
        await until(1)
        return "done"

    async def once_both_have_come(_request: Request) -> str:
        await until(2)
        return decide(drop=["late"]) if len(occasions(llm)) == 1 else DONE

    async def free_a_slot(event: Event) -> None:
        if isinstance(event, PlanRevised) and not event.done:
            arrived[0].set()
            await anyio.wait_all_tasks_blocked()
            arrived[1].set()

    ballot = {"kind": "vote", "decide": "consensus", "answers": 2}
    request = adaptive(
        subtask("s1", decisive=True),
        subtask("s2", "critic", priority="high", strategy=ballot),
        subtask("late", "writer", priority="low"),
        slots=2,
    )
    llm = FakeLLM(
        {
            "worker:analyst": once_a_voter_has_come,
            "worker:critic": vote,
            "orchestrator": once_both_have_come,
        }
    )
    run = RecordedRun(request, before=free_a_slot)
    with anyio.fail_after(60):
        await run.drive(setup(llm))
    assert [item.id for item in revisions(run)[0].plan.subtasks] == ["s1", "s2"]
    assert "worker:writer" not in llm.callers()
    assert run.end.status == "succeeded"


async def test_a_decision_that_cannot_be_run_is_mended_and_says_how() -> None:
    def advise(_request: Request) -> str:
        if len(occasions(llm)) > 1:
            return DONE
        return decide(
            subtask("s2", depends_on=["s9", "s3"]),
            subtask("s3", depends_on=["s2"], strategy={"kind": "revise", "critic": "nobody"}),
            subtask("s4", objective=" "),
        )

    llm = FakeLLM({"orchestrator": advise})
    run = RecordedRun(adaptive(subtask("s1")))
    with anyio.fail_after(60):
        await run.drive(setup(llm))
    assert run.end.status == "succeeded"
    assert {"s1", "s2", "s3"} == run.results.keys()
    warnings = " ".join(revisions(run)[0].warnings)
    assert "'s9'" in warnings
    assert "cycle" in warnings
    assert "'nobody'" in warnings
    assert "no objective" in warnings


@pytest.mark.parametrize(
    "bad",
    [
        decide(subtask("s2", "poet")),
        decide(subtask("s2", strategy={"kind": "vote", "answers": 3})).replace(
            '"answers": 3', '"answers": 30'
        ),
        decide(subtask("s2")).replace('"id": "s2"', '"id": "2 s"'),
    ],
)
async def test_a_decision_of_the_wrong_shape_goes_back_once(bad: str) -> None:
    run, llm = await drive(adaptive(subtask("s1")), {"orchestrator": in_turn(bad, DONE)})
    assert run.end.status == "succeeded"
    assert "does not match the output schema" in getattr(llm.requests[-1].messages[2], "text", "")


async def test_work_for_which_there_is_no_room_is_left_out_and_makes_the_run_partial() -> None:
    more = [subtask(f"n{number}") for number in range(3)]
    request = adaptive(subtask("s1"), max_subtasks=2)
    scripts: dict[str, Script] = {"orchestrator": in_turn(decide(*more), DONE)}
    run, _ = await drive(request, scripts)
    assert run.results.keys() == {"s1", "n0"}
    assert run.end.status == "partial"
    assert [reason for reason in run.end.reasons if "'n1' was left out" in reason]
    resumed = RecordedRun(request, recorded=run.events[:-2])
    await resumed.drive(setup(FakeLLM()))
    assert resumed.end.reasons == run.end.reasons


async def test_added_work_like_what_is_planned_gets_a_warning_and_what_was_known_none() -> None:
    first, second = (
        subtask("s1", objective="find the cause"),
        subtask("s2", objective="find the cause"),
    )
    again = subtask("s3", objective="find the cause")
    run, _ = await drive(
        adaptive(first, second), {"orchestrator": in_turn(WAIT, decide(again), DONE)}
    )
    warnings = next(item.warnings for item in revisions(run) if len(item.plan.subtasks) == 3)
    assert len(warnings) == 2
    assert all("'s3' seem to do the same" in warning for warning in warnings)


# Its shape is right, and what it says is not: a criterion has to have a name.
UNUSABLE = json.loads(decide(subtask("s3")))
UNUSABLE["add"][0]["strategy"] = {
    "kind": "vote",
    "answers": 3,
    "decide": "rubric",
    "criteria": [{"name": "", "weight": 1}],
    "separate_criteria": False,
    "share": 0.5,
}


@pytest.mark.parametrize(
    "failure", [ModelUnavailableError("overloaded"), "no JSON", json.dumps(UNUSABLE)]
)
@pytest.mark.parametrize("asked_before", [0, 1])
async def test_an_orchestrator_that_cannot_be_asked_leaves_what_there_is(
    failure: Exception | str, asked_before: int
) -> None:
    run, llm = await drive(
        adaptive(subtask("s1", decisive=True), subtask("s2", depends_on=["s1"])),
        {"orchestrator": in_turn(*[WAIT] * asked_before, failure, failure)},
    )
    assert run.end.status == "partial"
    assert "The orchestrator could not be asked what to do next" in run.end.reasons[0]
    assert {result.status for result in run.results.values()} == {"succeeded"}
    assert llm.callers()[-1] == "synthesizer"


async def test_rounds_are_bounded_and_a_run_that_uses_them_up_is_partial() -> None:
    numbers = iter(range(100))

    def more(_request: Request) -> str:
        return decide(subtask(f"n{next(numbers)}"))

    run, llm = await drive(
        adaptive(subtask("s1"), rounds=3, max_subtasks=50), {"orchestrator": more}
    )
    assert llm.callers().count("orchestrator") == 3
    assert run.end.status == "partial"
    assert "was asked 3 times" in run.end.reasons[0]
    assert len(run.results) == 4


async def test_an_orchestrator_that_wants_more_but_plans_nothing_ends_the_work() -> None:
    request = adaptive(subtask("s1"))
    run, llm = await drive(request, {"orchestrator": WAIT})
    assert llm.callers() == ["worker:analyst", "orchestrator"]
    assert run.end.status == "partial"
    assert "wanted more, but planned nothing: so it is" in run.end.reasons[0]
    resumed = RecordedRun(request, recorded=run.events[:-1])
    again = FakeLLM()
    await resumed.drive(setup(again))
    assert resumed.end.reasons == run.end.reasons
    assert again.requests == []


async def test_the_workers_that_came_with_the_plan_can_be_used_and_no_new_ones() -> None:
    poet = CustomWorker(name="poet", description="d", instructions="i", why="w")
    run, llm = await drive(
        adaptive(subtask("s1", "poet"), custom_workers=[poet]).model_copy(
            update={"workers": ("analyst",)}
        ),
        {"orchestrator": in_turn(decide(subtask("s2", "poet")), DONE)},
    )
    assert run.end.status == "succeeded"
    asked = next(request for request in llm.requests if request.caller == "orchestrator")
    assert "poet" in asked.system
    added = (asked.output_schema or {})["properties"]["add"]["items"]["properties"]
    assert sorted(added["worker"]["enum"]) == ["analyst", "poet"]


ADAPTIVE = adaptive(
    subtask("s1", decisive=True), subtask("s2", depends_on=["s1"]), subtask("s3", "critic")
)


def advising() -> Callable[[Request], str]:
    """Return an orchestrator that adds one subtask, then finishes when it has ended."""

    def advise(request: Request) -> str:
        (text,) = texts([request])
        if "s4 (" not in text:
            return decide(subtask("s4", "writer", depends_on=["s1"]))
        return DONE if "All subtasks have ended" in text else WAIT

    return advise


@pytest.mark.parametrize("stopped_after", range(1, 30))
async def test_an_adaptive_run_taken_up_at_any_event_makes_no_finished_call_again(
    stopped_after: int,
) -> None:
    scripts: dict[str, Script] = {
        "orchestrator": advising(),
        "worker:analyst": lambda request: f"result of {objective(request)}",
        "synthesizer": "so",
    }
    whole, llm = await drive(ADAPTIVE, scripts)
    recorded: list[Event] = whole.events[:stopped_after]
    again = FakeLLM(scripts)
    resumed = RecordedRun(ADAPTIVE, recorded=recorded)
    await resumed.drive(setup(again))
    assert (resumed.end.status, resumed.end.answer) == ("succeeded", "so")
    made = {event.name for event in recorded if isinstance(event, CallFinished)}
    remade = {event.name for event in resumed.events if isinstance(event, CallFinished)}
    assert not made & remade
    work = [caller for caller in llm.callers() if caller.startswith("worker")]
    done = {name for name in made | remade if name.startswith("subtask")}
    assert len(done) == len(work)


@pytest.mark.parametrize("call", range(1, 8))
async def test_an_adaptive_run_cancelled_at_any_call_ends_nothing_twice(call: int) -> None:
    scope = anyio.CancelScope()

    async def stop(request: Request) -> str:
        if len(llm.requests) >= call:
            scope.cancel()
            await anyio.sleep_forever()
        return advising()(request) if request.caller == "orchestrator" else "done"

    llm = FakeLLM(default=stop)
    run = RecordedRun(ADAPTIVE)
    with anyio.fail_after(60), scope:
        await run.drive(setup(llm))
    assert scope.cancelled_caught
    ended = [event.name for event in run.events if isinstance(event, SubtaskFinished)]
    assert len(ended) == len(set(ended))
    assert not any(result.status == "cancelled" for result in run.results.values())


@pytest.mark.parametrize("refused", ["next-step/1/call/1", "plan/2", "subtask/s4/result"])
async def test_a_journal_that_cannot_be_written_stops_an_adaptive_run(refused: str) -> None:
    async def refuse(event: Event) -> None:
        if event.name == refused:
            raise StoreError("disk full")

    with pytest.raises(StoreError):
        await RecordedRun(ADAPTIVE, before=refuse).drive(
            setup(FakeLLM({"orchestrator": advising()}))
        )
