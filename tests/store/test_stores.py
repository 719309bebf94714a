"""What every store promises, whichever it is."""

from collections.abc import Awaitable, Callable

import anyio
import pytest
from anyio.lowlevel import checkpoint

from concertmaster.engine.events import (
    CallFailed,
    CallFinished,
    CallStarted,
    CancelRequested,
    Event,
    RunEnded,
    RunResumed,
    RunStarted,
    ToolAnswered,
    ToolCalled,
)
from concertmaster.engine.request import Origin, RunRequest
from concertmaster.errors import (
    BusyRunError,
    LostRunError,
    RequestError,
    ReservationError,
    StoreError,
    UnknownRunError,
    UnreadableRunError,
    UsedKeyError,
)
from concertmaster.store.journal import Journal, Reservation, Standing
from fakes import USAGE, reply_with
from stores import EVERY_KIND, Store, cancel, names, numbered, started

pytestmark = pytest.mark.anyio


async def test_events_come_back_as_they_were_and_in_order(store: Store) -> None:
    async with store.open() as journal:
        await journal.create("r-1", EVERY_KIND[0], {})
        for event in EVERY_KIND[1:]:
            await journal.append("r-1", event, epoch=1)
        assert await journal.events("r-1") == EVERY_KIND


async def test_outlines_leave_out_what_was_said_and_keep_what_it_cost(store: Store) -> None:
    async with store.open() as journal:
        for run_id in ("r-1", "r-2"):
            await journal.create(run_id, EVERY_KIND[0], {})
            for event in EVERY_KIND[1:]:
                await journal.append(run_id, event, epoch=1)
        await journal.create("r-3", EVERY_KIND[0], {})
        outlines = await journal.outlines(["r-1", "r-3", "r-9"])
    expected: list[Event] = []
    for event in EVERY_KIND:
        if isinstance(event, CallFinished):
            silent = event.reply.model_copy(update={"text": "", "tool_calls": ()})
            expected.append(event.model_copy(update={"reply": silent}))
        elif not isinstance(event, CallStarted | ToolCalled):
            expected.append(event)
    assert outlines == {"r-1": expected, "r-3": [EVERY_KIND[0]], "r-9": []}


async def test_a_run_that_cannot_be_read_keeps_no_other_from_being_outlined(store: Store) -> None:
    async with store.open() as journal:
        for run_id in ("r-1", "r-2"):
            await journal.create(run_id, EVERY_KIND[0], {})
            await journal.append(run_id, EVERY_KIND[2], epoch=1)
        damage = "UPDATE events SET data = '{' WHERE run_id = ? AND kind = 'run-started'"
        store.change(damage, "r-1")
        outlines = await journal.outlines(["r-1", "r-2"])
    assert isinstance(outlines["r-1"], UnreadableRunError)
    assert isinstance(outlines["r-2"], list)


async def test_a_journal_is_still_there_when_it_is_opened_again(store: Store) -> None:
    async with store.open() as journal:
        await journal.create("r-1", started(), {"d1": "text"})
        await journal.append("r-1", numbered(1), epoch=1)
    async with store.open() as journal:
        assert await names(journal) == ["run/start", "subtask/s1/start"]
        assert await journal.text("d1") == "text"


async def test_events_are_in_the_order_of_the_calls_waited_for_or_not(store: Store) -> None:
    async with store.open() as journal:
        await journal.create("r-1", started(), {})
        for number in range(50):
            await journal.append("r-1", numbered(number), epoch=1, wait=number % 7 == 0)
        await journal.append("r-1", cancel(), epoch=1)
        expected = [f"subtask/s{number}/start" for number in range(50)]
        assert await names(journal) == ["run/start", *expected, "run/cancel/enough"]


