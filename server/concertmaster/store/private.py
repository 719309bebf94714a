"""Folders, files and locks that nobody but this user can read: they hold people's documents."""

import os
import stat
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, lock_descriptor, unlock_descriptor

from concertmaster.errors import SettingsError

POLL_SECONDS = 0.001
"""How often to try to get a lock that another process has."""


def make_folder(folder: Path) -> None:
    """Create a folder of mode 0700 whatever the umask; one that exists is left as it is.

    Who made a folder wider than that may have other things in it; what is written into it
    from here is closed to others by itself.
    """
    try:
        folder.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        return
    folder.chmod(0o700)


def make_file(file: Path) -> None:
    """Create an empty file of mode 0600 whatever the umask; one that exists is closed to others."""
    try:
        file.touch(mode=0o600, exist_ok=False)
    except FileExistsError:
        close_to_others(file)
    else:
        file.chmod(0o600)


def close_to_others(file: Path) -> None:
    """Take from a file what its group and others may do with it."""
    mode = stat.S_IMODE(file.stat().st_mode)
    if mode & 0o077:
        file.chmod(mode & 0o700)


def is_open_to_others(file: Path) -> bool:
    """Tell whether the group of a file or others may do anything with it."""
    return sys.platform != "win32" and bool(stat.S_IMODE(file.stat().st_mode) & 0o077)


def lock(file: Path) -> FileLock:
    """Return a lock that one holder in all processes has at a time, and loses when it dies.

    It may be released by another thread than the one that acquired it, but two threads must
    not use it at the same time: within a process it can be acquired again and again.
    """
    return FileLock(file, mode=0o600, thread_local=False)


class OpenLock:
    """A lock that one process has at a time, and loses when it dies, on a file that stays open.

    To open the file for each commit would take as long as half of the commit itself. Two
    threads must not use it at the same time.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._descriptor: int | None = None

    @contextmanager
    def held(self, *, patience: float) -> Generator[None]:
        """Have the lock for a while.

        Raises:
            TimeoutError: another process has had it for `patience` seconds.
        """
        descriptor = self._opened()
        until = time.monotonic() + patience
        while not lock_descriptor(descriptor, blocking=False):
            if time.monotonic() >= until:
                raise TimeoutError
            time.sleep(POLL_SECONDS)
        try:
            yield
        finally:
            unlock_descriptor(descriptor)

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _opened(self) -> int:
        if self._descriptor is None:
            make_file(self._file)
            self._descriptor = os.open(self._file, os.O_RDWR)
        return self._descriptor


def check_owner_only(file: Path) -> None:
    """Do nothing if only its owner may read a file that holds a secret.

    Raises:
        SettingsError: others may read it.
    """
    if is_open_to_others(file):
        raise SettingsError(
            f"{file} holds a secret and other users may read it. Run: chmod 600 {file}"
        )
