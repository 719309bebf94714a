import anyio
import pytest
from pydantic import JsonValue

from building import RecordedRun, drive, setup, worker
from concertmaster.engine.events import (
    CallFailed,
    CallFinished,
    Event,
    PlanAccepted,
    PlanRejected,
    SubtaskFinished,
    SubtaskStarted,
)
from concertmaster.engine.orchestrator import Orchestrator
from concertmaster.engine.plan.plan import Plan
from concertmaster.engine.request import Limits, RunRequest
from concertmaster.engine.run import Run
from concertmaster.engine.steps import Steps
from concertmaster.errors import (
    ModelAccessError,
    ModelRequestError,
    ModelUnavailableError,
    StoreError,
)
from concertmaster.llm.messages import Reply, Request, WorkBrief
from fakes import FakeLLM, plan_json, reply_with, subtask

pytestmark = pytest.mark.anyio

REQUEST = RunRequest(task="find out why")
TWO = plan_json(subtask("s1"), subtask("s2", "critic"))


async def test_a_task_is_planned_delegated_and_synthesized() -> None:
    run, llm = await drive(REQUEST, {"planner": TWO, "synthesizer": "because"})
    assert run.end.status == "succeeded"
    assert run.end.answer == "because"
    assert llm.callers()[0] == "planner"
    assert sorted(llm.callers()[1:3]) == ["worker:analyst", "worker:critic"]
    assert llm.callers()[3:] == ["synthesizer"]


async def test_a_simple_request_is_answered_directly_and_no_worker_is_called() -> None:
    run, llm = await drive(REQUEST, {"planner": plan_json(direct_answer="42")})
    assert (run.end.status, run.end.answer) == ("succeeded", "42")
    assert llm.callers() == ["planner"]


async def test_the_result_of_a_single_subtask_is_the_answer_and_needs_no_synthesis() -> None:
    run, llm = await drive(REQUEST, {"planner": plan_json(subtask("s1"))})
    assert (run.end.status, run.end.answer) == ("succeeded", "done")
    assert llm.callers() == ["planner", "worker:analyst"]


async def test_each_role_uses_its_own_model() -> None:
    _, llm = await drive(REQUEST, {"planner": TWO}, workers=[worker("critic", model="haiku")])
    models = {request.caller: request.model for request in llm.requests}
    assert models == {
        "planner": "big",
        "worker:analyst": "small",
        "worker:critic": "haiku",
        "synthesizer": "big",
    }


async def test_subtasks_are_in_flight_at_the_same_time() -> None:
    both = anyio.Event()
    started: list[str] = []

    async def wait_for_the_other(request: Request) -> str:
        started.append(request.caller)
        if len(started) == 2:
            both.set()
        await both.wait()
        return "done"

    with anyio.fail_after(60):
        await drive(
            REQUEST,
            {
                "planner": TWO,
                "worker:analyst": wait_for_the_other,
                "worker:critic": wait_for_the_other,
            },
        )
    assert sorted(started) == ["worker:analyst", "worker:critic"]


async def test_a_subtask_starts_while_a_sibling_of_its_dependency_still_runs() -> None:
    third_started = anyio.Event()

    async def until_third_started(_request: Request) -> str:
        await third_started.wait()
        return "slow"

    def third(_request: Request) -> str:
        third_started.set()
        return "third"

    plan = plan_json(
        subtask("fast"), subtask("slow", "critic"), subtask("next", "writer", depends_on=["fast"])
    )
    with anyio.fail_after(60):
        run, _ = await drive(
            REQUEST,
            {"planner": plan, "worker:critic": until_third_started, "worker:writer": third},
        )
    assert run.end.status == "succeeded"