async def test_an_event_is_committed_though_its_caller_is_cancelled(store: Store) -> None:
    async with store.open() as journal:
        await journal.create("r-1", started(), {})
        with anyio.CancelScope() as scope:
            scope.cancel()
            await journal.append("r-1", numbered(1), epoch=1)
        assert scope.cancelled_caught
    async with store.open() as journal:
        assert await names(journal) == ["run/start", "subtask/s1/start"]


async def test_what_nobody_waits_for_is_committed_before_a_cancelled_journal_closes(
    store: Store,
) -> None:
    with anyio.CancelScope() as scope:
        async with store.open() as journal:
            await journal.create("r-1", started(), {})
            await journal.append("r-1", numbered(1), epoch=1, wait=False)
            scope.cancel()
            await checkpoint()
    async with store.open() as journal:
        assert await names(journal) == ["run/start", "subtask/s1/start"]


async def test_what_is_raised_inside_comes_out_as_it_is(store: Store) -> None:
    cause = KeyError("cause")
    with pytest.raises(RequestError, match="mine") as caught:
        async with store.open():
            raise RequestError("mine") from cause
    assert caught.value.__cause__ is cause


async def test_a_cancel_request_needs_no_epoch(store: Store) -> None:
    async with store.open() as journal:
        await journal.create("r-1", started(), {})
        store.change("UPDATE runs SET epoch = 7")
        await journal.tell("r-1", cancel())
        assert await journal.events("r-1") == [started(), cancel()]
        assert (await journal.row("r-1")).epoch == 7


async def test_a_run_that_does_not_exist_is_unknown(store: Store) -> None:
    async with store.open() as journal:
        attempts: list[Callable[[], Awaitable[object]]] = [
            lambda: journal.append("r-9", numbered(1), epoch=1),
            lambda: journal.tell("r-9", cancel()),
            lambda: journal.row("r-9"),
            lambda: journal.events("r-9"),
        ]
        for attempt in attempts:
            with pytest.raises(UnknownRunError):
                await attempt()


async def test_a_name_is_taken_once_in_an_epoch(store: Store) -> None:
    async with store.open() as journal:
        await journal.create("r-1", started(), {})
        await journal.append("r-1", numbered(1), epoch=1)
        with pytest.raises(StoreError, match="subtask/s1/start"):
            await journal.append("r-1", numbered(1), epoch=1)
        with pytest.raises(StoreError, match="run/start"):
            await journal.create("r-1", started(), {})
        store.change("UPDATE runs SET epoch = 2")
        await journal.append("r-1", numbered(1), epoch=2)
        assert await names(journal) == ["run/start", "subtask/s1/start", "subtask/s1/start"]


async def test_the_failure_of_a_write_nobody_waited_for_comes_out_at_the_next_that_is(
    store: Store,
) -> None:
    async with store.open() as journal:
        await journal.create("r-1", started(), {})
        await journal.create("r-2", started(), {})
        await journal.append("r-1", numbered(1), epoch=9, wait=False)
        await journal.append("r-2", numbered(1), epoch=1)
        await journal.append("r-1", numbered(2), epoch=1, wait=False)
        with pytest.raises(LostRunError):
            await journal.append("r-1", numbered(3), epoch=1)
        assert await names(journal) == ["run/start"], "nothing follows on what is missing"
        await journal.append("r-1", numbered(4), epoch=1)
        assert await names(journal) == ["run/start", "subtask/s4/start"]


async def test_the_failure_of_a_write_whose_caller_was_cancelled_comes_out_at_the_next(
    store: Store,
) -> None:
    async with store.open() as journal:
        await journal.create("r-1", started(), {})
        with anyio.CancelScope() as scope:
            scope.cancel()
            await journal.append("r-1", numbered(1), epoch=9)
        with pytest.raises(LostRunError):
            await journal.append("r-1", numbered(2), epoch=1)


async def test_a_failure_comes_out_even_where_the_next_write_shares_its_commit(
    store: Store,
) -> None:
    async with store.open() as journal:
        await journal.create("r-1", started(), {})
        await journal.append("r-1", numbered(1), epoch=9, wait=False)
        with pytest.raises(LostRunError):
            await journal.append("r-1", numbered(2), epoch=1)


