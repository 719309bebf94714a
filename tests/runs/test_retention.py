"""Runs that are deleted: one by name, or all that are not to be kept."""

from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest

from building import setup
from concertmaster.errors import BusyRunError, UnknownRunError
from concertmaster.runs.intake import RunPolicy
from concertmaster.runs.orders import Order, RunOrder, WorkerOrder
from concertmaster.runs.retention import DAY, KEEP_ALL, MEGABYTE, Retention
from concertmaster.runs.service import RunService, open_service
from concertmaster.store.journal import StoredRun
from concertmaster.store.sqlite.store import SqliteJournal
from concertmaster.tools.inputs import InlineInput
from fakes import FakeLLM
from services import Gate, service_in
from stores import Store

pytestmark = pytest.mark.anyio

THINK = WorkerOrder(worker="analyst", task="think")
NOW = 100 * DAY


def stored(name: str, *, days: float = 0, megabytes: float = 0, busy: bool = False) -> StoredRun:
    return StoredRun(
        run_id=name, created_at=NOW - days * DAY, size=int(megabytes * MEGABYTE), busy=busy
    )


STOCK = [
    stored("new", days=1, megabytes=3),
    stored("old", days=8, megabytes=2),
    stored("busy", days=20, megabytes=1, busy=True),
    stored("older", days=30, megabytes=1),
]


@pytest.mark.parametrize(
    ("retention", "dropped"),
    [
        (KEEP_ALL, []),
        (Retention(days=40), []),
        (Retention(days=10), ["older"]),
        (Retention(days=7), ["old", "older"]),
        (Retention(runs=3), ["older"]),
        (Retention(runs=2), ["older"]),
        (Retention(runs=1), ["old", "older"]),
        (Retention(megabytes=7), []),
        (Retention(megabytes=6), ["older"]),
        (Retention(megabytes=4), ["old", "older"]),
        (Retention(megabytes=5, days=10), ["older"]),
        (Retention(runs=3, days=7), ["old", "older"]),
    ],
)
def test_the_newest_are_kept_and_what_is_under_way(
    retention: Retention, dropped: list[str]
) -> None:
    assert [run.run_id for run in retention.surplus(STOCK, now=NOW)] == dropped


def test_a_retention_without_bounds_is_none() -> None:
    assert not KEEP_ALL
    assert Retention(runs=1)


async def finished(service: RunService, order: Order = THINK) -> str:
    run_id = (await service.start(order)).run_id
    await service.wait(run_id, seconds=60)
    return run_id


async def test_what_is_deleted_is_gone_from_the_store_and_nothing_else(store: Store) -> None:
    shared = InlineInput(name="shared", text="SHARED")
    own = InlineInput(name="own", text="OWN-SECRET")
    llm = FakeLLM(default="RESULT-SECRET")
    async with service_in(store, llm=llm) as service:
        first = await finished(service, RunOrder(task="why?", inputs=(shared, own)))
        second = await finished(service, RunOrder(task="why?", inputs=(shared,)))
        await service.delete(first)
        with pytest.raises(UnknownRunError):
            await service.get(first)
        assert (await service.get(second)).run_id == second
    kept = store.contents()
    assert b"SHARED" in kept
    assert b"OWN-SECRET" not in kept


async def test_a_run_that_is_not_there_cannot_be_deleted(store: Store) -> None:
    async with service_in(store) as service:
        with pytest.raises(UnknownRunError):
            await service.delete("r-none")


async def test_a_run_under_way_is_not_deleted_and_an_interrupted_one_is(store: Store) -> None:
    gate = Gate()
    async with service_in(store, {"worker:analyst": gate}) as owner:
        run_id = (await owner.start(THINK)).run_id
        await gate.reached.wait()
        async with service_in(store) as other:
            for service in (owner, other):
                with pytest.raises(BusyRunError, match="concertmaster cancel"):
                    await service.delete(run_id)
                assert await service.prune(Retention(days=1e-12)) == []
    async with service_in(store) as service:
        await service.delete(run_id)
        assert (await service.recent()).states == ()


async def test_pruning_deletes_what_is_not_to_be_kept_and_says_what_that_was(
    store: Store,
) -> None:
    async with service_in(store) as service:
        runs = [await finished(service) for _ in range(4)]
        pruned = await service.prune(Retention(runs=2))
        assert [run.run_id for run in pruned] == [runs[1], runs[0]]
        assert all(run.size > 100 for run in pruned)
        assert [state.run_id for state in (await service.recent()).states] == [runs[3], runs[2]]
        assert await service.prune(Retention(runs=2)) == []


async def test_what_another_process_deletes_meanwhile_keeps_nobody_from_pruning(
    tmp_path: Path,
) -> None:
    class SlowJournal(SqliteJournal):
        async def delete(self, run_ids: Sequence[str]) -> None:
            if runs[0] in run_ids:
                await other.delete(runs[0])
            await super().delete(run_ids)

    journal = SlowJournal(tmp_path)
    async with (
        service_in(tmp_path) as other,
        journal.committing(),
        open_service(journal=journal, setup=setup(FakeLLM()), policy=RunPolicy()) as service,
    ):
        runs = [await finished(other) for _ in range(3)]
        pruned = await service.prune(Retention(runs=1))
        assert [run.run_id for run in pruned] == [runs[1]]
        assert [state.run_id for state in (await other.recent()).states] == [runs[2]]


async def test_a_text_counts_as_a_part_of_each_run_that_refers_to_it(store: Store) -> None:
    text = InlineInput(name="large", text="ä" * 50_000)
    async with service_in(store) as service:
        small = await finished(service)
        large = await finished(service, RunOrder(task="why?", inputs=(text,)))
        pruned = await service.prune(Retention(megabytes=0.09))
        assert [run.run_id for run in pruned] == [large]
        assert pruned[0].size > 100_000
        assert (await service.get(small)).run_id == small


async def test_of_several_who_prune_at_once_each_gets_through(store: Store) -> None:
    async with service_in(store) as one, service_in(store) as other:
        runs = [await finished(one) for _ in range(6)]
        with anyio.fail_after(60):
            pruned = await anyio.amap(
                lambda service: service.prune(Retention(runs=1)), [one, other] * 3
            )
        assert sorted(run.run_id for runs in pruned for run in runs) == sorted(runs[:-1])
        assert [state.run_id for state in (await other.recent()).states] == [runs[-1]]
