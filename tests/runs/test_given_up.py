from collections.abc import Collection, Mapping
from pathlib import Path

import anyio
import pytest
from anyio.lowlevel import checkpoint

from concertmaster.runs.executor import GivenUp
from concertmaster.runs.state import RunState, fold
from concertmaster.store.journal import Standing
from concertmaster.store.sqlite.store import SqliteJournal
from stores import started

pytestmark = pytest.mark.anyio


class SlowJournal(SqliteJournal):
    """Answers how runs stand when it is told to, with what was the case when it was asked."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.asked: list[anyio.Event] = []

    async def let_go(self, run_id: str, *, epoch: int) -> None:
        del run_id, epoch

    async def standing(self, run_ids: Collection[str]) -> Mapping[str, Standing]:
        found = {run_id: Standing(epoch=1, cancel_requested=None) for run_id in run_ids}
        self.asked.append(anyio.Event())
        await self.asked[-1].wait()
        return found


def interrupted(run_id: str) -> RunState:
    return fold(run_id, [started()], alive=False)


async def test_only_a_run_that_was_asked_about_is_forgotten(tmp_path: Path) -> None:
    journal = SlowJournal(tmp_path)
    async with anyio.create_task_group() as tasks:
        given_up = GivenUp(journal, tasks)
        for run_id in ("r-1", "r-2"):
            given_up.add(interrupted(run_id), epoch=0)
        with anyio.fail_after(60):
            while not journal.asked:
                await checkpoint()
            given_up.discard("r-1")
            later = [interrupted("r-1"), interrupted("r-3")]
            for state in later:
                given_up.add(state, epoch=2)
            journal.asked[0].set()
            while given_up.known("r-2") is not None:
                await checkpoint()
        assert [given_up.known(run_id) for run_id in ("r-1", "r-3")] == later
        tasks.cancel_scope.cancel()


async def test_runs_that_are_given_up_time_and_again_are_looked_after_once(tmp_path: Path) -> None:
    journal = SlowJournal(tmp_path)
    async with anyio.create_task_group() as tasks:
        given_up = GivenUp(journal, tasks)
        for run_id in ("r-1", "r-2"):
            given_up.add(interrupted(run_id), epoch=1)
            for _ in range(5):
                await checkpoint()
            given_up.discard(run_id)
        assert len(journal.asked) == 1
        tasks.cancel_scope.cancel()