async def test_texts_are_kept_once_by_digest(store: Store) -> None:
    async with store.open() as journal:
        await journal.create("r-1", started(), {"d1": "one", "d2": "two\0"})
        await journal.create("r-2", started(), {"d2": "other", "d3": "three"})
        assert [await journal.text(digest) for digest in ("d1", "d2", "d3")] == [
            "one",
            "two\0",
            "three",
        ]


async def test_a_text_that_is_not_there_is_an_error(store: Store) -> None:
    async with store.open() as journal:
        with pytest.raises(StoreError, match="d9"):
            await journal.text("d9")


async def test_half_a_character_does_not_cost_the_event_that_has_it(store: Store) -> None:
    async with store.open() as journal:
        await journal.create("r-1", started(), {})
        broken = CancelRequested(name="run/cancel/1", at=2, reason="a\ud800\u00e9")
        await journal.append("r-1", broken, epoch=1)
        _, read = await journal.events("r-1")
        assert read == broken.model_copy(update={"reason": "a?\u00e9"})


async def test_the_latest_runs_come_first(store: Store) -> None:
    async with store.open() as journal:
        for run_id, at in (("r-1", 5.0), ("r-2", 9.0), ("r-3", 7.0), ("r-4", 7.0)):
            await journal.create(run_id, started(at), {})
        rows = await journal.recent(3)
        assert [(row.run_id, row.created_at) for row in rows] == [
            ("r-2", 9.0),
            ("r-4", 7.0),
            ("r-3", 7.0),
        ]


async def test_a_run_is_alive_and_mine_to_who_created_it(store: Store) -> None:
    async with store.open() as journal:
        await journal.create("r-1", started(3.0), {})
        row = await journal.row("r-1")
        assert (row.run_id, row.created_at, row.epoch) == ("r-1", 3.0, 1)
        assert row.alive
        assert row.mine


async def test_a_commit_of_another_wakes_who_waits_for_it(store: Store) -> None:
    async with store.open() as mine, store.open() as other:
        await mine.create("r-1", started(), {})
        await mine.changed_elsewhere()
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(mine.changed_elsewhere)
                tasks.start_soon(mine.changed_elsewhere)
                await other.tell("r-1", cancel())


async def test_the_row_of_a_run_differs_once_it_has_another_event(store: Store) -> None:
    async with store.open() as journal:
        await journal.create("r-1", started(), {})
        before = await journal.row("r-1")
        assert await journal.row("r-1") == before
        await journal.append("r-1", numbered(1), epoch=1)
        after = await journal.row("r-1")
        assert after != before
        assert (await journal.recent(1))[0] == after


async def test_a_commit_of_another_between_two_calls_is_not_missed(store: Store) -> None:
    async with store.open() as mine, store.open() as other:
        await mine.create("r-1", started(), {})
        await mine.changed_elsewhere()
        await other.tell("r-1", cancel())
        with anyio.fail_after(60):
            await mine.changed_elsewhere()


async def test_an_event_of_a_newer_program_is_refused(store: Store) -> None:
    async with store.open() as journal:
        await journal.create("r-1", started(), {})
        await journal.create("r-2", started(), {})
        store.change("UPDATE events SET version = 99 WHERE run_id = 'r-1'")
        with pytest.raises(StoreError, match="newer Concertmaster"):
            await journal.events("r-1")
        assert await names(journal, "r-2") == ["run/start"]


@pytest.mark.parametrize("data", ["{}", "garbage", '{"kind": "run-started", "name": 5}'])
async def test_an_event_that_cannot_be_read_is_an_error_in_one_line(
    store: Store, data: str
) -> None:
    async with store.open() as journal:
        await journal.create("r-1", started(), {})
        store.change("UPDATE events SET data = ?", data)
        with pytest.raises(UnreadableRunError, match="Run r-1 cannot be read") as caught:
            await journal.events("r-1")
        assert "\n" not in str(caught.value)
        assert "http" not in str(caught.value)