async def test_a_subtask_is_given_the_results_of_its_own_dependencies_and_no_others() -> None:
    briefs: list[WorkBrief] = []

    def keep(request: Request) -> str:
        assert isinstance(request.brief, WorkBrief)
        briefs.append(request.brief)
        return "done"

    plan = plan_json(
        subtask("s1"), subtask("s2", "critic"), subtask("s3", "writer", depends_on=["s1"])
    )
    await drive(
        REQUEST,
        {
            "planner": plan,
            "worker:analyst": "the analysis",
            "worker:critic": "the critique",
            "worker:writer": keep,
        },
    )
    assert [(item.subtask_id, item.text) for item in briefs[0].dependencies] == [
        ("s1", "the analysis")
    ]


async def test_a_worker_is_given_the_inputs_of_its_subtask_and_no_others() -> None:
    _, llm = await drive(
        REQUEST,
        {"planner": plan_json(subtask("s1", inputs=["a.txt"]))},
        inputs={"a.txt": "ALPHA", "b.txt": "BETA"},
    )
    assert "ALPHA" in llm.requests[1].shared
    assert "BETA" not in llm.requests[1].shared


async def test_one_failure_leaves_siblings_their_results_and_is_named_in_the_answer() -> None:
    def told(request: Request) -> str:
        told = "critic) failed: overloaded" in getattr(request.messages[0], "text", "")
        return "told" if told else "not told"

    run, _ = await drive(
        REQUEST,
        {
            "planner": TWO,
            "worker:critic": ModelUnavailableError("overloaded"),
            "synthesizer": told,
        },
    )
    assert run.end.status == "partial"
    assert run.end.answer == "told"
    assert run.end.reasons == ("Subtask s2 (critic) failed: overloaded",)
    assert run.results["s1"].status == "succeeded"


async def test_a_run_in_which_every_worker_failed_is_failed_and_not_synthesized() -> None:
    error = ModelUnavailableError("overloaded")
    run, llm = await drive(
        REQUEST, {"planner": TWO, "worker:critic": error, "worker:analyst": error}
    )
    assert run.end.status == "failed"
    assert run.end.reasons == ("Subtasks s1 (analyst), s2 (critic) failed: overloaded",)
    assert "synthesizer" not in llm.callers()


async def test_a_single_subtask_that_fails_makes_the_run_fail_with_its_reason() -> None:
    run, _ = await drive(
        REQUEST,
        {"planner": plan_json(subtask("s1")), "worker:analyst": ModelUnavailableError("busy")},
    )
    assert run.end.status == "failed"
    assert "busy" in run.end.reasons[0]


async def test_dependants_that_need_all_are_skipped_and_named() -> None:
    plan = plan_json(
        subtask("s1"), subtask("s2", "critic"), subtask("s3", depends_on=["s2"], needs_all=True)
    )
    run, _ = await drive(
        REQUEST, {"planner": plan, "worker:critic": ModelUnavailableError("overloaded")}
    )
    assert run.results["s3"].status == "skipped"
    assert any("s3 (analyst) was skipped: It needs the result of s2" in r for r in run.end.reasons)


async def test_a_dependant_that_may_run_is_told_which_dependency_failed() -> None:
    plan = plan_json(subtask("s1"), subtask("s2", "writer", depends_on=["s1"]))
    _, llm = await drive(
        REQUEST, {"planner": plan, "worker:analyst": ModelUnavailableError("overloaded")}
    )
    brief = llm.requests[2].brief
    assert isinstance(brief, WorkBrief)
    assert [(item.status, item.problem) for item in brief.dependencies] == [
        ("failed", "overloaded")
    ]


async def test_a_failed_synthesis_leaves_the_results_as_they_are() -> None:
    run, _ = await drive(
        REQUEST,
        {
            "planner": TWO,
            "worker:analyst": "the analysis",
            "worker:critic": "the critique",
            "synthesizer": ModelUnavailableError("overloaded"),
        },
    )
    assert run.end.status == "partial"
    assert "the analysis" in run.end.answer
    assert "the critique" in run.end.answer
    assert "overloaded" in run.end.reasons[0]


