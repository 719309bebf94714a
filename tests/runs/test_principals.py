"""Runs of several people on one service: each sees their own, and may have so many."""

import sqlite3
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import anyio
import pytest

from building import setup
from clients import hang
from concertmaster.engine.events import Event
from concertmaster.engine.request import NOBODY
from concertmaster.errors import (
    AllowanceError,
    ModelReplyError,
    UnknownRunError,
    UnreadableRunError,
)
from concertmaster.llm.messages import Request
from concertmaster.runs.approvals import digest_to_approve
from concertmaster.runs.intake import RunPolicy
from concertmaster.runs.orders import PlanOrder, RunOrder
from concertmaster.runs.principals import Allowance, OwnRuns, Principals
from concertmaster.runs.service import RunService, open_service
from concertmaster.runs.state import RecentRuns
from concertmaster.store.journal import Outline
from concertmaster.store.sqlite.store import SqliteJournal, open_sqlite
from fakes import USAGE, FakeLLM, Script, plan_json, reply_with, subtask
from stores import Store

pytestmark = pytest.mark.anyio

ONE = plan_json(subtask("s1"))


class People:
    """Two people on one service."""

    def __init__(self, service: RunService, allowance: Allowance) -> None:
        self.service = service
        principals = Principals(allowance)
        self.ann = principals.runs_of(service, "ann")
        self.bob = principals.runs_of(service, "bob")


@asynccontextmanager
async def people(
    folder: Path,
    scripts: Mapping[str, Script] | None = None,
    *,
    runs: int | None = None,
    usd_a_day: float | None = None,
) -> AsyncGenerator[People]:
    async with (
        open_sqlite(folder) as journal,
        open_service(
            journal=journal,
            setup=setup(FakeLLM({"planner": ONE} | dict(scripts or {}))),
            policy=RunPolicy(),
        ) as service,
    ):
        yield People(service, Allowance(runs=runs, usd_a_day=usd_a_day))


async def finished(runs: OwnRuns) -> str:
    """Return the id of a run that is over."""
    started = await runs.start(RunOrder(task="why?"), origin=NOBODY)
    with anyio.fail_after(60):
        assert (await runs.wait(started.run_id, seconds=5)).status == "succeeded"
    return started.run_id


DOORS: dict[str, Callable[[OwnRuns, str], Awaitable[object]]] = {
    "get": lambda runs, run_id: runs.get(run_id),
    "wait": lambda runs, run_id: runs.wait(run_id, seconds=60),
    "wait for a change": lambda runs, run_id: runs.wait_for_change(run_id, seen=0, seconds=60),
    "cancel": lambda runs, run_id: runs.cancel(run_id, reason="no"),
    "result": lambda runs, run_id: runs.result(run_id, "s1"),
    "changes": lambda runs, run_id: runs.changes(run_id),
    "trace": lambda runs, run_id: runs.trace(run_id),
    "input": lambda runs, run_id: runs.input_names([f"runs://{run_id}/answer"]),
    "input of an order": lambda runs, run_id: runs.check(
        RunOrder(task="why?", inputs=(f"runs://{run_id}/subtasks/s1",))
    ),
    "input of a run": lambda runs, run_id: runs.start(
        RunOrder(task="why?", inputs=(f"runs://{run_id}/answer",)), origin=NOBODY
    ),
    "rerun": lambda runs, run_id: runs.rerun(run_id, origin=NOBODY),
    "resume": lambda runs, run_id: runs.resume(run_id, by="a test"),
    "plan": lambda runs, run_id: runs.start(RunOrder(plan_id=run_id), origin=NOBODY),
}


@pytest.mark.parametrize("door", DOORS)
async def test_a_run_is_open_to_its_principal_and_does_not_exist_for_others(
    door: str, tmp_path: Path
) -> None:
    async with people(tmp_path) as group:
        run_id = await finished(group.ann)
        await DOORS[door](group.ann, run_id)
        with pytest.raises(UnknownRunError) as refused:
            await DOORS[door](group.bob, run_id)
        with pytest.raises(UnknownRunError) as missing:
            await DOORS[door](group.bob, "r-none")
    assert str(refused.value) == str(missing.value).replace("r-none", run_id)