async def test_a_run_that_lost_its_events_has_none(store: Store) -> None:
    async with store.open() as journal:
        await journal.create("r-1", started(), {})
        store.change("DELETE FROM events")
        assert await journal.events("r-1") == []


async def test_an_event_of_an_old_epoch_is_refused_and_its_neighbours_are_not(
    store: Store,
) -> None:
    async with store.open() as journal:
        await journal.create("lost", started(), {})
        await journal.create("kept", started(), {})
        store.change("UPDATE runs SET epoch = 2 WHERE run_id = 'lost'")
        await journal.append("kept", numbered(1), epoch=1, wait=False)
        await journal.append("lost", numbered(1), epoch=1, wait=False)
        await journal.append("kept", numbered(2), epoch=1)
        with pytest.raises(LostRunError) as caught:
            await journal.append("lost", numbered(2), epoch=1)
        assert caught.value.run_id == "lost"
        assert await names(journal, "lost") == ["run/start"]
        assert await names(journal, "kept") == ["run/start", "subtask/s1/start", "subtask/s2/start"]
        await journal.append("lost", numbered(3), epoch=2)
        assert await names(journal, "lost") == ["run/start", "subtask/s3/start"]


async def test_a_run_of_another_journal_is_alive_until_that_closes(store: Store) -> None:
    async with store.open() as mine:
        async with store.open() as other:
            await other.create("r-1", started(), {})
            row = await mine.row("r-1")
            assert (row.alive, row.mine) == (True, False)
            assert await mine.unfinished() == [row]
        row = await mine.row("r-1")
        assert (row.alive, row.mine) == (False, False)
        assert await mine.unfinished() == [row]


def resumed(epoch: int) -> Event:
    return RunResumed(name=f"run/resume/{epoch}", at=3.0, epoch=epoch, by="test")


def ended() -> Event:
    return RunEnded(name="run/end", at=4.0, status="partial")


async def test_a_run_belongs_to_who_takes_it_over(store: Store) -> None:
    async with store.open() as first:
        await first.create("r-1", started(), {})
    async with store.open() as second:
        await second.take_over("r-1", resumed(2), epoch=2)
        row = await second.row("r-1")
        assert (row.epoch, row.alive, row.mine) == (2, True, True)
        await second.append("r-1", numbered(1), epoch=2)
        assert await names(second) == ["run/start", "run/resume/2", "subtask/s1/start"]


async def test_a_run_under_way_is_taken_over_by_nobody_else(store: Store) -> None:
    async with store.open() as owner, store.open() as other:
        await owner.create("r-1", started(), {})
        with pytest.raises(LostRunError):
            await other.take_over("r-1", resumed(2), epoch=2)
        await owner.append("r-1", ended(), epoch=1)
        await other.take_over("r-1", resumed(2), epoch=2)
        with pytest.raises(LostRunError):
            await owner.append("r-1", numbered(1), epoch=1)
        assert [row.mine for row in await owner.unfinished()] == [False]


async def test_of_several_who_take_a_run_over_at_once_one_does(store: Store) -> None:
    async with store.open() as first:
        await first.create("r-1", started(), {})
    async with store.open() as one, store.open() as two:
        won: list[Journal] = []

        async def try_it(journal: Journal) -> None:
            try:
                await journal.take_over("r-1", resumed(2), epoch=2)
            except LostRunError:
                return
            won.append(journal)

        await anyio.amap(try_it, [one, two, one, two])
        assert len(won) == 1
        assert (await won[0].row("r-1")).mine
        with pytest.raises(UnknownRunError):
            await one.take_over("r-9", resumed(2), epoch=2)


