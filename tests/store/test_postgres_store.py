"""The journal on Postgres: connections that are lost, processes that die, tables of others."""

import logging
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, LiteralString, TypeVar

import anyio
import anyio.lowlevel
import psycopg
import pytest
from anyio import from_thread, to_thread
from psycopg import errors

from concertmaster.engine.events import RunStarted
from concertmaster.engine.request import RunRequest
from concertmaster.errors import LostRunError, SettingsError, StoreError, UnknownRunError
from concertmaster.store.codec import Write, event_json
from concertmaster.store.journal import ANY_RUN, Journal
from concertmaster.store.postgres import connection as postgres_link
from concertmaster.store.postgres import migrate as migrating
from concertmaster.store.postgres import store as postgres_store
from concertmaster.store.postgres.connection import (
    MIGRATIONS,
    Address,
    Connection,
    Link,
    check_store,
    explain,
)
from concertmaster.store.postgres.migrate import migrate
from concertmaster.store.postgres.store import PostgresTables, open_postgres
from postgres import Postgres, execute
from stores import PostgresStore, cancel, names, numbered, started

pytestmark = pytest.mark.anyio

STEPS = ("0001.runs", "0002.offers", "0003.budgets")

CUT: LiteralString = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def cut_all(store: PostgresStore) -> None:
    """Take all connections to a store away, as a server that restarts does."""
    store.change(CUT + " AND datname = current_database()")


async def until(true: Callable[[], bool]) -> None:
    with anyio.fail_after(60):
        while not true():
            await anyio.lowlevel.checkpoint()


async def test_a_lost_connection_costs_nothing(shared: PostgresStore) -> None:
    async with shared.open() as journal:
        await journal.create("r-1", started(), {})
        assert await names(journal) == ["run/start"]
        cut_all(shared)
        await journal.append("r-1", numbered(1), epoch=1)
        assert await names(journal) == ["run/start", "subtask/s1/start"]


T = TypeVar("T")


async def test_a_restart_of_the_server_costs_nothing(
    shared: PostgresStore, postgres: Postgres
) -> None:
    async with shared.open() as journal:
        await journal.create("r-1", started(), {})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(to_thread.run_sync, postgres.restart)
            for number in range(300):
                await journal.append("r-1", numbered(number), epoch=1)
        assert len(await names(journal)) == 301
        assert (await journal.row("r-1")).alive


class TwiceLink(Link):
    """Loses the connection each time after work was committed, so that it is done again."""

    def run(self, work: Callable[[Connection, bool], T]) -> T:
        super().run(work)
        return super().run(lambda connection, _: work(connection, True))


def a_write(number: int, **more: Any) -> Write:
    event = numbered(number)
    return Write(run_id="r-1", event=event, data=event_json(event), **more)


def test_work_that_was_committed_before_the_connection_was_lost_is_not_refused(
    shared: PostgresStore,
) -> None:
    address = Address(shared.url)
    tables = PostgresTables(TwiceLink(address), Link(address), works=False)
    first = a_write(1, epoch=1, begins=True, key="a", texts={"d1": "one"})
    assert tables.commit([first]) == [None]
    assert tables.commit([a_write(2, epoch=1), a_write(3)]) == [None, None]
    assert tables.commit([a_write(4, epoch=2, takes_over=True)]) == [None]
    (taken,) = tables.commit([a_write(5, epoch=2, takes_over=True)])
    assert isinstance(taken, LostRunError)
    assert len(tables.events("r-1")) == 4
    execute(shared.url, "UPDATE runs SET ended = TRUE")
    tables.delete(["r-1"])
    with pytest.raises(UnknownRunError):
        tables.row("r-1")
    tables.close()


async def test_a_server_that_stays_away_is_an_error_after_a_while(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_store, "WRITE_SECONDS", 0.2)
    url = postgres.create("leaving")
    migrate(url)
    async with open_postgres(url) as journal:
        await journal.create("r-1", started(), {})
        await to_thread.run_sync(postgres.drop, "leaving")
        with pytest.raises(StoreError, match="cannot be reached"):
            await journal.append("r-1", numbered(1), epoch=1)


@pytest.mark.parametrize(
    ("setting", "statement"),
    [("lock_timeout = '10ms'", "LOCK TABLE runs"), ("default_transaction_read_only = on", "")],
)
async def test_what_is_in_the_way_of_a_commit_for_a_while_costs_nothing(
    shared: PostgresStore,
    postgres: Postgres,
    monkeypatch: pytest.MonkeyPatch,
    setting: LiteralString,
    statement: LiteralString,
) -> None:
    tried: list[float] = []
    hindered = anyio.Event()

    def note(seconds: float) -> None:
        tried.append(seconds)
        # The first time, it was the connection that was lost.
        if len(tried) > 1:
            from_thread.run_sync(hindered.set)

    monkeypatch.setattr(postgres_link, "time", SimpleNamespace(sleep=note, monotonic=float))
    async with shared.open() as journal:
        await journal.create("r-1", started(), {})
        execute(postgres.url("postgres"), "ALTER DATABASE store SET " + setting)
        cut_all(shared)
        with psycopg.connect(shared.url) as operator, anyio.fail_after(60):
            operator.execute(statement)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(partial(journal.append, "r-1", numbered(1), epoch=1))
                await hindered.wait()
                execute(postgres.url("postgres"), "ALTER DATABASE store RESET ALL")
                operator.rollback()
        assert await names(journal) == ["run/start", "subtask/s1/start"]