async def test_a_failed_synthesis_tells_what_is_missing_beside_the_results() -> None:
    run, _ = await drive(
        REQUEST,
        {
            "planner": TWO,
            "worker:analyst": "the analysis",
            "worker:critic": ModelUnavailableError("no route"),
            "synthesizer": ModelUnavailableError("overloaded"),
        },
    )
    assert "- Subtask s2 (critic) failed: no route" in run.end.answer


async def test_a_run_given_a_plan_does_not_ask_the_planner() -> None:
    request = RunRequest(task="t", plan=Plan(subtasks=(subtask("s1"),)))
    run, llm = await drive(request, {})
    assert run.end.status == "succeeded"
    assert llm.callers() == ["worker:analyst"]


async def test_a_planning_run_ends_with_its_plan_and_runs_nothing() -> None:
    run, llm = await drive(RunRequest(kind="plan", task="t"), {"planner": TWO})
    assert run.end.status == "succeeded"
    assert llm.callers() == ["planner"]
    accepted = [event for event in run.events if isinstance(event, PlanAccepted)]
    assert [item.id for item in accepted[0].plan.subtasks] == ["s1", "s2"]


async def test_a_planning_run_may_end_with_a_direct_answer() -> None:
    run, _ = await drive(
        RunRequest(kind="plan", task="t"), {"planner": plan_json(direct_answer="42")}
    )
    assert run.end.answer == "42"


async def test_a_plan_with_problems_goes_back_to_the_planner_with_them() -> None:
    def plan(request: Request) -> str:
        return TWO if len(request.messages) == 3 else plan_json(subtask("s1", "poet"))

    run, llm = await drive(REQUEST, {"planner": plan})
    assert run.end.status == "succeeded"
    assert llm.callers()[:2] == ["planner", "planner"]
    assert "'poet'" in getattr(llm.requests[1].messages[2], "text", "")
    assert any(isinstance(event, PlanRejected) for event in run.events)


async def test_a_plan_still_invalid_after_two_repairs_is_mended_by_rule_with_a_warning() -> None:
    run, llm = await drive(REQUEST, {"planner": plan_json(subtask("s1", "poet"))})
    assert llm.callers() == ["planner"] * 3 + ["worker:analyst"]
    assert run.end.status == "succeeded"
    accepted = next(event for event in run.events if isinstance(event, PlanAccepted))
    assert "'poet'" in accepted.warnings[0]


async def test_work_that_a_repair_left_out_makes_the_run_partial() -> None:
    many = plan_json(*[subtask(f"s{n}") for n in range(4)])
    limits = REQUEST.limits.model_copy(update={"max_subtasks": 3})
    run, _ = await drive(REQUEST.model_copy(update={"limits": limits}), {"planner": many})
    assert run.end.status == "partial"
    assert "'s3' was left out" in run.end.reasons[0]


async def test_a_planner_that_never_writes_a_plan_fails_the_run_with_the_reasons() -> None:
    run, llm = await drive(REQUEST, {"planner": "I would rather not"})
    assert run.end.status == "failed"
    assert "JSON" in run.end.reasons[0]
    assert llm.callers() == ["planner"] * 3


async def test_the_last_readable_plan_is_mended_when_later_ones_are_not_readable() -> None:
    replies = iter([plan_json(subtask("s1", "poet")), "", "sorry"])
    run, _ = await drive(REQUEST, {"planner": lambda _request: next(replies)})
    assert run.end.status == "succeeded"


async def test_a_planner_that_refuses_fails_the_run_with_its_words() -> None:
    refusal = reply_with("", stop_reason="refusal", detail="not that")
    run, _ = await drive(REQUEST, {"planner": refusal})
    assert run.end.status == "failed"
    assert "not that" in run.end.reasons[0]