async def test_a_run_under_way_does_not_exist_for_others_either(tmp_path: Path) -> None:
    async with people(tmp_path, {"planner": hang}) as group:
        run = await group.ann.start(PlanOrder(task="why?"), origin=NOBODY)
        with pytest.raises(UnknownRunError):
            await group.bob.cancel(run.run_id, reason="no")
        assert (await group.ann.get(run.run_id)).cancel_requested is None


async def test_nothing_is_read_of_the_runs_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    events, outlines, text = SqliteJournal.events, SqliteJournal.outlines, SqliteJournal.text

    async def note_events(journal: SqliteJournal, run_id: str) -> Sequence[Event]:
        read.append(run_id)
        return await events(journal, run_id)

    async def note_outlines(
        journal: SqliteJournal, run_ids: Collection[str]
    ) -> Mapping[str, Outline]:
        read.extend(run_ids)
        return await outlines(journal, run_ids)

    async def note_text(journal: SqliteJournal, digest: str) -> str:
        read.append(digest)
        return await text(journal, digest)

    async with people(tmp_path) as both:
        run_id = await finished(both.ann)
        monkeypatch.setattr(SqliteJournal, "events", note_events)
        monkeypatch.setattr(SqliteJournal, "outlines", note_outlines)
        monkeypatch.setattr(SqliteJournal, "text", note_text)
        # How long an answer takes is not to tell whether there is a run, and how large it is.
        for door in DOORS.values():
            with pytest.raises(UnknownRunError):
                await door(both.bob, run_id)
        await both.bob.recent()
        assert read == []
        await both.ann.recent()
        assert read == [run_id]


async def test_each_lists_their_own_runs_and_the_operator_all(tmp_path: Path) -> None:
    async with people(tmp_path) as group:
        of_ann = await finished(group.ann)
        of_bob = await finished(group.bob)
        assert [state.run_id for state in (await group.ann.recent(1)).states] == [of_ann]
        assert [state.run_id for state in (await group.bob.recent()).states] == [of_bob]
        everything = await group.service.recent()
    assert [state.run_id for state in everything.states] == [of_bob, of_ann]


async def test_runs_stay_with_their_principal_after_a_restart(tmp_path: Path) -> None:
    async with people(tmp_path) as group:
        run_id = await finished(group.ann)
    async with people(tmp_path) as group:
        assert (await group.ann.get(run_id)).answer == "done"
        with pytest.raises(UnknownRunError):
            await group.bob.get(run_id)


async def test_runs_of_the_operator_belong_to_no_principal(tmp_path: Path) -> None:
    async with people(tmp_path) as group:
        run = await group.service.start(RunOrder(task="why?"))
        await group.service.wait(run.run_id, seconds=5)
        with pytest.raises(UnknownRunError):
            await group.ann.get(run.run_id)
        assert (await group.ann.recent()).states == ()


async def test_a_run_whose_start_is_damaged_is_unreadable_for_its_principal_alone(
    tmp_path: Path,
) -> None:
    async with people(tmp_path) as group:
        await finished(group.ann)
        damaged = await finished(group.ann)
    with closing(sqlite3.connect(tmp_path / "runs.db")) as file, file:
        file.execute("UPDATE events SET data = 'x' WHERE run_id = ? AND seq = 1", (damaged,))
    async with people(tmp_path) as group:
        listed = await group.ann.recent()
        assert (len(listed.states), len(listed.unreadable)) == (1, 1)
        assert await group.bob.recent() == RecentRuns()
        with pytest.raises(UnreadableRunError):
            await group.ann.get(damaged)
        with pytest.raises(UnknownRunError):
            await group.bob.get(damaged)


