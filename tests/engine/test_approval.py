"""Plans that wait for somebody to approve them, and are carried out once that has happened."""

from collections.abc import Mapping

import anyio
import pytest

from building import RecordedRun, drive, setup
from concertmaster.engine.approvals import waits_for_approval
from concertmaster.engine.events import (
    Amounts,
    CallStarted,
    Counts,
    Estimate,
    Event,
    GuardDecided,
    PlanAccepted,
    PlanRevised,
    RunResumed,
    RunStarted,
    SubtaskDrafted,
)
from concertmaster.engine.plan.plan import Plan, plan_digest, read_plan
from concertmaster.engine.request import Approve, Limits, RunKind, RunRequest, stricter
from concertmaster.llm.messages import Draft, Reply, Request
from concertmaster.llm.pricing import Rates
from concertmaster.runs.state import fold
from fakes import USAGE, FakeLLM, Script, plan_json, subtask
from patterns import decision, screening

pytestmark = pytest.mark.anyio

PLAN = plan_json(subtask("s1"), subtask("s2", "critic", depends_on=["s1"]))
ALWAYS = RunRequest(task="why?", approve="always")


def estimate(usd: float | None) -> Estimate:
    dollars = None if usd is None else Amounts(low=0, high=usd)
    few = Counts(low=1, high=1)
    return Estimate(calls=few, tokens=few, usd=dollars, seconds=Amounts(low=1, high=1))


async def unapproved(
    request: RunRequest = ALWAYS, scripts: Mapping[str, Script] | None = None
) -> RecordedRun:
    """Return a run whose plan waits for approval."""
    run, llm = await drive(request, {"planner": PLAN, **(scripts or {})})
    assert run.end.status == "needs_approval"
    assert {request.caller for request in llm.requests} <= {"planner", "guard"}
    return run


async def resumed(
    run: RecordedRun,
    request: RunRequest = ALWAYS,
    *,
    approved: str = "",
    budget_usd: float | None = None,
    epoch: int = 2,
) -> tuple[RecordedRun, FakeLLM]:
    """Have a run go on, and return it with what it has in addition."""
    event = RunResumed(
        name=f"run/resume/{epoch}",
        at=9,
        epoch=epoch,
        by="test",
        budget_usd=budget_usd,
        approved=approved,
    )
    request = request.with_budget(budget_usd)
    enough = decision(done=True, reason="enough")
    llm = FakeLLM({"planner": PLAN, "synthesizer": "because", "orchestrator": enough})
    again = RecordedRun(request, recorded=[started(), *run.events, event])
    await again.drive(setup(llm))
    again.events = [*run.events, event, *again.events]
    return again, llm


async def test_before_its_plan_is_approved_a_run_pays_for_nothing_but_the_plan() -> None:
    run = await unapproved()
    assert run.end.reasons == ("The plan waits for approval.",)
    assert run.first(PlanAccepted).estimate is not None
    assert [event.caller for event in run.events if isinstance(event, CallStarted)] == ["planner"]


async def test_an_approved_plan_is_carried_out_and_not_made_again() -> None:
    run = await unapproved()
    digest = plan_digest(run.first(PlanAccepted).plan)
    done, llm = await resumed(run, approved=digest)
    assert (done.end.status, done.end.answer) == ("succeeded", "because")
    assert llm.callers() == ["worker:analyst", "worker:critic", "synthesizer"]


async def test_the_approval_of_another_plan_is_none() -> None:
    again, llm = await resumed(await unapproved(), approved="another")
    assert again.end.status == "needs_approval"
    assert llm.requests == []


async def test_an_approval_holds_when_the_run_is_cut_off_and_goes_on() -> None:
    run = await unapproved()
    begun, _ = await resumed(run, approved=plan_digest(run.first(PlanAccepted).plan))
    cut_off = RecordedRun(ALWAYS)
    # The planner's call, the plan, the end, the approval, and the first call of a worker.
    cut_off.events = begun.events[:8]
    done, llm = await resumed(cut_off, epoch=3)
    assert done.end.status == "succeeded"
    assert "planner" not in llm.callers()


