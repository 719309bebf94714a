import logging
import os
import resource
import shutil
import sqlite3
import stat
import struct
import sys
import tempfile
import threading
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path, PureWindowsPath
from types import SimpleNamespace
from typing import cast

import anyio
import psutil
import pytest
from anyio import from_thread
from anyio.lowlevel import checkpoint
from filelock import FileLock

from concertmaster.engine.events import RunEnded
from concertmaster.errors import ConcertmasterError, LostRunError, StoreError, UnknownRunError
from concertmaster.store import locks
from concertmaster.store.codec import Write, event_json, outlined
from concertmaster.store.journal import RunRow
from concertmaster.store.locks import network_share
from concertmaster.store.sqlite import store as sqlite_store
from concertmaster.store.sqlite.errors import explain
from concertmaster.store.sqlite.store import SqliteFile, open_sqlite
from concertmaster.store.writer import GroupCommit, Pending
from stores import cancel, names, numbered, started

pytestmark = pytest.mark.anyio

ENDED = RunEnded(name="run/end", at=4.0, status="partial")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def made(folder: Path) -> Path:
    """Return the data folder, there already and open to others."""
    folder.mkdir()
    folder.chmod(0o755)
    return folder


def exists(path: Path) -> bool:
    return path.exists()


def write(file: Path, content: bytes) -> None:
    file.write_bytes(content)


def remove(file: Path) -> None:
    file.unlink()


def content(file: Path) -> bytes:
    return file.read_bytes()


def change(folder: Path, statement: str, *parameters: object) -> None:
    """Commit a change to the file as another process would."""
    with closing(sqlite3.connect(folder / "runs.db")) as connection, connection:
        connection.execute(statement, parameters)


def commits(folder: Path) -> int:
    """Count the commits in the write-ahead log: the frames that tell the size after one."""
    log = (folder / "runs.db-wal").read_bytes()
    (page_size,) = struct.unpack_from(">I", log, 8)
    frames = range(32, len(log), 24 + page_size)
    return sum(struct.unpack_from(">I", log, at + 4)[0] != 0 for at in frames)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def set_mode(path: Path, mode: int) -> None:
    path.chmod(mode)


