"""Disk space for the file of a journal: a reserve for a full disk, and giving back what is free."""

import errno
import secrets
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from concertmaster.store import private_files as private
from concertmaster.store.sqlite.schema import SHORTENABLE

LEAST_RESERVE = 128 * 1024
"""Bytes with which a small file can be opened, and a run of it be deleted."""

MOST_RESERVE = 4 * 1024 * 1024

RESERVED_SHARE = 8
"""The reserve is this part of the file; large runs take more to be deleted."""

STEP_PAGES = 64
"""Pages to give back at a time, since each step takes space of its own before it frees any."""

READER_MILLISECONDS = 100
"""How long to wait for those who read from the WAL, each time that it could be shortened."""

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

_NO_SPACE_CODES = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR})
"""SQLite tells quotas and limits from other errors of writing as little as the system does."""


def is_no_space(error: sqlite3.Error | OSError) -> bool:
    """Tell whether something may have failed because there is no space left on the disk."""
    if isinstance(error, OSError):
        return error.errno in _NO_SPACE
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _NO_SPACE_CODES


class Reserve:
    """A file that only takes up space, to be released where a full disk lets nothing be deleted."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def keep(self, *, beside: Path) -> None:
        """Take up space in proportion to a file, as far as there is some."""
        try:
            wanted = min(max(beside.stat().st_size // RESERVED_SHARE, LEAST_RESERVE), MOST_RESERVE)
            private.make_file(self._file)
            missing = wanted - self._file.stat().st_size
            if missing > 0:
                # Random, since some file systems keep no zeros.
                with self._file.open("ab") as file:
                    file.write(secrets.token_bytes(missing))
        except OSError as exc:
            if is_no_space(exc):
                self.release()

    def release(self) -> bool:
        """Let go of the space; tell whether there was some."""
        try:
            self._file.unlink()
        except OSError:
            return False
        return True


@contextmanager
def frugal(writer: sqlite3.Connection) -> Generator[None]:
    """Overwrite what is deleted only where that takes no space; `shrink` sees to the rest."""
    (before,) = writer.execute("PRAGMA secure_delete").fetchone()
    writer.execute("PRAGMA secure_delete = FAST").fetchall()
    try:
        yield
    finally:
        writer.execute(f"PRAGMA secure_delete = {before}").fetchall()


def empty_wal(writer: sqlite3.Connection) -> bool:
    """Write the WAL back and shorten it to nothing, unless another connection reads from it."""
    (patience,) = writer.execute("PRAGMA busy_timeout").fetchone()
    writer.execute(f"PRAGMA busy_timeout = {READER_MILLISECONDS}").fetchall()
    try:
        busy, *_ = writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy
    except sqlite3.OperationalError:
        return False
    finally:
        writer.execute(f"PRAGMA busy_timeout = {patience}").fetchall()


def shrink(writer: sqlite3.Connection) -> None:
    """Give the free pages of the file back to the disk, and overwrite what was deleted.

    On a full disk, the file is shortened in small steps; it is written anew the next time.
    """
    try:
        writer.execute(SHORTENABLE)
        writer.execute("VACUUM")
    except sqlite3.OperationalError:
        if empty_wal(writer):
            _shorten(writer)
    empty_wal(writer)


def _shorten(writer: sqlite3.Connection) -> None:
    with suppress(sqlite3.OperationalError):
        before = 0
        while (free := _free_pages(writer)) and free != before:
            before = free
            writer.execute(f"PRAGMA incremental_vacuum({STEP_PAGES})").fetchall()
            if not empty_wal(writer):
                return


def _free_pages(writer: sqlite3.Connection) -> int:
    (pages,) = writer.execute("PRAGMA freelist_count").fetchone()
    return pages
