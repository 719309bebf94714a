"""Processes that are stopped (SIGSTOP, a paused machine) while Postgres works for them.

This file is the test, and the program of the process that is stopped.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, cast

import anyio
import anyio.lowlevel
import psycopg
import pytest
from anyio import to_thread

from concertmaster.engine.events import RunStarted, SubtaskStarted
from concertmaster.engine.request import RunRequest
from concertmaster.errors import ConcertmasterError, LostRunError, StoreError
from concertmaster.store.journal import changed
from concertmaster.store.postgres import connection as postgres_link
from concertmaster.store.postgres.connection import Address, Connection, Link
from concertmaster.store.postgres.store import PostgresJournal, open_postgres
from processes import running
from stores import PostgresStore

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals"),
]

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 10
"""Seconds within which other processes have to go on."""


def started() -> RunStarted:
    return RunStarted(name="run/start", at=1.0, request=RunRequest(task="why?"))


def numbered(number: int) -> SubtaskStarted:
    return SubtaskStarted(name=f"subtask/s{number}/start", at=2.0, subtask_id=f"s{number}")


def answer(text: object) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def follow_orders(url: str) -> None:
    """Do what standard input says, line by line, and answer each with a line."""
    async with open_postgres(url) as journal:
        while order := await to_thread.run_sync(sys.stdin.readline):
            try:
                answer(await follow(order.split(), journal, url))
            except ConcertmasterError as exc:
                answer(type(exc).__name__)


async def follow(order: list[str], journal: PostgresJournal, url: str) -> object:
    match order:
        case ["create", run_id]:
            await journal.create(run_id, started(), {})
        case ["append", run_id, epoch]:
            await journal.append(run_id, numbered(int(epoch)), epoch=int(epoch))
        case ["claim", run_id, epoch]:
            await journal.take_over(run_id, numbered(int(epoch)), epoch=int(epoch), most=9)
        case _:
            return await to_thread.run_sync(hold, url)
    return "done"


def hold(url: str) -> str:
    """Update a run in a transaction that waits for standard input before it goes on."""
    attempts: list[bool] = []

    def update(connection: Connection, again: bool) -> None:
        attempts.append(again)
        with connection.transaction():
            connection.execute("UPDATE runs SET owner = owner")
            if not again:
                answer("in a transaction")
                sys.stdin.readline()
            connection.execute("SELECT")

    link = Link(Address(url))
    link.run(lambda connection, _: connection.execute("SELECT"))
    link.run(update)
    link.close()
    return f"attempts: {len(attempts)}"


class Other:
    """Another process with the same store."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    async def send(self, order: str) -> None:
        stream = cast("IO[str]", self._process.stdin)
        stream.write(f"{order}\n")
        await to_thread.run_sync(stream.flush)

    async def answer(self) -> str:
        with anyio.fail_after(60):
            read = cast("IO[str]", self._process.stdout).readline
            return (await to_thread.run_sync(read, abandon_on_cancel=True)).strip()

    async def ask(self, order: str) -> str:
        await self.send(order)
        return await self.answer()

    def stop(self) -> None:
        """Stop it, as a paused machine is, and return when it stands still."""
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOWAIT)

    def wake(self) -> None:
        self._process.send_signal(signal.SIGCONT)


@contextmanager
def other_process(url: str) -> Generator[Other]:
    command = running(
        [sys.executable, "-m", "tests.process.test_stopped_processes", url],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests" / "support")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with command as process:
        yield Other(process)


async def until_a_session(operator: psycopg.Connection[tuple[object, ...]], is_: str) -> None:
    """Return when a session of Concertmaster is in a state, or waits in a way."""
    query = """
        SELECT FROM pg_stat_activity
        WHERE application_name = 'concertmaster' AND %s IN (state, wait_event_type)
    """
    with anyio.fail_after(60):
        while not operator.execute(query, (is_,)).fetchall():
            operator.commit()
            await anyio.lowlevel.checkpoint()


async def claimed(journal: PostgresJournal, run_id: str, *, epoch: int) -> None:
    """Take a run over as soon as its process is not taken for alive any more."""
    while (await journal.row(run_id)).alive:
        await changed(journal)
    await journal.take_over(run_id, numbered(epoch), epoch=epoch)


async def test_a_process_stopped_while_it_claims_a_run_keeps_no_other_from_working(
    shared: PostgresStore,
) -> None:
    with (
        other_process(shared.url) as other,
        psycopg.connect(shared.url) as operator,
        psycopg.connect(shared.url, autocommit=True) as watcher,
    ):
        assert await other.ask("create r-1") == "done"
        operator.execute("SELECT FROM runs FOR UPDATE")
        await other.send("claim r-1 2")
        await until_a_session(watcher, "Lock")
        other.stop()
        operator.rollback()
        async with open_postgres(shared.url) as journal:
            with anyio.fail_after(PATIENCE):
                await journal.tell("r-1", numbered(7))
                await journal.create("r-2", started(), {})
                await journal.take_over("r-2", numbered(2), epoch=2, most=9)
            epoch = (await journal.row("r-1")).epoch
            with anyio.fail_after(PATIENCE):
                await claimed(journal, "r-1", epoch=epoch + 1)
            other.wake()
            assert await other.answer() in ("done", "LostRunError")
            assert await other.ask(f"append r-1 {epoch}") == "LostRunError"
            assert await other.ask("create r-3") == "done"


async def test_a_process_stopped_in_a_transaction_loses_its_session_and_begins_again(
    shared: PostgresStore,
) -> None:
    with (
        other_process(shared.url) as other,
        psycopg.connect(shared.url, autocommit=True) as watcher,
    ):
        async with open_postgres(shared.url) as journal:
            await journal.create("r-1", started(), {})
            assert await other.ask("hold") == "in a transaction"
            await until_a_session(watcher, "idle in transaction")
            other.stop()
            with anyio.fail_after(PATIENCE):
                await journal.append("r-1", numbered(1), epoch=1)
            other.wake()
            assert await other.ask("go on") == "attempts: 2"


async def test_a_run_that_a_session_keeps_locked_holds_up_no_other(
    shared: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_link, "LOCKED_SECONDS", 0)
    # What the address says takes precedence over the usual bounds.
    url = f"{shared.url}&options=-c%20lock_timeout%3D50ms"
    async with open_postgres(url) as journal:
        for run_id in ("r-1", "r-2"):
            await journal.create(run_id, started(), {})
        with psycopg.connect(shared.url) as operator:
            operator.execute("SELECT FROM runs WHERE run_id = 'r-1' FOR UPDATE")
            refused: list[str] = []

            async def append(run_id: str) -> None:
                try:
                    await journal.append(run_id, numbered(1), epoch=1)
                except StoreError as exc:
                    refused.append(str(exc))

            with anyio.fail_after(PATIENCE):
                await anyio.amap(append, ["r-1", "r-2"])
                with pytest.raises(LostRunError):
                    await journal.take_over("r-1", numbered(2), epoch=2)
        assert len(refused) == 1
        assert "pg_stat_activity" in refused[0]
        assert len(await journal.events("r-2")) == 2
        await journal.append("r-1", numbered(3), epoch=1)
        assert len(await journal.events("r-1")) == 2


if __name__ == "__main__":
    anyio.run(partial(follow_orders, sys.argv[1]))
