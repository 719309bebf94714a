"""Journals of every version there was: read, gone on with, and deleted from."""

import sqlite3
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from concertmaster.engine.events import SCHEMA_VERSION
from concertmaster.runs.orders import RunOrder
from concertmaster.store.sqlite.store import open_sqlite
from fakes import FakeLLM
from services import service_in
from stores import LONG_RESULT

pytestmark = pytest.mark.anyio

JOURNALS = sorted((Path(__file__).parent / "journals").glob("version-*.sql"))


@pytest.fixture(params=JOURNALS, ids=lambda path: path.stem)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a data folder as a program of an earlier version left it."""
    with closing(sqlite3.connect(tmp_path / "runs.db")) as connection:
        connection.executescript(request.param.read_text(encoding="utf-8"))
    return tmp_path


def test_there_is_a_journal_of_each_version() -> None:
    versions = [f"version-{number}" for number in range(1, SCHEMA_VERSION + 1)]
    assert [path.stem for path in JOURNALS] == versions


async def test_runs_of_an_earlier_version_can_be_looked_into(old: Path) -> None:
    async with service_in(old) as service:
        done = await service.get("r-done")
        assert (done.status, done.answer, done.usage.calls) == ("succeeded", "because", 4)
        assert (await service.trace("r-done")).status == "succeeded"
        recent = await service.recent()
        assert {state.run_id for state in recent.states} == {"r-done", "r-cut-off", "r-planned"}
        assert recent.unreadable == ()


async def test_unfinished_runs_of_an_earlier_version_have_their_budgets_reserved(
    old: Path,
) -> None:
    async with open_sqlite(old) as journal:
        used = await journal.usage_of("", since=0)
    assert used.spent_usd > 0
    assert 0 < used.reserved_usd <= 2


async def test_a_run_of_an_earlier_version_goes_on(old: Path) -> None:
    llm = FakeLLM({"synthesizer": "because"})
    async with service_in(old, llm=llm) as service:
        assert (await service.get("r-cut-off")).status == "interrupted"
        await service.resume("r-cut-off", by="test")
        with anyio.fail_after(60):
            state = await service.wait("r-cut-off", seconds=60)
    assert (state.status, state.answer) == ("succeeded", "because")
    assert llm.callers() == ["worker:critic", "synthesizer"]


async def test_a_plan_of_an_earlier_version_can_be_run(old: Path) -> None:
    llm = FakeLLM()
    async with service_in(old, llm=llm) as service:
        state = await service.start(RunOrder(plan_id="r-planned"))
        assert (await service.wait(state.run_id, seconds=60)).status == "succeeded"
    assert "ALPHA" in llm.requests[0].shared


async def test_the_texts_of_an_earlier_version_are_deleted_with_the_last_run_that_has_them(
    old: Path,
) -> None:
    async with service_in(old) as service:
        for run_id in ("r-done", "r-planned"):
            await service.delete(run_id)
        assert "ALPHA" in found(old, "SELECT text FROM texts")
        await service.delete("r-cut-off")
        assert found(old, "SELECT text FROM texts") == []


def found(folder: Path, query: str) -> list[object]:
    with closing(sqlite3.connect(folder / "runs.db")) as connection:
        return [value for (value,) in connection.execute(query)]


async def test_what_is_added_to_a_run_of_an_earlier_version_is_read_with_the_rest(
    old: Path,
) -> None:
    answer = "because of this, " * 1000 + "as was to be shown"
    async with service_in(old, {"synthesizer": answer}) as service:
        before = (await service.result("r-cut-off", "s1")).text
        await service.resume("r-cut-off", by="test")
        await service.wait("r-cut-off", seconds=60)
    async with service_in(old) as service:
        assert (await service.get("r-cut-off")).answer == answer
        assert (await service.result("r-cut-off", "s1")).text == before
    versions = "SELECT DISTINCT version FROM events WHERE run_id = 'r-cut-off' ORDER BY seq"
    assert found(old, versions)[-1] == SCHEMA_VERSION
    assert before in {"done", LONG_RESULT}


async def test_two_who_open_the_journal_of_an_earlier_version_bring_it_up_to_date_once(
    old: Path,
) -> None:
    async with service_in(old) as one, service_in(old) as other:
        first, second = await anyio.amap(lambda service: service.recent(), (one, other))
    assert [state.run_id for state in first.states] == [state.run_id for state in second.states]
