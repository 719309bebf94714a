"""Runs whose plans wait for approval: given with a token or without one, or refused."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import pytest
from pydantic import TypeAdapter

from building import setup
from clients import hang
from concertmaster.engine.events import ApprovalOffered, Event, RunEnded
from concertmaster.engine.request import NOBODY, Approve
from concertmaster.errors import LostRunError, RequestError, UnknownRunError
from concertmaster.llm.pricing import Rates
from concertmaster.runs import approvals
from concertmaster.runs.approvals import Approvals, digest_to_approve
from concertmaster.runs.dispatch import Takeover
from concertmaster.runs.intake import RunPolicy
from concertmaster.runs.orders import PlanOrder, RunOrder, WorkerOrder
from concertmaster.runs.principals import Allowance, Principals
from concertmaster.runs.service import RunService, open_service
from concertmaster.runs.state import RunState
from concertmaster.store.journal import Journal
from concertmaster.store.sqlite.store import SqliteJournal
from fakes import FakeLLM, plan_json, subtask
from services import Gate
from stores import Store

pytestmark = pytest.mark.anyio

PLAN = plan_json(subtask("s1"), subtask("s2", "critic", depends_on=["s1"]))
ORDER = RunOrder(task="why?", approve="always")


def model() -> FakeLLM:
    return FakeLLM({"planner": PLAN, "synthesizer": "because"})


@asynccontextmanager
async def opened(
    store: Store, llm: FakeLLM | None = None, policy: RunPolicy | None = None
) -> AsyncGenerator[RunService]:
    """Open the runs in a store, as one process has them."""
    async with (
        store.open(works=True) as journal,
        service_on(journal, llm, policy) as service,
    ):
        yield service


@asynccontextmanager
async def service_on(
    journal: Journal, llm: FakeLLM | None = None, policy: RunPolicy | None = None
) -> AsyncGenerator[RunService]:
    async with open_service(
        journal=journal, setup=setup(llm or model()), policy=policy or RunPolicy()
    ) as service:
        yield service


async def over(service: RunService, state: RunState) -> RunState:
    with anyio.fail_after(60):
        return await service.wait(state.run_id, seconds=60)


async def waiting(service: RunService, order: RunOrder = ORDER) -> RunState:
    """Return a run whose plan waits for approval."""
    state = await over(service, await service.start(order))
    assert state.status == "needs_approval"
    return state


async def test_a_plan_is_approved_in_another_process_than_the_one_that_made_it(
    store: Store,
) -> None:
    async with opened(store) as service:
        state = await waiting(service)
    llm = model()
    async with opened(store, llm) as service:
        found = await service.get(state.run_id)
        assert (found.status, found.ended_subtasks) == ("needs_approval", 0)
        (listed,) = (await service.recent()).states
        assert listed.status == "needs_approval"
        await service.resume(state.run_id, by="test", approved=digest_to_approve(found))
        done = await over(service, state)
        span = await service.trace(state.run_id)
    assert (done.status, done.answer) == ("succeeded", "because")
    assert llm.callers() == ["worker:analyst", "worker:critic", "synthesizer"]
    resumed = TypeAdapter(list[dict[str, object]]).validate_python(span.attributes["resumed"])
    assert [item["approved"] for item in resumed] == [True]


async def test_a_token_of_one_process_approves_in_another(store: Store) -> None:
    async with opened(store) as service:
        state = await waiting(service)
        token = await service.approvals.offer(state.run_id)
    async with opened(store) as service:
        assert (await service.trace(state.run_id)).status == "needs_approval"
        plan = await service.approvals.redeem(state.run_id, token)
        await service.resume(state.run_id, by="test", approved=plan)
        assert (await over(service, state)).status == "succeeded"


async def test_a_token_is_not_in_the_journal(store: Store) -> None:
    async with store.open() as journal, service_on(journal) as service:
        state = await waiting(service)
        token = await service.approvals.offer(state.run_id)
        events = await journal.events(state.run_id)
    (offered,) = [event for event in events if isinstance(event, ApprovalOffered)]
    assert offered.plan == digest_to_approve(state)
    assert token not in "".join(event.model_dump_json() for event in events)


async def test_whoever_looks_again_gets_the_same_token_and_nothing_is_written(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approvals, "MOST_GIVEN", 1)
    async with opened(store) as service:
        one, other = await waiting(service), await waiting(service)
        token = await service.approvals.offer(one.run_id)
        events = (await service.get(one.run_id)).events
        assert await service.approvals.offer(one.run_id) == token
        assert (await service.get(one.run_id)).events == events
        # It is forgotten here in time, and stays good.
        await service.approvals.offer(other.run_id)
        assert await service.approvals.offer(one.run_id) != token
        assert await service.approvals.redeem(one.run_id, token) == digest_to_approve(one)


async def test_what_is_approved_is_the_limit_too(store: Store) -> None:
    llm = model()
    async with opened(store, llm) as service:
        state = await waiting(service)
        await service.cancel(state.run_id, reason="no")
        await service.resume(state.run_id, by="test", budget_usd=15)
        assert (await over(service, state)).status == "needs_approval"
        with pytest.raises(RequestError, match="or not with its limit"):
            await service.resume(state.run_id, by="test", approved=digest_to_approve(state))
    assert llm.callers() == ["planner"]


async def test_a_token_is_of_use_once(store: Store) -> None:
    async with opened(store) as service:
        state = await waiting(service)
        token, spare = [await service.approvals.offer(state.run_id) for _ in range(2)]
        plan = await service.approvals.redeem(state.run_id, token)
        await service.resume(state.run_id, by="test", approved=plan)
        await over(service, state)
        for used in (token, spare):
            with pytest.raises(RequestError, match="does not wait for approval: it is succeeded"):
                await service.approvals.redeem(state.run_id, used)
        with pytest.raises(RequestError, match="does not wait"):
            await service.approvals.offer(state.run_id)
        with pytest.raises(RequestError, match="does not wait"):
            await service.resume(state.run_id, by="test", approved=plan)


async def test_a_token_is_for_one_run_and_one_plan(store: Store) -> None:
    llm = model()
    async with opened(store, llm) as service:
        one, other = await waiting(service), await waiting(service)
        token = await service.approvals.offer(one.run_id)
        paid = len(llm.requests)
        for wrong in (token, "", "guessed"):
            with pytest.raises(RequestError, match="not for the plan"):
                await service.approvals.redeem(other.run_id, wrong)
        with pytest.raises(RequestError, match="is not the plan"):
            await service.resume(other.run_id, by="test", approved="another")
        assert (await service.get(other.run_id)).status == "needs_approval"
        # Declined and tried again, it waits for another approval.
        await service.cancel(one.run_id, reason="no")
        await service.resume(one.run_id, by="test")
        assert (await over(service, one)).status == "needs_approval"
        with pytest.raises(RequestError, match="not for the plan"):
            await service.approvals.redeem(one.run_id, token)
    assert len(llm.requests) == paid


async def test_what_waits_for_approval_goes_on_for_nothing_less(store: Store) -> None:
    llm = model()
    async with opened(store, llm) as service:
        state = await waiting(service)
        again = await service.resume(state.run_id, by="test", budget_usd=2)
        assert (again.status, again.events) == ("needs_approval", state.events)
        with anyio.fail_after(60):
            await Takeover(service, by="test").look()
        assert (await service.get(state.run_id)).events == state.events
    assert llm.callers() == ["planner"]


async def test_a_budget_that_is_given_without_approval_is_what_there_is_to_approve(
    store: Store,
) -> None:
    llm = model()
    async with opened(store, llm) as service:
        state = await waiting(service)
        await service.resume(state.run_id, by="test", budget_usd=5)
        dearer = await over(service, state)
        assert (dearer.status, dearer.request.limits.budget_usd) == ("needs_approval", 5)
        assert llm.callers() == ["planner"]
        await service.resume(state.run_id, by="test", approved=digest_to_approve(dearer))
        assert (await over(service, state)).status == "succeeded"


async def test_a_run_with_an_answer_keeps_it_while_a_larger_budget_waits_for_approval(
    store: Store,
) -> None:
    scripts = {"planner": PLAN, "synthesizer": "because", "worker:critic": ""}
    async with opened(store, FakeLLM(scripts)) as service:
        state = await waiting(service)
        await service.resume(state.run_id, by="test", approved=digest_to_approve(state))
        first = await over(service, state)
        assert (first.status, first.answer) == ("partial", "because")
    llm = model()
    async with opened(store, llm) as service:
        await service.resume(state.run_id, by="test", budget_usd=5)
        waits = await over(service, state)
        assert (waits.status, waits.answer) == ("needs_approval", "because")
        statuses = {name: item.status for name, item in waits.subtasks.items()}
        assert statuses == {"s1": "succeeded", "s2": "pending"}
        assert llm.requests == []
        await service.resume(state.run_id, by="test", approved=digest_to_approve(waits))
        assert (await over(service, state)).status == "succeeded"
    assert llm.callers() == ["worker:critic", "synthesizer"]


async def test_a_plan_can_be_approved_with_another_budget(store: Store) -> None:
    async with opened(store) as service:
        state = await waiting(service)
        approved = digest_to_approve(state)
        await service.resume(state.run_id, by="test", approved=approved, budget_usd=5)
        done = await over(service, state)
    assert (done.status, done.request.limits.budget_usd) == ("succeeded", 5)


async def test_a_budget_that_suffices_is_all_that_a_plan_over_budget_waits_for(
    store: Store,
) -> None:
    llm = model()
    llm.rates = Rates(input=0, output=100)
    async with opened(store, llm) as service:
        order = RunOrder(task="why?", approve="over_budget", budget_usd=1.1)
        state = await waiting(service, order)
        await service.resume(state.run_id, by="test", budget_usd=2)
        assert (await over(service, state)).status == "succeeded"


async def test_a_plan_that_is_declined_is_cancelled(store: Store) -> None:
    llm = model()
    async with opened(store, llm) as service:
        state = await waiting(service)
        declined = await service.cancel(state.run_id, reason="too dear")
    assert declined.status == "cancelled"
    assert declined.reasons == ("The run was cancelled: too dear.",)
    assert {item.status for item in declined.subtasks.values()} == {"cancelled"}
    assert llm.callers() == ["planner"]


async def test_only_a_plan_that_was_declined_is_final_and_the_journal_tells(store: Store) -> None:
    async with opened(store) as service:
        declined, cancelled = await waiting(service), await waiting(service)
        await service.cancel(declined.run_id, reason="no", declined=True)
        await service.cancel(cancelled.run_id, reason="not now")
    async with opened(store) as service:
        with pytest.raises(RequestError, match="was declined, which is final"):
            await service.resume(declined.run_id, by="test")
        assert (await service.get(declined.run_id)).status == "cancelled"
        await service.resume(cancelled.run_id, by="test")
        assert (await over(service, cancelled)).status == "needs_approval"


async def test_to_decline_a_run_whose_plan_does_not_wait_only_cancels_it(store: Store) -> None:
    async with opened(store, FakeLLM(default=hang)) as service:
        state = await service.start(ORDER)
        await service.cancel(state.run_id, reason="cancel_run was called", declined=True)
    async with opened(store) as service:
        await service.resume(state.run_id, by="test")
        assert (await over(service, state)).status == "needs_approval"


class SlowEnd(SqliteJournal):
    """Takes its time to commit that a run has come to wait for approval."""

    reached: anyio.Event
    opened: anyio.Event

    async def append(self, run_id: str, event: Event, *, epoch: int, wait: bool = True) -> None:
        if isinstance(event, RunEnded) and event.status == "needs_approval":
            self.reached.set()
            await self.opened.wait()
        await super().append(run_id, event, epoch=epoch, wait=wait)


async def test_a_run_that_is_cancelled_just_when_its_plan_begins_to_wait_is_cancelled(
    tmp_path: Path,
) -> None:
    journal = SlowEnd(tmp_path, patience=5)
    journal.reached, journal.opened = anyio.Event(), anyio.Event()
    async with journal.committing(), service_on(journal) as service:
        state = await service.start(ORDER)
        await journal.reached.wait()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(service.cancel, state.run_id, reason="no"))
            await anyio.wait_all_tasks_blocked()
            journal.opened.set()
        assert (await service.get(state.run_id)).status == "cancelled"


class StaleEvents(SqliteJournal):
    """Has something happen to a run between the reading of its events and their use."""

    meanwhile: Callable[[], Awaitable[object]] | None = None

    async def events(self, run_id: str) -> list[Event]:
        events = list(await super().events(run_id))
        if (meanwhile := self.meanwhile) is not None:
            self.meanwhile = None
            await meanwhile()
        return events


async def test_a_plan_that_is_declined_just_when_it_is_approved_is_not_carried_out(
    tmp_path: Path,
) -> None:
    journal = StaleEvents(tmp_path, patience=5)
    llm = model()
    async with journal.committing(), service_on(journal, llm) as service:
        state = await waiting(service)
        journal.meanwhile = partial(service.cancel, state.run_id, reason="no")
        approved = digest_to_approve(state)
        found = await service.resume(state.run_id, by="test", approved=approved)
        assert found.status == "cancelled"
    assert llm.callers() == ["planner"]


async def test_an_approved_run_that_is_queued_goes_on_where_there_is_room(store: Store) -> None:
    async with opened(store) as service:
        state = await waiting(service)
        approved = digest_to_approve(state)
    async with opened(store, policy=RunPolicy(runs_here=0)) as service:
        queued = await service.resume(state.run_id, by="test", approved=approved)
        assert queued.status == "queued"
    async with opened(store) as service:
        with anyio.fail_after(60):
            await Takeover(service, by="test").look()
        assert (await over(service, state)).status == "succeeded"


async def test_a_run_that_is_cut_off_after_its_approval_is_not_asked_for_again(
    store: Store,
) -> None:
    gate = Gate()
    llm = FakeLLM({"planner": PLAN, "worker:critic": gate})
    async with opened(store, llm) as service:
        state = await waiting(service)
        await service.resume(state.run_id, by="test", approved=digest_to_approve(state))
        await gate.reached.wait()
    async with opened(store) as service:
        await service.resume(state.run_id, by="test")
        assert (await over(service, state)).status == "succeeded"


async def test_a_token_is_not_offered_for_a_run_that_has_just_gone_on(store: Store) -> None:
    async with store.open() as journal, service_on(journal) as service:
        state = await waiting(service)

        async def find(run_id: str) -> RunState:
            await service.cancel(run_id, reason="meanwhile")
            return state

        with pytest.raises(LostRunError):
            await Approvals(journal=journal, find=find).offer(state.run_id)


@pytest.mark.parametrize(
    ("operator", "client", "waits"),
    [
        ("always", None, True),
        ("always", "never", True),
        ("never", "always", True),
        ("never", None, False),
    ],
)
async def test_nobody_asks_for_less_approval_than_the_operator(
    operator: Approve, client: Approve | None, waits: bool, store: Store
) -> None:
    async with opened(store, policy=RunPolicy(approve=operator)) as service:
        order = RunOrder(task="why?", approve=client)
        state = await over(service, await service.start(order))
    assert (state.status == "needs_approval") is waits


async def test_a_run_that_has_no_plan_yet_is_resumed_with_what_the_operator_wants_by_now(
    store: Store,
) -> None:
    llm = FakeLLM({"planner": "no plan"})
    async with opened(store, llm) as service:
        state = await over(service, await service.start(RunOrder(task="why?")))
        assert state.status == "failed"
    async with opened(store, policy=RunPolicy(approve="always")) as service:
        await service.resume(state.run_id, by="test")
        waits = await over(service, state)
        assert waits.status == "needs_approval"
        again = await service.resume(state.run_id, by="test")
        assert (again.status, again.events) == ("needs_approval", waits.events)
        await service.resume(state.run_id, by="test", approved=digest_to_approve(waits))
        assert (await over(service, state)).status == "succeeded"


async def test_a_run_that_was_begun_unasked_waits_once_the_operator_wants_approval(
    store: Store,
) -> None:
    gate = Gate()
    async with opened(store, FakeLLM({"planner": PLAN, "worker:critic": gate})) as service:
        state = await service.start(RunOrder(task="why?"))
        await gate.reached.wait()
    llm = model()
    async with opened(store, llm, RunPolicy(approve="always")) as service:
        with anyio.fail_after(60):
            await Takeover(service, by="test").look()
        waits = await over(service, state)
        assert (waits.status, llm.requests) == ("needs_approval", [])
        await service.resume(state.run_id, by="test", approved=digest_to_approve(waits))
        assert (await over(service, state)).status == "succeeded"
    assert llm.callers() == ["worker:critic", "synthesizer"]


async def test_workers_wait_for_approval_where_the_operator_wants_it_and_plans_do_not(
    store: Store,
) -> None:
    async with opened(store, policy=RunPolicy(approve="always")) as service:
        state = await over(service, await service.start(WorkerOrder(worker="analyst", task="x")))
        assert state.status == "needs_approval"
        planned = await over(service, await service.start(PlanOrder(task="why?")))
        assert planned.status == "succeeded"
        run = await over(service, await service.start(RunOrder(plan_id=planned.run_id)))
        assert run.status == "needs_approval"


async def test_a_run_made_anew_waits_for_approval_of_its_own(store: Store) -> None:
    async with opened(store) as service:
        state = await waiting(service)
        await service.resume(state.run_id, by="test", approved=digest_to_approve(state))
        await over(service, state)
        again = await over(service, await service.rerun(state.run_id, redo=["s2"]))
    assert (again.status, again.run_id == state.run_id) == ("needs_approval", False)


async def test_the_plan_of_a_run_that_waits_waits_in_another_order_too(store: Store) -> None:
    async with opened(store) as service:
        state = await waiting(service)
        order = RunOrder(plan_id=state.run_id, approve="never")
        other = await waiting(service, order)
        assert other.reasons == ("The plan waits for approval.",)
        await service.resume(other.run_id, by="test", approved=digest_to_approve(other))
        done = await over(service, other)
    assert (done.status, done.reasons) == ("succeeded", ())


async def test_nobody_approves_the_plan_of_another_principal(store: Store) -> None:
    async with opened(store) as service:
        principals = Principals(Allowance())
        ann, bob = (principals.runs_of(service, name) for name in ("ann", "bob"))
        state = await over(service, await ann.start(ORDER, origin=NOBODY))
        token = await ann.approvals.offer(state.run_id)
        with pytest.raises(UnknownRunError):
            await bob.approvals.offer(state.run_id)
        with pytest.raises(UnknownRunError):
            await bob.approvals.redeem(state.run_id, token)
        with pytest.raises(UnknownRunError):
            await bob.resume(state.run_id, by="bob", approved=digest_to_approve(state))
        plan = await ann.approvals.redeem(state.run_id, token)
        await ann.resume(state.run_id, by="ann", approved=plan)
        assert (await over(service, state)).status == "succeeded"