async def test_news_come_in_again_after_a_lost_connection(
    shared: PostgresStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(postgres_store, "RETRY_SECONDS", 0)
    async with shared.open() as mine, shared.open() as other:
        await other.create("r-1", started(), {})
        await mine.changed_elsewhere()
        with anyio.fail_after(60):
            await mine.changed_elsewhere()
            cut_all(shared)
            # Nobody knows what went by meanwhile.
            await mine.changed_elsewhere()
        assert "not in touch" in caplog.text
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(mine.changed_elsewhere)
                await other.tell("r-1", cancel())


async def test_who_waits_for_any_run_hears_of_each(shared: PostgresStore) -> None:
    async with shared.open() as mine, shared.open() as other:
        await other.create("r-1", started(), {})
        await mine.changed_elsewhere(ANY_RUN)
        with anyio.fail_after(60):
            # It is listened from here on.
            await mine.changed_elsewhere(ANY_RUN)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(mine.changed_elsewhere, ANY_RUN)
                await other.append("r-1", numbered(1), epoch=1)


async def test_who_waits_for_a_run_hears_of_that_run_alone(shared: PostgresStore) -> None:
    async with shared.open() as mine, shared.open() as other:
        heard: list[str] = []

        async def listen(run_id: str) -> None:
            await mine.changed_elsewhere(run_id)
            heard.append(run_id)

        for run_id in ("r-1", "r-2", "r-3"):
            await other.create(run_id, started(), {})
        await mine.changed_elsewhere("r-3")
        with anyio.fail_after(60):
            # News come in order, so that what was before is known by then.
            for number in range(3):
                await other.append("r-3", numbered(number), epoch=1)
                await mine.changed_elsewhere("r-3")
            await mine.changed_elsewhere("r-1")
            await mine.changed_elsewhere("r-2")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(listen, "r-1")
                tasks.start_soon(listen, "r-2")
                await other.append("r-2", numbered(1), epoch=1)
                await until(lambda: heard == ["r-2"])
                await other.append("r-1", numbered(1), epoch=1)
        assert heard == ["r-2", "r-1"]


async def test_a_process_that_is_not_heard_of_loses_its_runs(shared: PostgresStore) -> None:
    async with shared.open() as owner, shared.open() as other:
        await owner.create("r-1", started(), {})
        shared.change("DELETE FROM processes")
        assert not (await other.row("r-1")).alive
        await other.take_over("r-1", numbered(2), epoch=2)
        with pytest.raises(LostRunError):
            await owner.append("r-1", numbered(1), epoch=1)


async def test_a_process_lets_others_hear_of_it_for_as_long_as_it_lives(
    shared: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_store, "BEAT_SECONDS", 0)

    def lives() -> bool:
        with psycopg.connect(shared.url) as connection:
            query = "SELECT until > clock_timestamp() FROM processes"
            return connection.execute(query).fetchall() == [(True,)]

    async with shared.open() as journal:
        await journal.create("r-1", started(), {})
        shared.change("UPDATE processes SET until = now() - interval '1 second'")
        await until(lives)


async def works(journal: Journal, others: int) -> None:
    """Return when so many other processes that take runs up can be seen."""
    with anyio.fail_after(60):
        while (await journal.least_load() is not None) != bool(others):
            await anyio.lowlevel.checkpoint()


async def test_a_process_that_works_hands_its_runs_back_when_it_ends(
    shared: PostgresStore,
) -> None:
    async with shared.open() as other:
        async with shared.open(works=True) as worker, shared.open() as reader:
            await works(other, 1)
            await worker.create("r-1", started(), {})
            await reader.create("r-2", started(), {})
            assert await other.least_load() == 1
        handed_back, dead = await other.row("r-1"), await other.row("r-2")
        assert (handed_back.queued, handed_back.attended) == (True, False)
        assert (dead.queued, dead.attended) == (False, False)
        async with shared.open(works=True):
            await works(other, 1)
            assert (await other.row("r-2")).attended


async def test_a_process_leaves_though_it_cannot_say_so(
    shared: PostgresStore, caplog: pytest.LogCaptureFixture
) -> None:
    try:
        async with shared.open() as journal:
            await journal.create("r-1", started(), {})
            shared.change("ALTER TABLE processes RENAME TO elsewhere")
    finally:
        shared.change("ALTER TABLE elsewhere RENAME TO processes")
    assert "left without a word" in caplog.text


def test_a_store_without_tables_says_how_to_make_them(postgres: Postgres) -> None:
    url = postgres.create("empty")
    with pytest.raises(StoreError, match="concertmaster store migrate"):
        check_store(url)
    assert migrate(url) == STEPS
    assert migrate(url) == ()
    check_store(url)


def test_tables_of_another_program_are_refused(postgres: Postgres) -> None:
    url = postgres.create("other")
    migrate(url)
    execute(url, "DELETE FROM concertmaster_migrations WHERE migration_id = '0002.offers'")
    with pytest.raises(StoreError, match=r"older.*concertmaster store migrate"):
        check_store(url)
    for step in ("0002.offers", "9999"):
        execute(
            url,
            "INSERT INTO concertmaster_migrations (migration_hash, migration_id) VALUES (%s, %s)",
            step,
            step,
        )
    with pytest.raises(StoreError, match="newer"):
        check_store(url)


async def test_unfinished_runs_of_older_tables_have_their_budgets_reserved(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres.create("older")
    for step in STEPS[:2]:
        shutil.copy(MIGRATIONS / f"{step}.sql", tmp_path)
    monkeypatch.setattr(migrating, "MIGRATIONS", tmp_path)
    assert migrate(url) == STEPS[:2]
    task = '{,"budget_usd":9'
    request = RunRequest(task=task).with_budget(3)
    start = event_json(RunStarted(name="run/start", at=1, request=request))
    for run_id, data in (("r-1", start), ("r-2", "{")):
        run = "INSERT INTO runs (run_id, created_at, epoch, principal) VALUES (%s, 1, 1, 'ann')"
        execute(url, run, run_id)
        event = """
            INSERT INTO events (run_id, epoch, name, kind, version, at, data)
            VALUES (%s, 1, 'run/start', 'run-started', 1, 1, %s)
        """
        execute(url, event, run_id, data)
    monkeypatch.setattr(migrating, "MIGRATIONS", MIGRATIONS)
    assert migrate(url) == STEPS[2:]
    async with open_postgres(url) as journal:
        assert (await journal.usage_of("ann", since=0)).reserved_usd == 5


async def test_of_several_who_make_the_tables_at_once_each_waits_for_the_other(
    postgres: Postgres,
) -> None:
    url = postgres.create("contested")
    steps = await anyio.amap(partial(to_thread.run_sync, migrate), [url] * 3)
    assert sorted(steps) == [(), (), STEPS]


@pytest.mark.parametrize("use", [migrate, check_store])
def test_an_address_of_nothing_is_an_error_without_its_password(
    use: Callable[[str], object],
) -> None:
    with pytest.raises(StoreError, match="cannot be reached") as unreachable:
        use("postgresql://me:secret@127.0.0.1:1/runs")
    with pytest.raises(SettingsError, match="CONCERTMASTER_STORE") as malformed:
        use("mysql://me:secret@host/runs")
    assert "127.0.0.1:1/runs" in str(unreachable.value)
    assert "secret" not in str(unreachable.value) + str(malformed.value)


@pytest.mark.parametrize("password", ["pa@ssage", "pa/ssage", "pa%ssage"])
def test_a_password_that_is_not_written_as_in_a_url_is_not_repeated(password: str) -> None:
    with pytest.raises(SettingsError, match="%40 for @") as malformed:
        check_store(f"postgresql://me:{password}@127.0.0.1:1/runs")
    assert "ssage" not in str(malformed.value)


def test_a_database_that_cannot_hold_every_text_is_refused(postgres: Postgres) -> None:
    url = postgres.create("latin", "ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    for use in (migrate, check_store):
        with pytest.raises(StoreError, match=r"LATIN1.*ENCODING 'UTF8'"):
            use(url)


async def test_texts_of_any_language_are_kept_whatever_encoding_the_server_has_for_clients(
    shared: PostgresStore,
) -> None:
    shared.change("ALTER DATABASE store SET client_encoding = 'LATIN1'")
    try:
        async with shared.open() as journal:
            await journal.create("r-1", started(), {})
            await journal.append("r-1", cancel("✓"), epoch=1)
            assert (await journal.standing(["r-1"]))["r-1"].cancel_requested == "✓"
    finally:
        shared.change("ALTER DATABASE store RESET client_encoding")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (psycopg.OperationalError("connection refused"), "cannot be reached (connection refused)"),
        (errors.InsufficientPrivilege("permission denied"), "does not let this user"),
        (errors.ReadOnlySqlTransaction("read-only"), "takes no writes"),
        (errors.DiskFull("no space\nSTATEMENT: x"), "is full (no space)"),
        (psycopg.ProgrammingError(""), "cannot be used (no reason given)"),
        (errors.LockNotAvailable("canceled"), "store at db/runs locked (canceled)"),
    ],
)
def test_every_error_says_what_is_wrong(error: psycopg.Error, words: str) -> None:
    said = explain(error, "db/runs")
    assert "store at db/runs" in said
    assert words in said


async def test_a_store_that_is_not_there_is_an_error_for_who_reads_and_who_writes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "concertmaster")
    async with open_postgres("postgresql://127.0.0.1:1/runs") as journal:
        with pytest.raises(StoreError, match="cannot be reached"):
            await journal.create("r-1", started(), {})
        with pytest.raises(StoreError, match="cannot be reached"):
            await journal.recent(1)