def modes(folder: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Return the modes of all folders and of all files, by name."""
    paths = [folder, *folder.rglob("*")]
    folders = {path.name: mode(path) for path in paths if path.is_dir()}
    return folders, {path.name: mode(path) for path in paths if path.is_file()}


async def test_nothing_touches_the_disk_before_the_first_use(folder: Path) -> None:
    async with open_sqlite(folder):
        await checkpoint()
    assert not exists(folder)


async def test_reading_and_writing_can_both_be_the_first_use(tmp_path: Path) -> None:
    for number in range(20):
        async with open_sqlite(tmp_path / str(number)) as journal:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(partial(journal.create, "r-1", started(), texts={}))
                tasks.start_soon(journal.recent, 5)
            assert await names(journal) == ["run/start"]


async def test_what_is_pending_is_committed_together(folder: Path) -> None:
    async with open_sqlite(folder) as journal:
        await journal.create("r-1", started(), {})
        before = commits(folder)
        for number in range(100):
            await journal.append("r-1", numbered(number), epoch=1, wait=False)
        await journal.append("r-1", cancel(), epoch=1)
        assert commits(folder) == before + 1
        assert len(await journal.events("r-1")) == 102


async def test_many_who_wait_share_a_few_commits(folder: Path) -> None:
    async with open_sqlite(folder) as journal:
        await journal.create("r-1", started(), {})
        before = commits(folder)
        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(partial(journal.append, "r-1", numbered(number), epoch=1))
        assert commits(folder) - before <= 3


async def test_an_append_has_been_committed_when_it_returns(folder: Path) -> None:
    async with open_sqlite(folder) as journal:
        await journal.create("r-1", started(), {})
        with closing(sqlite3.connect(folder / "runs.db")) as other:
            assert other.execute("SELECT name FROM events").fetchall() == [("run/start",)]


async def test_an_event_of_an_old_epoch_is_refused_and_its_neighbours_are_not(
    folder: Path,
) -> None:
    async with open_sqlite(folder) as journal:
        await journal.create("lost", started(), {})
        await journal.create("kept", started(), {})
        change(folder, "UPDATE runs SET epoch = 2 WHERE run_id = 'lost'")
        before = commits(folder)
        await journal.append("kept", numbered(1), epoch=1, wait=False)
        await journal.append("lost", numbered(1), epoch=1, wait=False)
        await journal.append("kept", numbered(2), epoch=1)
        assert commits(folder) == before + 1
        with pytest.raises(LostRunError) as caught:
            await journal.append("lost", numbered(2), epoch=1)
        assert caught.value.run_id == "lost"
        assert await names(journal, "lost") == ["run/start"]
        assert await names(journal, "kept") == ["run/start", "subtask/s1/start", "subtask/s2/start"]
        await journal.append("lost", numbered(3), epoch=2)
        assert await names(journal, "lost") == ["run/start", "subtask/s3/start"]


async def test_a_failed_commit_is_logged_without_a_traceback_unless_one_debugs(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(folder, b"in the way")
    caplog.set_level(logging.DEBUG, "concertmaster")
    await refusal(folder)
    brief, whole = (item for item in caplog.records if item.message.startswith("commit failed"))
    assert (brief.levelno, brief.exc_info) == (logging.WARNING, None)
    assert "CONCERTMASTER_DATA_FOLDER" in brief.message
    assert whole.levelno == logging.DEBUG
    assert whole.exc_info


async def test_a_run_of_another_journal_is_alive_until_that_closes(folder: Path) -> None:
    async with open_sqlite(folder) as mine:
        async with open_sqlite(folder) as other:
            await other.create("r-1", started(), {})
            row = await mine.row("r-1")
            assert (row.alive, row.mine) == (True, False)
        row = await mine.row("r-1")
        assert (row.alive, row.mine) == (False, False)
        assert locks_of_owners(folder) == []


async def test_the_lock_of_a_process_that_died_is_removed_when_it_is_found(folder: Path) -> None:
    async with open_sqlite(folder) as journal:
        await journal.create("r-1", started(), {})
        change(folder, "UPDATE runs SET owner = 'dead'")
        (folder / "owners" / "dead.lock").touch()
        assert len(locks_of_owners(folder)) == 2
        assert not (await journal.row("r-1")).alive
        assert len(locks_of_owners(folder)) == 1


def locks_of_owners(folder: Path) -> list[Path]:
    return [file for file in (folder / "owners").iterdir() if file.name != "probe.lock"]


async def test_a_process_that_only_reads_is_no_owner(folder: Path) -> None:
    async with open_sqlite(folder) as journal:
        assert await journal.recent(5) == []
        assert not (folder / "owners").exists()


async def test_commits_of_this_process_are_no_news_to_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_store, "POLL_SECONDS", 0)
    async with open_sqlite(folder) as mine, open_sqlite(folder) as other:
        await mine.create("r-1", started(), {})
        await mine.changed_elsewhere()
        heard: list[str] = []

        async def listen() -> None:
            await mine.changed_elsewhere()
            heard.append("other")

        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(listen)
                for number in range(20):
                    await mine.append("r-1", numbered(number), epoch=1)
                heard.append("mine")
                await other.tell("r-1", cancel())
    assert heard == ["mine", "other"]


@pytest.fixture(params=[0, 0o277])
def umask(request: pytest.FixtureRequest) -> Generator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
@pytest.mark.parametrize("name", ["runs.db", "runs.lock", "runs.db-wal"])
async def test_the_target_of_a_link_in_the_data_folder_is_left_as_it_is(
    name: str, folder: Path, tmp_path: Path
) -> None:
    async with open_sqlite(folder) as journal:
        await journal.create("r-1", started(), {})
    target = tmp_path / "of somebody else"
    target.write_text("theirs")
    target.chmod(0o644)
    link = folder / name
    link.unlink(missing_ok=True)
    link.symlink_to(target)
    async with open_sqlite(folder) as journal:
        with pytest.raises(StoreError, match="symbolic link"):
            await journal.take_over("r-1", numbered(2), epoch=2)
    assert (mode(target), target.read_text()) == (0o644, "theirs")
    # So are the targets of links to which the locks of processes have been changed.
    with pytest.raises(OSError, match="symbolic link"):
        locks.lock(link).acquire(blocking=False)
    assert (mode(target), target.read_text()) == (0o644, "theirs")


@pytest.mark.usefixtures("umask")
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
async def test_all_that_is_created_is_closed_to_others_and_open_to_its_user(folder: Path) -> None:
    async with open_sqlite(folder) as mine, open_sqlite(folder) as other:
        await mine.create("r-1", started(), {})
        await other.row("r-1")
        folders, files = modes(folder)
    assert folders == {"data": 0o700, "owners": 0o700}
    assert {"runs.db", "runs.db-wal", "runs.db-shm", "runs.lock", "probe.lock"} < files.keys()
    assert set(files.values()) == {0o600}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
async def test_a_folder_that_exists_keeps_its_mode_and_the_files_in_it_are_closed(
    made: Path,
) -> None:
    files = [made / name for name in ("runs.db", "runs.db-wal", "runs.db-shm")]
    async with open_sqlite(made) as first:
        await first.create("r-1", started(), {})
        for file in files:
            set_mode(file, 0o664)
        async with open_sqlite(made) as journal:
            assert await names(journal) == ["run/start"]
            assert mode(made) == 0o755
            assert {mode(file) for file in files} == {0o600}


async def refusal(folder: Path) -> str:
    """Return what is said to who wants to create a run, and to who wants to read."""
    async with open_sqlite(folder, patience=0.05) as journal:
        with pytest.raises(StoreError) as written:
            await journal.create("r-1", started(), {})
        with pytest.raises(StoreError) as read:
            await journal.recent(1)
    assert str(written.value) == str(read.value)
    return str(read.value)


async def test_a_file_in_the_place_of_the_folder_is_an_error_that_says_what_to_do(
    folder: Path,
) -> None:
    write(folder, b"mine")
    for path in (folder, folder / "deeper"):
        said = await refusal(path)
        assert f"{path} cannot be made" in said
        assert "CONCERTMASTER_DATA_FOLDER" in said
    assert content(folder) == b"mine"


@pytest.fixture
def read_only() -> Generator[Path]:
    """Give up what root may do, and return a folder that may be entered and read."""
    me = os.geteuid()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "data"
        folder.mkdir()
        Path(place).chmod(0o755)
        folder.chmod(0o555)
        os.seteuid(me or 65534)
        try:
            yield folder
        finally:
            os.seteuid(me)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
async def test_a_read_only_folder_is_an_error_that_says_what_to_do(read_only: Path) -> None:
    said = await refusal(read_only)
    assert f"{read_only} cannot be written (Permission denied)" in said
    assert "CONCERTMASTER_DATA_FOLDER" in said


async def test_a_file_that_is_no_database_is_an_error_and_stays_as_it_is(made: Path) -> None:
    file = made / "runs.db"
    write(file, b"precious" * 1000)
    said = await refusal(made)
    assert f"{file} is damaged" in said
    assert "CONCERTMASTER_DATA_FOLDER" in said
    assert content(file) == b"precious" * 1000


def test_an_index_that_leads_to_another_run_costs_no_more_than_its_own() -> None:
    kept = [("r-1", 1, event_json(started())), ("r-\ufffd", 1, event_json(started()))]
    outlines = outlined(["r-1", "r-2"], kept, lambda _: {})
    assert [outlines["r-1"], outlines["r-2"]] == [[started()], []]


async def test_a_byte_that_is_no_text_any_more_costs_no_more_than_itself(folder: Path) -> None:
    async with open_sqlite(folder) as journal:
        for run_id in ("r-1", "r-2"):
            await journal.create(run_id, started(), {})
        await journal.tell("r-1", cancel("damaged"))
    file = folder / "runs.db"
    write(file, file.read_bytes().replace(b'"damaged"', b'"d\x80maged"'))
    async with open_sqlite(folder) as journal:
        assert [row.run_id for row in await journal.recent(5)] == ["r-2", "r-1"]
        assert await names(journal, "r-2") == ["run/start"]
        assert (await journal.standing(["r-1"]))["r-1"].cancel_requested == "d\ufffdmaged"


async def test_the_database_of_another_program_is_an_error_and_stays_as_it_is(
    made: Path,
) -> None:
    change(made, "CREATE TABLE theirs (a)")
    before = content(made / "runs.db")
    assert "is no journal of Concertmaster" in await refusal(made)
    assert content(made / "runs.db") == before


async def test_a_file_of_a_newer_program_is_refused_and_stays_as_it_is(folder: Path) -> None:
    async with open_sqlite(folder) as journal:
        await journal.create("r-1", started(), {})
    change(folder, "UPDATE meta SET schema_version = 99")
    before = content(folder / "runs.db")
    said = await refusal(folder)
    assert "newer Concertmaster" in said
    assert content(folder / "runs.db") == before


async def test_a_file_without_its_layout_is_damaged_and_stays_as_it_is(folder: Path) -> None:
    async with open_sqlite(folder) as journal:
        await journal.create("r-1", started(), {})
    change(folder, "DELETE FROM meta")
    before = content(folder / "runs.db")
    said = await refusal(folder)
    assert f"{folder / 'runs.db'} is no journal of Concertmaster, or a damaged one" in said
    assert "Move it" in said
    assert content(folder / "runs.db") == before


async def test_a_process_that_keeps_the_lock_is_named_as_the_reason(made: Path) -> None:
    with FileLock(made / "runs.lock"):
        said = await refusal(made)
    assert f"Another process keeps {made / 'runs.db'} locked" in said


async def test_a_journal_closes_though_another_process_keeps_the_lock(folder: Path) -> None:
    with FileLock(folder / "runs.lock", thread_local=False) as lock:
        lock.release()
        with anyio.fail_after(60):
            async with open_sqlite(folder, patience=0.05) as journal:
                await journal.create("r-1", started(), {})
                lock.acquire()
    async with open_sqlite(folder) as journal:
        assert await names(journal) == ["run/start"]


class SlowFile(SqliteFile):
    """A file of which a read lasts until it is told to go on."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, patience=5)
        self.asked = anyio.Event()
        self.go_on = threading.Event()

    def row(self, run_id: str) -> RunRow:
        from_thread.run_sync(self.asked.set)
        self.go_on.wait(60)
        return super().row(run_id)


async def test_a_journal_closes_once_whoever_reads_has_finished(folder: Path) -> None:
    file = SlowFile(folder)
    read: list[str] = []

    async def look() -> None:
        read.append((await journal.row("r-1")).run_id)

    async def release() -> None:
        await anyio.wait_all_tasks_blocked()
        file.go_on.set()

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            journal = GroupCommit(file)
            async with journal.committing():
                await journal.create("r-1", started(), {})
                tasks.start_soon(look)
                await file.asked.wait()
                tasks.start_soon(release)
    assert read == ["r-1"]


class HeldFile(SqliteFile):
    """A file of which the next commit lasts until it is told to go on."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, patience=5)
        self.held: anyio.Event | None = None
        self.go_on = threading.Event()

    def commit(self, writes: Sequence[Write]) -> list[ConcertmasterError | None]:
        if self.held is not None:
            from_thread.run_sync(self.held.set)
            self.go_on.wait(60)
        return super().commit(writes)


class Telling(GroupCommit):
    """Commits that tell when it has been settled how their writes ended."""

    def __init__(self, file: HeldFile) -> None:
        super().__init__(file)
        self.settled = threading.Event()

    def _commit(self, batch: Sequence[Pending]) -> None:
        super()._commit(batch)
        self.settled.set()


@pytest.mark.parametrize("first", ["cancelled", "settled"])
async def test_a_failure_is_not_lost_whichever_is_first_that_or_its_caller_being_cancelled(
    folder: Path, first: str
) -> None:
    file = HeldFile(folder)
    journal = Telling(file)
    scope = anyio.CancelScope()

    async def give_up() -> None:
        with scope:
            await journal.append("r-1", numbered(1), epoch=9)

    with anyio.fail_after(60):
        async with journal.committing():
            await journal.create("r-1", started(), {})
            file.held = anyio.Event()
            journal.settled.clear()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(give_up)
                await file.held.wait()
                scope.cancel()
                if first == "settled":
                    file.go_on.set()
                    assert journal.settled.wait(60)
            file.go_on.set()
            with pytest.raises(LostRunError):
                await journal.append("r-1", numbered(2), epoch=1)


async def test_a_store_is_usable_again_once_what_was_wrong_has_passed(folder: Path) -> None:
    write(folder, b"in the way")
    async with open_sqlite(folder) as journal:
        with pytest.raises(StoreError):
            await journal.create("r-1", started(), {})
        remove(folder)
        await journal.create("r-1", started(), {})
        assert await names(journal) == ["run/start"]


@contextmanager
def full_disk(folder: Path) -> Generator[None]:
    """Let no file grow beyond the size of the write-ahead log."""
    most = (folder / "runs.db-wal").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_disk_without_room_fails_what_is_written_then_and_nothing_later(
    folder: Path,
) -> None:
    async with open_sqlite(folder) as journal:
        await journal.create("r-1", started(), {})
        with full_disk(folder):
            for number in (1, 2):
                with pytest.raises(StoreError, match="CONCERTMASTER_DATA_FOLDER"):
                    await journal.append("r-1", numbered(number), epoch=1)
            await journal.append("r-1", numbered(3), epoch=1, wait=False)
            assert await names(journal) == ["run/start"]
            with pytest.raises(StoreError):
                await journal.append("r-1", numbered(4), epoch=1)
        await journal.append("r-1", numbered(1), epoch=1)
        assert await names(journal) == ["run/start", "subtask/s1/start"]


def sqlite_error(code: int, words: str = "odd") -> sqlite3.Error:
    error = sqlite3.OperationalError(words)
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (sqlite_error(sqlite3.SQLITE_FULL), "The disk of the data folder /data is full."),
        (OSError(28, "No space left on device"), "The disk of the data folder /data is full."),
        (OSError(30, "Read-only file system"), "/data cannot be written (Read-only file system)"),
        (OSError(5, "Input/output error"), "/data cannot be used (Input/output error)"),
        (OSError("odd"), "/data cannot be used (odd)"),
        (sqlite_error(sqlite3.SQLITE_READONLY_DBMOVED), "/data cannot be written (odd)"),
        (sqlite_error(sqlite3.SQLITE_IOERR_WRITE), "/data cannot be used (odd)"),
        (sqlite_error(sqlite3.SQLITE_CORRUPT), "/data/runs.db is damaged (odd)"),
        (sqlite_error(sqlite3.SQLITE_BUSY), "Another process keeps /data/runs.db locked."),
        (sqlite3.ProgrammingError("odd"), "/data cannot be used (odd)"),
        (TimeoutError(), "Another process keeps /data/runs.db locked."),
    ],
)
async def test_every_error_says_what_is_wrong_and_names_the_setting(
    error: sqlite3.Error | OSError, words: str
) -> None:
    said = explain(error, Path("/data/runs.db"))
    assert words in said
    assert "CONCERTMASTER_DATA_FOLDER" in said


async def test_all_errors_are_ours(folder: Path) -> None:
    write(folder, b"in the way")
    async with open_sqlite(folder) as journal:
        attempts: list[Callable[[], Awaitable[object]]] = [
            lambda: journal.create("r-1", started(), {}),
            lambda: journal.append("r-1", numbered(1), epoch=1),
            lambda: journal.tell("r-1", cancel()),
            lambda: journal.row("r-1"),
            lambda: journal.recent(1),
            lambda: journal.events("r-1"),
            lambda: journal.text("d1"),
            journal.changed_elsewhere,
        ]
        for attempt in attempts:
            with pytest.raises(ConcertmasterError, match="CONCERTMASTER_DATA_FOLDER"):
                await attempt()


def mount(place: Path, kind: str, options: str = "rw") -> SimpleNamespace:
    return SimpleNamespace(mountpoint=str(place), fstype=kind, opts=options)


def mounted(*mounts: SimpleNamespace) -> Callable[..., Sequence[SimpleNamespace]]:
    def disk_partitions(all: bool) -> Sequence[SimpleNamespace]:  # noqa: A002
        assert all
        return mounts

    return disk_partitions


@pytest.mark.parametrize(
    ("inner", "kind"),
    [
        (("nfs4",), "nfs4"),
        (("NTFS", "rw,remote"), "NTFS"),
        (("ext4",), ""),
    ],
)
async def test_a_folder_on_a_network_share_is_refused_unless_that_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inner: tuple[str, ...], kind: str
) -> None:
    folder = tmp_path / "data"
    mounts = [mount(tmp_path, *inner), mount(Path("/"), "cifs"), mount(tmp_path / "other", "nfs")]
    monkeypatch.setattr(psutil, "disk_partitions", mounted(*mounts))
    async with open_sqlite(folder) as journal:
        if kind:
            with pytest.raises(StoreError, match=rf"\({kind}\).*CONCERTMASTER_NETWORK_FOLDER"):
                await journal.recent(1)
            assert not folder.exists()
        else:
            assert await journal.recent(1) == []
    async with open_sqlite(folder, network=True) as journal:
        assert await journal.recent(1) == []


def test_what_is_mounted_later_at_the_same_place_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = [mount(tmp_path, "nfs"), mount(tmp_path, "ext4")]
    monkeypatch.setattr(psutil, "disk_partitions", mounted(*mounts))
    assert network_share(tmp_path) == ""


def test_a_path_of_another_machine_is_a_network_share() -> None:
    class OtherMachine(PureWindowsPath):
        def resolve(self) -> PureWindowsPath:
            return self

    assert network_share(cast("Path", OtherMachine("//server/share/data")))


async def test_a_deletion_does_not_hold_up_the_runs_of_others(folder: Path) -> None:
    async with open_sqlite(folder) as journal, open_sqlite(folder) as other:
        for run_id in ("r-1", "r-2"):
            await journal.create(run_id, started(), {"1": "one" * 50_000})
            await journal.append(run_id, ENDED, epoch=1)
        await other.create("r-3", started(), {})
        await journal.delete(["r-1", "r-2"])
        assert free_pages(folder) > 0
        await other.append("r-3", ENDED, epoch=1)
        await journal.delete(["r-3"])
        assert free_pages(folder) == 0


def free_pages(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "runs.db")) as connection:
        (pages,) = connection.execute("PRAGMA freelist_count").fetchone()
        return pages


def vanish(folder: Path, how: str) -> None:
    if how == "moved":
        folder.rename(folder.with_name("elsewhere"))
    else:
        shutil.rmtree(folder)
    if how == "replaced":
        folder.with_name("other").rename(folder)


@pytest.mark.parametrize("how", ["deleted", "moved", "replaced"])
async def test_a_journal_is_usable_again_once_its_file_is_gone(
    folder: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_sqlite(folder.with_name("other")) as other:
        await other.create("r-other", started(), {})
    async with open_sqlite(folder) as journal, open_sqlite(folder) as second:
        await journal.create("r-1", started(), {})
        assert (await second.row("r-1")).alive
        vanish(folder, how)
        with pytest.raises(UnknownRunError):
            await journal.append("r-1", numbered(1), epoch=1)
        assert "was moved away or deleted" in caplog.text
        await journal.create("r-2", started(), {})
        async with open_sqlite(folder) as other:
            known = {row.run_id: row.alive for row in await other.recent(5)}
        assert known == {"r-2": True} | ({"r-other": False} if how == "replaced" else {})
        await second.create("r-3", started(), {})
        assert (await journal.row("r-3")).alive


async def test_who_only_reads_begins_anew_too_where_the_file_is_gone(folder: Path) -> None:
    async with open_sqlite(folder) as journal:
        await journal.create("r-1", started(), {})
        assert await names(journal) == ["run/start"]
        vanish(folder, "deleted")
        assert await journal.recent(5) == []