async def test_a_cut_plan_goes_back_with_the_wish_for_a_shorter_one() -> None:
    def plan(request: Request) -> str | Reply:
        return TWO if len(request.messages) == 3 else reply_with('{"sub', stop_reason="max_tokens")

    run, llm = await drive(REQUEST, {"planner": plan})
    assert run.end.status == "succeeded"
    assert "shorter" in getattr(llm.requests[1].messages[2], "text", "")


async def test_a_planner_that_cannot_be_reached_fails_the_run_with_what_to_do() -> None:
    run, _ = await drive(REQUEST, {"planner": ModelRequestError("Set ANTHROPIC_API_KEY.")})
    assert run.end.status == "failed"
    assert "Set ANTHROPIC_API_KEY." in run.end.reasons[0]


async def test_an_answer_in_a_schema_is_checked_and_given_as_a_value() -> None:
    schema: dict[str, JsonValue] = {"type": "object", "required": ["n"]}
    run, llm = await drive(
        RunRequest(task="t", output_schema=schema),
        {"planner": TWO, "synthesizer": '{"n": 1}'},
    )
    assert run.end.value == {"n": 1}
    assert llm.requests[-1].output_schema == schema


async def test_a_direct_answer_is_put_into_the_schema_by_the_synthesizer() -> None:
    run, llm = await drive(
        RunRequest(task="t", output_schema={"type": "object"}),
        {"planner": plan_json(direct_answer="42"), "synthesizer": '{"n": 42}'},
    )
    assert run.end.value == {"n": 42}
    assert llm.callers() == ["planner", "synthesizer"]


async def test_an_answer_that_never_meets_its_schema_is_partial() -> None:
    run, llm = await drive(
        RunRequest(task="t", output_schema={"type": "object", "required": ["n"]}),
        {"planner": TWO, "synthesizer": "{}"},
    )
    assert run.end.status == "partial"
    assert run.end.answer == "{}"
    assert llm.callers()[-2:] == ["synthesizer", "synthesizer"]


async def test_every_call_is_in_the_journal_with_its_reply() -> None:
    run, llm = await drive(REQUEST, {"planner": TWO})
    finished = [event for event in run.events if isinstance(event, CallFinished)]
    assert sorted(event.name for event in finished) == [
        "plan/call/1",
        "subtask/s1/call/1",
        "subtask/s2/call/1",
        "synthesis/call/1",
    ]
    assert len(llm.requests) == 4


async def test_event_names_are_unique_within_a_run() -> None:
    run, _ = await drive(
        REQUEST, {"planner": TWO, "worker:critic": reply_with("cut", stop_reason="max_tokens")}
    )
    names = [event.name for event in run.events]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("stopped_after", range(1, 14))
async def test_a_run_taken_up_at_any_event_makes_no_finished_call_again(stopped_after: int) -> None:
    plan = plan_json(subtask("s1"), subtask("s2", "critic", depends_on=["s1"]), subtask("s3"))
    scripts = {"planner": plan, "synthesizer": "because"}
    whole, _ = await drive(REQUEST, scripts)
    recorded: list[Event] = whole.events[:stopped_after]
    finished = sum(isinstance(event, CallFinished) for event in recorded)
    llm = FakeLLM(scripts)
    resumed = RecordedRun(REQUEST, recorded=recorded)
    end = await resumed.drive(setup(llm))
    assert end.answer == "because"
    assert len(llm.requests) == 5 - finished


async def test_a_subtask_that_had_succeeded_is_not_started_again() -> None:
    whole, _ = await drive(REQUEST, {"planner": TWO})
    recorded = [
        event for event in whole.events if isinstance(event, PlanAccepted | SubtaskFinished)
    ]
    resumed = RecordedRun(REQUEST, recorded=recorded)
    llm = FakeLLM()
    await resumed.drive(setup(llm))
    assert llm.callers() == ["synthesizer"]
    assert not any(isinstance(event, SubtaskStarted) for event in resumed.events)