async def test_a_run_that_is_let_go_is_for_others_though_its_process_lives(store: Store) -> None:
    async with store.open() as one, store.open() as two:
        for run_id in ("r-1", "r-2"):
            await one.create(run_id, started(), {})
            await one.let_go(run_id, epoch=1)
        await two.let_go("r-1", epoch=1)
        row = await one.row("r-1")
        assert (row.alive, row.mine, row.queued) == (False, False, False)
        await two.take_over("r-1", resumed(2), epoch=2)
        await one.let_go("r-1", epoch=1)
        await two.let_go("r-1", epoch=1)
        assert (await one.row("r-1")).alive
        await two.delete(["r-2"])


async def test_runs_that_have_ended_are_not_unfinished(store: Store) -> None:
    async with store.open() as first:
        for number in (1, 2, 3):
            await first.create(f"r-{number}", started(10 - number), {})
        await first.append("r-2", ended(), epoch=1)
    async with store.open() as second:
        assert [row.run_id for row in await second.unfinished()] == ["r-3", "r-1"]


async def test_the_id_of_no_run_may_be_anything(store: Store) -> None:
    async with store.open() as journal:
        for run_id in ("", "r-\0", "r-\ud800", "r-\u00e9"):
            with pytest.raises(UnknownRunError):
                await journal.events(run_id)


async def test_a_queued_run_belongs_to_nobody_until_somebody_takes_it(store: Store) -> None:
    async with store.open() as first, store.open() as second:
        await first.create("r-1", started(), {}, queued=True)
        for journal in (first, second):
            row = await journal.row("r-1")
            assert (row.alive, row.mine, row.queued) == (False, False, True)
            assert await journal.unfinished() == [row]
        assert [run.busy for run in await first.stock()] == [True]
        with pytest.raises(BusyRunError):
            await first.delete(["r-1"])
        await second.take_over("r-1", resumed(2), epoch=2)
        row = await first.row("r-1")
        assert (row.alive, row.queued) == (True, False)
        await second.append("r-1", ended(), epoch=2)
        await first.take_over("r-1", resumed(3), epoch=3, queued=True)
        assert (await first.row("r-1")).queued


async def test_no_more_runs_are_taken_up_than_may_be_under_way(store: Store) -> None:
    async with store.open() as first, store.open() as second:
        await first.create("r-1", started(), {})
        await first.create("r-2", started(), {}, queued=True)
        with pytest.raises(LostRunError):
            await second.take_over("r-2", resumed(2), epoch=2, most=1)
        await first.append("r-1", ended(), epoch=1)
        await second.take_over("r-2", resumed(2), epoch=2, most=1)


def answered(number: int) -> ToolAnswered:
    return ToolAnswered(
        name=f"question/q-1/{number}", at=5, question_id="q-1", allowed=number == 1, by="Ann"
    )


async def test_who_drives_a_run_hears_of_its_epoch_of_wishes_to_stop_it_and_of_answers(
    store: Store,
) -> None:
    async with store.open() as journal:
        for run_id in ("r-1", "r-2", "r-3"):
            await journal.create(run_id, started(), {})
        await journal.tell("r-2", cancel("first"))
        await journal.tell("r-2", cancel("second"))
        await journal.tell("r-3", cancel())
        await journal.take_over("r-3", resumed(2), epoch=2)
        for number in (1, 2):
            await journal.tell("r-1", answered(number))
        standing = await journal.standing(["r-1", "r-2", "r-3", "r-9"])
    assert standing == {
        "r-1": Standing(epoch=1, cancel_requested=None, answers=(answered(1), answered(2))),
        "r-2": Standing(epoch=1, cancel_requested="second"),
        "r-3": Standing(epoch=2, cancel_requested=None),
    }