@pytest.mark.parametrize(
    ("approve", "drafts"), [("never", True), ("always", False), ("over_budget", False)]
)
async def test_no_subtask_starts_while_a_plan_is_written_that_may_have_to_be_approved(
    approve: Approve, drafts: bool
) -> None:
    run = RecordedRun(RunRequest(task="why?", approve=approve))
    await run.drive(setup(SlowPlanner({"planner": PLAN})))
    assert any(isinstance(event, SubtaskDrafted) for event in run.events) is drafts


class SlowPlanner(FakeLLM):
    """Stops in the middle of a plan until nothing else happens."""

    async def complete(self, request: Request, draft: Draft, /) -> Reply:
        if request.caller == "planner":
            draft.update(text=PLAN[: PLAN.index('"s2"')], usage=USAGE)
            await anyio.wait_all_tasks_blocked()
        return await super().complete(request, draft)


@pytest.mark.parametrize(("budget_usd", "waits"), [(1.2, False), (1.1, True)])
async def test_within_its_budget_a_plan_need_not_be_approved(
    budget_usd: float, waits: bool
) -> None:
    limits = Limits(budget_usd=budget_usd)
    llm = FakeLLM({"planner": PLAN})
    llm.rates = Rates(input=0, output=100)
    run = RecordedRun(RunRequest(task="why?", approve="over_budget", limits=limits))
    end = await run.drive(setup(llm))
    assert (end.status == "needs_approval") is waits


async def test_with_a_larger_budget_a_plan_may_need_no_approval_any_more() -> None:
    request = RunRequest(task="why?", approve="over_budget", limits=Limits(budget_usd=1.1))
    llm = FakeLLM({"planner": PLAN})
    llm.rates = Rates(input=0, output=100)
    run = RecordedRun(request)
    await run.drive(setup(llm))
    done, _ = await resumed(run, request.with_budget(1.2))
    assert done.end.status == "succeeded"


async def test_an_approved_plan_waits_again_with_a_larger_budget_and_with_a_smaller_goes_on() -> (
    None
):
    run = await unapproved()
    digest = plan_digest(run.first(PlanAccepted).plan)
    begun, _ = await resumed(run, approved=digest)
    # The planner's call, the plan, the end, the approval, and the first call of a worker.
    begun.events = begun.events[:8]
    waits, llm = await resumed(begun, budget_usd=3, epoch=3)
    assert (waits.end.status, llm.requests) == ("needs_approval", [])
    less, _ = await resumed(waits, budget_usd=1, epoch=4)
    assert less.end.status == "succeeded"
    agreed, _ = await resumed(waits, ALWAYS.with_budget(3), approved=digest, epoch=4)
    assert agreed.end.status == "succeeded"


async def test_a_plan_is_approved_as_it_was_revised_and_with_what_it_is_revised_to() -> None:
    request = RunRequest(task="why?", approve="always", mode="adaptive")
    run = await unapproved(request)
    plan = run.first(PlanAccepted).plan
    begun, _ = await resumed(run, request, approved=plan_digest(plan))
    shorter = plan.model_copy(update={"subtasks": plan.subtasks[:1]})
    revised = PlanRevised(name="next-step/1", at=8, plan=shorter, done=False)
    # The planner's call, the plan, the end, the approval.
    begun.events = [*begun.events[:5], revised]
    goes_on, _ = await resumed(begun, request, epoch=3)
    assert goes_on.end.status == "succeeded"
    waits, _ = await resumed(begun, request, budget_usd=3, epoch=3)
    assert waits.end.status == "needs_approval"
    dear = request.with_budget(3)
    as_it_was, _ = await resumed(waits, dear, approved=plan_digest(plan), epoch=4)
    assert as_it_was.end.status == "needs_approval"
    as_it_is, _ = await resumed(waits, dear, approved=plan_digest(shorter), epoch=4)
    assert as_it_is.end.status == "succeeded"


