"""A journal on a full disk. This file is the test, and the program that runs on the disk."""

import json
import os
import resource
import secrets
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import anyio
import pytest

from concertmaster.engine.events import RunEnded, RunStarted, SubtaskStarted
from concertmaster.engine.request import RunRequest
from concertmaster.errors import StoreError
from concertmaster.store.sqlite.store import open_sqlite

ROOT = Path(__file__).resolve().parents[2]
RUNS = [f"r-{number}" for number in range(6)]
MEGABYTE = 1024 * 1024


def started() -> RunStarted:
    return RunStarted(name="run/start", at=1, request=RunRequest(task="why?"))


async def fill(data: Path) -> None:
    async with open_sqlite(data) as journal:
        for run_id in RUNS:
            texts = {f"{run_id}-{n}": secrets.token_hex(20_000) for n in range(10)}
            await journal.create(run_id, started(), texts)
            end = RunEnded(name="run/end", at=2, status="partial")
            await journal.append(run_id, end, epoch=1)


@contextmanager
def full_disk(data: Path) -> Generator[None]:
    """Have a disk that is full, with a journal on it."""
    anyio.run(fill, data)
    with suppress(OSError), (data.parent / "filler").open("wb", buffering=0) as filler:
        while filler.write(bytes(4096)):
            continue
    yield


@contextmanager
def limited_files(data: Path) -> Generator[None]:
    """Have files that may grow no further, as with a quota, and a WAL that a reader needs whole."""
    anyio.run(create_empty, data)
    with closing(sqlite3.connect(data / "runs.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM runs").fetchall()
        anyio.run(fill, data)
        size = (data / "runs.db-wal").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 600_000, resource.RLIM_INFINITY))
        yield


async def create_empty(data: Path) -> None:
    async with open_sqlite(data) as journal:
        await journal.recent(1)


async def delete_most(data: Path) -> dict[str, object]:
    """Delete all runs but one, and return what was seen."""
    refused = ""
    async with open_sqlite(data) as journal:
        try:
            texts = {"d-x": secrets.token_hex(MEGABYTE)}
            await journal.create("r-x", started(), texts)
        except StoreError as exc:
            refused = str(exc)
    async with open_sqlite(data) as journal:
        await journal.delete(RUNS[1:])
        event = SubtaskStarted(name="s", at=3, subtask_id="s1")
        await journal.append(RUNS[0], event, epoch=1)
        left = [row.run_id for row in await journal.recent(9)]
        texts = [await journal.text(f"{RUNS[0]}-{n}") for n in range(10)]
    return {"refused": refused, "left": left, "texts": len(texts)}


async def delete_nothing(data: Path) -> None:
    async with open_sqlite(data) as journal:
        await journal.delete([])


def try_out(data: Path, kind: str) -> dict[str, object]:
    with full_disk(data) if kind == "disk" else limited_files(data):
        seen = anyio.run(delete_most, data)
    if kind == "limit":
        # The reader, who kept the file from being shortened, has left.
        anyio.run(delete_nothing, data)
    return {**seen, "small": (data / "runs.db").stat().st_size < MEGABYTE}


def mounting() -> list[str]:
    """Return the beginning of a command that may mount file systems of its own, if there is one."""
    for command in (["unshare", "-m"], ["unshare", "-r", "-m"]):
        probe = [*command, "sh", "-c", "mount -t tmpfs -o size=1m none /mnt"]
        if shutil.which("unshare") and not subprocess.run(probe, capture_output=True).returncode:
            return command
    return []


def run_on_full_disk(folder: Path, kind: str) -> dict[str, object]:
    program = [sys.executable, "-m", "tests.process.test_full_disk", str(folder), kind]
    if kind == "disk":
        mount = f'mount -t tmpfs -o size=8m none "{folder}" && exec "$@"'
        program = [*mounting(), "sh", "-c", mount, "sh", *program]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests" / "support")}
    done = subprocess.run(
        program, cwd=ROOT, env=environment, stdout=subprocess.PIPE, timeout=100, check=True
    )
    return json.loads(done.stdout)


KINDS = ["limit", *(["disk"] if mounting() else [])]
"""A full file system where one can be mounted, and everywhere a limit on the size of files."""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limits")
@pytest.mark.parametrize("kind", KINDS)
def test_runs_can_be_deleted_where_there_is_no_space_and_that_makes_some(
    kind: str, tmp_path: Path
) -> None:
    seen = run_on_full_disk(tmp_path, kind)
    assert seen.pop("refused")
    assert seen == {"left": [RUNS[0]], "texts": 10, "small": True}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(try_out(Path(sys.argv[1]) / "data", sys.argv[2])))