async def test_what_cannot_be_read_in_one_run_keeps_no_other_from_hearing(store: Store) -> None:
    async with store.open() as journal:
        for run_id in ("r-1", "r-2"):
            await journal.create(run_id, started(), {})
            await journal.tell(run_id, cancel())
        store.change("UPDATE events SET data = '[' WHERE run_id = ? AND name <> 'run/start'", "r-1")
        standing = await journal.standing(["r-1", "r-2"])
    assert standing == {
        "r-1": Standing(epoch=1, cancel_requested=None),
        "r-2": Standing(epoch=1, cancel_requested="enough"),
    }


async def test_a_key_stands_for_one_run(store: Store) -> None:
    async with store.open() as journal:
        await journal.create("r-1", started(), {"d1": "one"}, key="a")
        with pytest.raises(UsedKeyError) as caught:
            await journal.create("r-2", started(), {}, key="a")
        assert caught.value.run_id == "r-1"
        await journal.create("r-3", started(), {})
        await journal.create("r-4", started(), {})
        assert [await journal.run_with(key) for key in ("a", "b")] == ["r-1", None]
        with pytest.raises(UnknownRunError):
            await journal.row("r-2")


async def test_a_deleted_run_is_gone_with_the_texts_that_no_other_has(store: Store) -> None:
    async with store.open() as first, store.open() as second:
        await first.create("r-1", started(1), {"d1": "one", "d2": "two"}, key="a")
        await first.create("r-2", started(2), {"d2": "two"})
        with pytest.raises(BusyRunError):
            await second.delete(["r-1"])
        await first.append("r-1", ended(), epoch=1)
        with pytest.raises(UnknownRunError):
            await second.delete(["r-1", "r-9"])
        stock = await second.stock()
        assert [(run.run_id, run.created_at, run.busy) for run in stock] == [
            ("r-2", 2.0, True),
            ("r-1", 1.0, False),
        ]
        assert stock[1].size > stock[0].size > 3
        await second.delete(["r-1"])
        assert [run.run_id for run in await second.stock()] == ["r-2"]
        assert await first.text("d2") == "two"
        with pytest.raises(StoreError):
            await first.text("d1")
        await first.create("r-3", started(), {}, key="a")


async def test_runs_and_what_they_cost_are_told_of_one_principal(store: Store) -> None:
    async with store.open() as journal:
        for name in ("ann", "bob"):
            request = RunRequest(task="why?")
            origin = Origin(principal=name)
            first = RunStarted(name="run/start", at=1, request=request, origin=origin)
            await journal.create(f"r-{name}", first, {})
        paid = CallFinished(name="call/1", at=5, caller="planner", reply=reply_with("{}"))
        failed = CallFailed(
            name="call/2/failed", at=6, step="call/2", caller="c", error="no", usage=USAGE
        )
        for event in (paid, failed):
            await journal.append("r-ann", event, epoch=1)
        assert [row.run_id for row in await journal.recent(9, principal="ann")] == ["r-ann"]
        assert {row.principal for row in await journal.recent(9)} == {"ann", "bob"}
        assert (await journal.usage_of("ann", since=0)).spent_usd == pytest.approx(0.02)
        assert (await journal.usage_of("ann", since=5.5)).spent_usd == pytest.approx(0.01)
        assert (await journal.usage_of("bob", since=0)).spent_usd == 0


def start_of(principal: str, *, usd: float) -> RunStarted:
    request = RunRequest(task="why?").with_budget(usd)
    origin = Origin(principal=principal)
    return RunStarted(name="run/start", at=1, request=request, origin=origin)


def room_for(usd: float, *, most_usd: float | None = None, most: int | None = None) -> Reservation:
    return Reservation(principal="ann", budget_usd=usd, since=0, most_usd=most_usd, most_runs=most)


def paid(number: int, *, at: float = 2) -> CallFinished:
    return CallFinished(name=f"call/{number}", at=at, caller="planner", reply=reply_with("{}"))