async def test_a_principal_may_have_so_many_runs_under_way(tmp_path: Path) -> None:
    async with people(tmp_path, {"planner": hang}, runs=2) as group:
        outcomes: Counter[str] = Counter()

        async def start() -> None:
            try:
                await group.ann.start(RunOrder(task="why?"), origin=NOBODY)
                outcomes["started"] += 1
            except AllowanceError:
                outcomes["refused"] += 1

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(start)
        assert outcomes == {"started": 2, "refused": 3}
        await group.bob.start(RunOrder(task="why?"), origin=NOBODY)
        (latest, _) = (await group.ann.recent()).states
        await group.ann.cancel(latest.run_id, reason="no longer wanted")
        await start()
    assert outcomes["started"] == 3


async def test_an_order_that_cannot_be_done_takes_no_place(tmp_path: Path) -> None:
    async with people(tmp_path, runs=1) as group:
        with pytest.raises(UnknownRunError):
            await group.ann.start(RunOrder(plan_id="r-none"), origin=NOBODY)
        await finished(group.ann)


async def test_a_principal_who_has_spent_enough_starts_nothing_more(tmp_path: Path) -> None:
    async with people(tmp_path, usd_a_day=0.02) as group:
        await finished(group.ann)
        with pytest.raises(AllowanceError, match=r"Of the 0\.02 USD .* 0\.00 USD are left"):
            await group.ann.start(RunOrder(task="why?"), origin=NOBODY)
        await finished(group.bob)


async def test_a_run_gets_no_more_than_is_left_of_the_day(tmp_path: Path) -> None:
    answers = iter([ONE])

    async def plan_once(request: Request) -> str:
        return next(answers, "") or await hang(request)

    async with people(tmp_path, {"planner": plan_once}, usd_a_day=3) as group:
        usual = await group.ann.get(await finished(group.ann))
        with pytest.raises(AllowanceError, match=r"2\.98 USD are left"):
            await group.ann.start(RunOrder(task="why?", budget_usd=2.99), origin=NOBODY)
        asked = await group.ann.start(RunOrder(task="why?", budget_usd=2.5), origin=NOBODY)
        cut = await group.ann.start(RunOrder(task="why?"), origin=NOBODY)
    assert usual.request.limits.budget_usd == 2
    assert asked.request.limits.budget_usd == 2.5
    assert cut.request.limits.budget_usd == pytest.approx(0.48)


async def test_runs_started_at_once_do_not_share_what_is_left(tmp_path: Path) -> None:
    async with people(tmp_path, {"planner": hang}, usd_a_day=3) as group:
        budgets: list[float] = []

        async def start() -> None:
            started = await group.ann.start(RunOrder(task="why?"), origin=NOBODY)
            budgets.append(started.request.limits.budget_usd)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(start)
            tasks.start_soon(start)
    assert sum(budgets) == pytest.approx(3)


@asynccontextmanager
async def server(
    store: Store, allowance: Allowance, scripts: Mapping[str, Script] | None = None
) -> AsyncGenerator[OwnRuns]:
    """Yield the runs of one person on a server of several, which accepts runs and drives none."""
    async with (
        store.open() as journal,
        open_service(
            journal=journal,
            setup=setup(FakeLLM({"planner": ONE} | dict(scripts or {}))),
            policy=RunPolicy(runs_here=0 if scripts is None else None),
        ) as service,
    ):
        yield Principals(allowance).runs_of(service, "ann")


async def accepted(*servers: OwnRuns, orders: int, budget_usd: float | None = None) -> list[float]:
    """Return the budgets of the runs that were accepted of so many orders to each server."""
    budgets: list[float] = []
    order = RunOrder(task="why?", budget_usd=budget_usd)

    async def start(runs: OwnRuns) -> None:
        with suppress(AllowanceError):
            state = await runs.start(order, origin=NOBODY)
            budgets.append(state.request.limits.budget_usd)

    with anyio.fail_after(60):
        await anyio.amap(start, servers * orders)
    return budgets


