"""Real processes on one journal. This file is the test, and the program of the other process."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import IO

import anyio
import pytest
from anyio import to_thread

from concertmaster.engine.events import CancelRequested, RunStarted, SubtaskStarted
from concertmaster.engine.request import RunRequest
from concertmaster.errors import ConcertmasterError
from concertmaster.store.sqlite.store import SqliteJournal, open_sqlite
from processes import running

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).resolve().parents[2]


def started() -> RunStarted:
    return RunStarted(name="run/start", at=1.0, request=RunRequest(task="why?"))


def numbered(number: int) -> SubtaskStarted:
    return SubtaskStarted(name=f"subtask/s{number}/start", at=2.0, subtask_id=f"s{number}")


async def follow_orders(folder: Path) -> None:
    """Do on a journal what standard input says, line by line, and answer each with a line."""
    async with open_sqlite(folder) as journal:
        while order := await to_thread.run_sync(sys.stdin.readline):
            try:
                answer = await follow(order.split(), journal, folder)
            except ConcertmasterError as exc:
                answer = type(exc).__name__
            sys.stdout.write(f"{answer}\n")
            sys.stdout.flush()


async def follow(order: list[str], journal: SqliteJournal, folder: Path) -> str:
    match order:
        case ["create", run_id]:
            await journal.create(run_id, started(), {})
        case ["append", run_id, first, last]:
            append = partial(journal.append, run_id, epoch=1)
            await anyio.amap(append, [numbered(n) for n in range(int(first), int(last))])
        case ["append-one", run_id]:
            await journal.append(run_id, numbered(0), epoch=1)
        case ["listen", run_id]:
            return await cancel_reason(journal, run_id)
        case _:
            _, name, run_id = order
            async with open_sqlite(folder / name) as new:
                await new.create(run_id, started(), {})
    return "done"


async def cancel_reason(journal: SqliteJournal, run_id: str) -> str:
    while True:
        await journal.changed_elsewhere()
        for event in await journal.events(run_id):
            if isinstance(event, CancelRequested):
                return event.reason


class Other:
    """Another process with the same journal."""

    def __init__(self, folder: Path) -> None:
        command = running(
            [sys.executable, "-m", "tests.process.test_two_processes", str(folder)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": "tests/support"},
        )
        self._stack = ExitStack()
        self._process = self._stack.enter_context(command)
        self._in = pipe(self._process.stdin)
        self._out = pipe(self._process.stdout)

    def send(self, order: str) -> None:
        self._in.write(f"{order}\n")
        self._in.flush()

    def answer(self) -> str:
        return self._out.readline().strip()

    def ask(self, order: str) -> str:
        self.send(order)
        return self.answer()

    def kill(self) -> None:
        """End it without letting it do anything more: kill -9."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Let it end by itself, and kill it if it does not."""
        with self._stack:
            self._in.close()
            self._process.wait(30)


def pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def start(folder: Path) -> Generator[Callable[[], Other]]:
    with ExitStack() as stack:
        yield lambda: stack.enter_context(closing(Other(folder)))


def owner_locks(folder: Path) -> list[str]:
    return [file.name for file in (folder / "owners").iterdir() if file.name != "probe.lock"]


async def test_two_processes_can_open_a_new_file_at_the_same_moment(
    folder: Path, start: Callable[[], Other]
) -> None:
    one, two = start(), start()
    for number in range(30):
        one.send(f"open {number} r-1")
        two.send(f"open {number} r-2")
        assert (one.answer(), two.answer()) == ("done", "done")
        async with open_sqlite(folder / str(number)) as journal:
            assert {row.run_id for row in await journal.recent(5)} == {"r-1", "r-2"}


async def test_two_processes_can_write_at_the_same_time(
    folder: Path, start: Callable[[], Other]
) -> None:
    one, two = start(), start()
    assert (one.ask("create r-1"), two.ask("create r-2")) == ("done", "done")
    for part in range(20):
        one.send(f"append r-1 {part * 20} {part * 20 + 20}")
        two.send(f"append r-2 {part * 20} {part * 20 + 20}")
    for _ in range(20):
        assert (one.answer(), two.answer()) == ("done", "done")
    async with open_sqlite(folder) as journal:
        for run_id in ("r-1", "r-2"):
            events = await journal.events(run_id)
            assert {event.name for event in events} == {
                "run/start",
                *(f"subtask/s{number}/start" for number in range(400)),
            }


async def test_the_runs_of_a_killed_process_are_not_alive(
    folder: Path, start: Callable[[], Other]
) -> None:
    other = start()
    assert other.ask("create r-1") == "done"
    async with open_sqlite(folder) as journal:
        row = await journal.row("r-1")
        assert (row.alive, row.mine) == (True, False)
        other.kill()
        assert len(owner_locks(folder)) == 1
        assert not (await journal.row("r-1")).alive
        assert owner_locks(folder) == []


async def test_the_runs_of_a_process_that_ended_are_not_alive(
    folder: Path, start: Callable[[], Other]
) -> None:
    other = start()
    assert other.ask("create r-1") == "done"
    other.close()
    assert owner_locks(folder) == []
    async with open_sqlite(folder) as journal:
        assert not (await journal.row("r-1")).alive


async def test_a_process_killed_while_it_writes_leaves_a_journal_that_others_can_use(
    folder: Path, start: Callable[[], Other]
) -> None:
    other = start()
    assert other.ask("create r-1") == "done"
    async with open_sqlite(folder) as journal:
        await journal.create("r-2", started(), {})
        for part in range(200):
            other.send(f"append r-1 {part * 5} {part * 5 + 5}")
        with anyio.fail_after(100):
            while len(await journal.events("r-1")) < 100:
                await journal.changed_elsewhere()
        other.kill()
        await journal.append("r-2", numbered(1), epoch=1)
        count = len(await journal.events("r-1"))
        names = {f"subtask/s{number}/start" for number in range(count - 1)}
        assert {event.name for event in await journal.events("r-1")} == {"run/start", *names}


async def test_a_cancel_request_reaches_the_process_that_owns_the_run(
    folder: Path, start: Callable[[], Other]
) -> None:
    other = start()
    assert other.ask("create r-1") == "done"
    other.send("listen r-1")
    async with open_sqlite(folder) as journal:
        event = CancelRequested(name="run/cancel/1", at=2.0, reason="enough")
        await journal.tell("r-1", event)
    assert other.answer() == "enough"


async def test_a_process_whose_run_was_taken_over_cannot_write_to_it_any_more(
    folder: Path, start: Callable[[], Other]
) -> None:
    other = start()
    assert (other.ask("create r-1"), other.ask("create r-2")) == ("done", "done")
    with closing(sqlite3.connect(folder / "runs.db")) as connection, connection:
        connection.execute("UPDATE runs SET epoch = 2 WHERE run_id = 'r-1'")
    assert other.ask("append-one r-1") == "LostRunError"
    assert other.ask("append-one r-2") == "done"
    async with open_sqlite(folder) as journal:
        assert len(await journal.events("r-1")) == 1
        assert len(await journal.events("r-2")) == 2


if __name__ == "__main__":
    anyio.run(follow_orders, Path(sys.argv[1]))