async def test_the_guard_has_its_say_before_anybody_is_asked() -> None:
    request = RunRequest(task="why?", approve="always", guard="writer")
    passed, _ = await drive(request, {"planner": PLAN, "guard": screening(allowed=True)})
    assert passed.end.status == "needs_approval"
    assert passed.first(GuardDecided).passed
    objected, _ = await drive(request, {"planner": PLAN, "guard": screening(allowed=False)})
    assert objected.end.status == "failed"


async def test_what_is_answered_without_workers_waits_for_nobody() -> None:
    run, _ = await drive(ALWAYS, {"planner": plan_json(direct_answer="42")})
    assert (run.end.status, run.end.answer) == ("succeeded", "42")


async def test_the_work_of_a_single_worker_waits_for_approval_too() -> None:
    plan = Plan(subtasks=(subtask("s1"),))
    run, llm = await drive(RunRequest(kind="worker", task="x", plan=plan, approve="always"), {})
    assert run.end.status == "needs_approval"
    assert llm.requests == []


async def test_in_the_state_of_a_run_that_waits_nothing_has_been_cancelled() -> None:
    run = await unapproved()
    events: list[Event] = [started(), *run.events]
    state = fold("r", events, alive=False)
    assert (state.status, state.over, state.still) == ("needs_approval", True, True)
    assert {item.status for item in state.subtasks.values()} == {"pending"}
    done, _ = await resumed(run, approved=plan_digest(run.first(PlanAccepted).plan))
    state = fold("r", [started(), *done.events], alive=False)
    assert (state.status, state.in_vain) == ("succeeded", False)


def started() -> Event:
    return RunStarted(name="run/start", at=1, request=ALWAYS)


@pytest.mark.parametrize(
    ("approve", "kind", "usd", "waits"),
    [
        ("never", "orchestration", None, False),
        ("always", "orchestration", 0, True),
        ("always", "plan", 99, False),
        ("over_budget", "orchestration", 2, False),
        ("over_budget", "orchestration", 2.01, True),
        ("over_budget", "orchestration", None, True),
        ("over_budget", "worker", 3, True),
    ],
)
def test_who_has_to_approve_depends_on_the_order_and_on_what_is_likely(
    approve: Approve, kind: RunKind, usd: float | None, waits: bool
) -> None:
    request = RunRequest(task="x", kind=kind, approve=approve, limits=Limits(budget_usd=2))
    plan = read_plan(PLAN)
    assert waits_for_approval(request, plan, estimate(usd), approved_usd=1.99) is waits
    assert not waits_for_approval(request, plan, estimate(usd), approved_usd=2)


def test_without_an_estimate_nothing_is_within_the_budget() -> None:
    request = RunRequest(task="x", approve="over_budget")
    assert waits_for_approval(request, read_plan(PLAN), None, approved_usd=0)


@pytest.mark.parametrize(
    ("one", "other", "result"),
    [
        ("never", None, "never"),
        ("never", "always", "always"),
        ("always", "never", "always"),
        ("over_budget", "never", "over_budget"),
        ("over_budget", "always", "always"),
    ],
)
def test_the_stricter_of_two_rules_holds(
    one: Approve, other: Approve | None, result: Approve
) -> None:
    assert stricter(one, other) == result


def test_a_plan_is_known_by_all_that_it_says() -> None:
    plan = read_plan(PLAN)
    again = Plan.model_validate_json(plan.model_dump_json())
    assert plan_digest(again) == plan_digest(plan)
    other = plan.model_copy(update={"subtasks": plan.subtasks[:1]})
    assert plan_digest(other) != plan_digest(plan)
    assert plan_digest(plan.model_copy(update={"analysis": "\\ud800"}))