async def test_accepted_runs_that_nobody_has_begun_count(store: Store) -> None:
    async with server(store, Allowance(usd_a_day=3)) as runs:
        assert await accepted(runs, orders=12, budget_usd=3) == [3]
    async with server(store, Allowance(runs=2)) as runs:
        assert len(await accepted(runs, orders=3)) == 1


async def test_servers_on_one_store_share_the_limits_of_a_user(store: Store) -> None:
    allowance = Allowance(usd_a_day=3)
    async with server(store, allowance) as one, server(store, allowance) as other:
        assert sum(await accepted(one, other, orders=6)) == pytest.approx(3)
    allowance = Allowance(runs=6)
    async with server(store, allowance) as one, server(store, allowance) as other:
        assert len(await accepted(one, other, orders=6)) == 4


async def test_a_run_that_is_repeated_has_its_budget_cut_to_what_is_left_of_the_day(
    store: Store,
) -> None:
    async with server(store, Allowance(usd_a_day=3), {}) as runs:
        run_id = await finished(runs)
    async with server(store, Allowance(usd_a_day=3)) as runs:
        again = await runs.rerun(run_id, redo=["s1"], origin=NOBODY)
        cut = await runs.rerun(run_id, redo=["s1"], origin=NOBODY)
        with pytest.raises(AllowanceError):
            await runs.rerun(run_id, plan=cut.request.plan, origin=NOBODY)
    assert again.request.limits.budget_usd == 2
    assert 0.9 < cut.request.limits.budget_usd < 1


async def test_an_interrupted_run_keeps_its_reservation_and_can_be_resumed_with_it(
    store: Store,
) -> None:
    allowance = Allowance(usd_a_day=3)
    async with server(store, allowance, {"planner": hang}) as runs:
        cut_off = await runs.start(RunOrder(task="why?", budget_usd=2.5), origin=NOBODY)
    async with server(store, allowance, {}) as runs:
        assert (await runs.get(cut_off.run_id)).status == "interrupted"
        with pytest.raises(AllowanceError, match=r"0\.50 USD are left"):
            await runs.start(RunOrder(task="why?", budget_usd=1), origin=NOBODY)
        resumed = await runs.resume(cut_off.run_id, by="ann")
        assert resumed.request.limits.budget_usd == 2.5
        with anyio.fail_after(60):
            await runs.wait(cut_off.run_id, seconds=5)
        assert await accepted(runs, orders=1, budget_usd=2.9) == [2.9]


async def test_an_order_that_is_repeated_with_its_key_is_no_second_run(store: Store) -> None:
    async with server(store, Allowance(runs=1, usd_a_day=3)) as runs:
        order = RunOrder(task="why?", idempotency_key="k", budget_usd=3)
        first = await runs.start(order, origin=NOBODY)
        assert (await runs.start(order, origin=NOBODY)).run_id == first.run_id


async def test_a_plan_is_run_with_its_own_budget_where_there_is_room_for_it(store: Store) -> None:
    async with server(store, Allowance(usd_a_day=3), {}) as runs:
        plan = await runs.start(PlanOrder(task="why?", budget_usd=0.75), origin=NOBODY)
        with anyio.fail_after(60):
            await runs.wait(plan.run_id, seconds=5)
        run = await runs.start(RunOrder(plan_id=plan.run_id), origin=NOBODY)
    assert run.request.limits.budget_usd == 0.75


async def test_runs_go_on_and_are_repeated_within_the_allowance_only(tmp_path: Path) -> None:
    broken = ModelReplyError("no reply", usage=USAGE)
    async with people(tmp_path, {"planner": broken}, usd_a_day=0.01) as group:
        started = await group.ann.start(RunOrder(task="why?"), origin=NOBODY)
        with anyio.fail_after(60):
            ended = await group.ann.wait(started.run_id, seconds=5)
        assert ended.status == "failed"
        with pytest.raises(AllowanceError):
            await group.ann.resume(started.run_id, by="ann")
        with pytest.raises(AllowanceError):
            await group.ann.rerun(started.run_id, origin=NOBODY)