async def test_a_run_reserves_what_is_left_of_its_budget_until_it_has_ended(store: Store) -> None:
    async with store.open() as journal:
        await journal.create("r-1", start_of("ann", usd=2), {})
        await journal.create("r-2", start_of("ann", usd=1), {}, queued=True)
        await journal.create("r-3", start_of("bob", usd=9), {})
        await journal.append("r-1", paid(1), epoch=1)
        used = await journal.usage_of("ann", since=0)
        assert (used.runs, used.spent_before_usd) == (2, 0)
        assert used.reserved_usd == pytest.approx(2.99)
        others = await journal.usage_of("ann", since=5, without="r-1")
        assert (others.runs, others.reserved_usd, others.spent_usd) == (1, 1, 0)
        assert others.spent_before_usd == pytest.approx(0.01)
        await journal.append("r-1", ended(), epoch=1)
        assert (await journal.usage_of("ann", since=0)).reserved_usd == 1
        resumed = RunResumed(name="run/resume/2", at=10, epoch=2, by="ann", budget_usd=5)
        await journal.take_over("r-1", resumed, epoch=2)
        assert (await journal.usage_of("ann", since=0)).reserved_usd == pytest.approx(5.99)
    async with store.open() as journal:
        # The run of a process that has died is still the principal's.
        used = await journal.usage_of("ann", since=0)
        assert used.runs == 1
        assert used.reserved_usd == pytest.approx(5.99)
        await journal.delete(["r-1"])
        assert (await journal.usage_of("ann", since=0)).reserved_usd == 1


async def test_a_run_that_was_asked_to_stop_reserves_nothing_once_its_process_is_gone(
    store: Store,
) -> None:
    async with store.open() as owner:
        await owner.create("r-1", start_of("ann", usd=2), {})
        await owner.tell("r-1", cancel())
        assert (await owner.usage_of("ann", since=0)).reserved_usd == 2
    async with store.open() as journal:
        used = await journal.usage_of("ann", since=0)
        assert (used.runs, used.reserved_usd) == (0, 0)


async def test_of_runs_that_are_begun_at_once_no_more_are_than_there_is_room_for(
    store: Store,
) -> None:
    async with store.open() as one, store.open() as other:
        outcomes: list[str] = []

        async def begin(number: int) -> None:
            journal = (one, other)[number % 2]
            try:
                reservation = room_for(1, most_usd=2.5, most=9)
                start = start_of("ann", usd=1)
                await journal.create(f"r-{number}", start, {}, reservation=reservation)
                outcomes.append("begun")
            except ReservationError:
                outcomes.append("refused")

        await anyio.amap(begin, range(10))
        assert sorted(outcomes) == ["begun"] * 2 + ["refused"] * 8
        assert len(await one.recent(20)) == 2
        with pytest.raises(ReservationError):
            await one.create("r-x", start_of("ann", usd=0.1), {}, reservation=room_for(0.1, most=2))


async def test_a_run_that_there_is_no_room_for_stays_as_it_was(store: Store) -> None:
    async with store.open() as journal:
        await journal.create("r-1", start_of("ann", usd=1), {}, key="k")
        await journal.append("r-1", paid(1), epoch=1)
        await journal.append("r-1", ended(), epoch=1)
        await journal.create("r-2", start_of("ann", usd=2), {})
        resumed = RunResumed(name="run/resume/2", at=10, epoch=2, by="ann", budget_usd=1.5)
        with pytest.raises(ReservationError):
            await journal.take_over("r-1", resumed, epoch=2, reservation=room_for(1.5, most_usd=3))
        assert (await journal.row("r-1")).epoch == 1
        assert len(await journal.events("r-1")) == 3
        # What it has spent is part of its budget, and counted once.
        await journal.take_over("r-1", resumed, epoch=2, reservation=room_for(1.5, most_usd=3.5))
        with pytest.raises(LostRunError):
            await journal.take_over("r-1", resumed, epoch=2, reservation=room_for(1.5, most=9))
        start = start_of("ann", usd=1)
        with pytest.raises(UsedKeyError):
            await journal.create("r-3", start, {}, key="k", reservation=room_for(1, most=0))