async def test_what_failed_calls_had_cost_still_counts_after_taking_the_run_up() -> None:
    error = ModelUnavailableError("busy", usage=reply_with("").usage)
    whole, _ = await drive(REQUEST, {"planner": TWO, "worker:critic": error})
    recorded = [event for event in whole.events if isinstance(event, PlanAccepted | CallFailed)]
    resumed = RecordedRun(REQUEST, recorded=recorded)
    await resumed.drive(setup(FakeLLM()))
    assert resumed.results["s2"].usage.calls == 2


@pytest.mark.parametrize("refused", ["subtask/s1/call/1", "subtask/s1/result", "synthesis/start"])
async def test_a_journal_that_cannot_be_written_stops_the_run(refused: str) -> None:
    async def append(event: Event, /, *, wait: bool = True) -> None:
        del wait
        if event.name == refused:
            raise StoreError("disk full")

    run = Run(request=REQUEST, documents={}, steps=Steps(append))
    with pytest.raises(StoreError):
        await Orchestrator(setup(FakeLLM({"planner": TWO}))).drive(run)


MANY = Plan(subtasks=tuple(subtask(f"s{number}") for number in range(1, 7)))
REFUSED = "The key is not accepted."


def limited(slots: int, plan: Plan = MANY) -> RunRequest:
    return RunRequest(task="find out why", plan=plan, limits=Limits(slots=slots))


async def test_where_no_call_can_succeed_nothing_more_starts_and_the_reason_is_told_once() -> None:
    run, llm = await drive(limited(1), {"worker:analyst": ModelAccessError(REFUSED)})
    assert len(llm.requests) == 1
    assert [run.results[f"s{n}"].status for n in range(1, 7)] == ["failed", *["skipped"] * 5]
    assert run.results["s6"].errors == (REFUSED,)
    assert run.end.status == "failed"
    (reason,) = run.end.reasons
    assert reason.count(REFUSED) == 1
    assert reason.startswith("Subtasks s1 (analyst) failed and s2 (analyst), s3 (analyst)")


async def test_what_is_running_when_access_is_refused_may_finish() -> None:
    refused = anyio.Event()
    calls: list[str] = []

    async def answer(request: Request) -> str:
        assert isinstance(request.brief, WorkBrief)
        calls.append(request.brief.objective)
        if request.brief.objective == "do s2":
            refused.set()
            raise ModelAccessError(REFUSED, model="fake-small")
        await refused.wait()
        return "found"

    run, _ = await drive(limited(2), {"worker:analyst": answer, "synthesizer": "told"})
    assert sorted(calls) == ["do s1", "do s2"]
    assert run.results["s1"].status == "succeeded"
    assert (run.end.status, run.end.answer) == ("partial", "told")
    assert " ".join(run.end.reasons).count(REFUSED) == 1


async def test_a_model_that_is_refused_does_not_stop_workers_that_use_another() -> None:
    plan = Plan(subtasks=(subtask("s1", "odd"), subtask("s2", "odd"), subtask("s3")))
    run, _ = await drive(
        limited(1, plan),
        {"worker:odd": ModelAccessError(REFUSED, model="fake-unknown")},
        workers=[worker("odd", model="unknown")],
    )
    statuses = [run.results[name].status for name in ("s1", "s2", "s3")]
    assert statuses == ["failed", "skipped", "succeeded"]


async def test_a_call_that_cannot_succeed_is_not_made_and_not_in_the_journal() -> None:
    scripts = {"worker:analyst": "found", "synthesizer": "told"}
    plan = Plan(subtasks=(subtask("s1"), subtask("s2", "critic")))
    critic = ModelAccessError(REFUSED)
    run, llm = await drive(limited(1, plan), scripts | {"worker:critic": critic})
    assert "synthesizer" not in llm.callers()
    assert not any(event.name.startswith("synthesis/call") for event in run.events)
    assert run.end.status == "partial"
    assert "found" in run.end.answer