async def test_a_run_goes_on_with_no_more_than_is_left_of_the_day(tmp_path: Path) -> None:
    broken = ModelReplyError("no reply", usage=USAGE)
    async with people(tmp_path, {"planner": broken}, usd_a_day=3) as group:
        run_id = (await group.ann.start(RunOrder(task="why?"), origin=NOBODY)).run_id
        with anyio.fail_after(60):
            await group.ann.wait(run_id, seconds=5)
        for more in (3.01, 19):
            with pytest.raises(AllowanceError, match=r"2\.99 USD are left"):
                await group.ann.resume(run_id, by="ann", budget_usd=more)
        with pytest.raises(AllowanceError, match=r"2\.99 USD are left"):
            await group.ann.rerun(run_id, budget_usd=3, origin=NOBODY)
        # What the run has spent is part of its budget.
        resumed = await group.ann.resume(run_id, by="ann", budget_usd=3)
    assert resumed.request.limits.budget_usd == 3


async def test_a_run_that_goes_on_has_its_budget_cut_to_what_is_left_of_the_day(
    tmp_path: Path,
) -> None:
    async with people(tmp_path, usd_a_day=2) as group:
        run_id = (await group.ann.start(APPROVED, origin=NOBODY)).run_id
        with anyio.fail_after(60):
            waits = await group.ann.wait(run_id, seconds=5)
        await finished(group.ann)
        approved = digest_to_approve(waits)
        resumed = await group.ann.resume(run_id, by="ann", approved=approved)
    assert waits.request.limits.budget_usd == 2
    assert resumed.request.limits.budget_usd == pytest.approx(1.98)


APPROVED = RunOrder(task="why?", approve="always")


async def test_a_repeated_run_belongs_to_whoever_repeats_it(tmp_path: Path) -> None:
    async with people(tmp_path) as group:
        again = await group.ann.rerun(await finished(group.ann), origin=NOBODY)
        assert again.principal == "ann"


async def test_a_key_of_one_principal_is_of_no_use_to_another(tmp_path: Path) -> None:
    order = RunOrder(task="why?", idempotency_key="k")
    async with people(tmp_path) as group:
        first = await group.ann.start(order, origin=NOBODY)
        assert await group.bob.known(order) is None
        other = await group.bob.start(order, origin=NOBODY)
        again = await group.ann.start(order, origin=NOBODY)
        known = await group.ann.known(order)
    assert known is not None
    assert first.run_id == again.run_id == known.run_id != other.run_id


async def test_what_failed_calls_cost_counts_and_what_has_no_price_does_not(
    tmp_path: Path,
) -> None:
    unpriced = USAGE.model_copy(update={"usd": None})
    broken = ModelReplyError("no reply", usage=USAGE)
    scripts: dict[str, Script] = {
        "planner": reply_with(ONE, usage=unpriced),
        "worker:analyst": broken,
    }
    async with people(tmp_path, scripts) as group:
        run = await group.ann.start(RunOrder(task="why?"), origin=NOBODY)
        with anyio.fail_after(60):
            await group.ann.wait(run.run_id, seconds=5)
        assert (await group.service.usage_of("ann", since=0)).spent_usd == pytest.approx(0.01)
        assert (await group.service.usage_of("bob", since=0)).spent_usd == 0


async def test_what_was_spent_before_the_last_day_does_not_count(tmp_path: Path) -> None:
    async with people(tmp_path, usd_a_day=0.02) as group:
        await finished(group.ann)
    with closing(sqlite3.connect(tmp_path / "runs.db")) as file, file:
        file.execute("UPDATE events SET at = at - 90000")
    async with people(tmp_path, usd_a_day=0.02) as group:
        await finished(group.ann)
