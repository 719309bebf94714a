"""Which processes are alive: each holds a file lock, which the system releases at its death."""

import secrets
from contextlib import suppress
from pathlib import Path

from filelock import Timeout

from concertmaster.store import locks
from concertmaster.store import private_files as private

PROBE_SECONDS = 10


class Owners:
    """The processes that own runs in one data folder.

    Ids are never used twice, so the lock file of a dead process can be removed by anybody.
    """

    def __init__(self, folder: Path) -> None:
        self.me = secrets.token_hex(8)
        """The id of this process."""
        self._folder = folder
        self._mine = locks.lock(self._file(self.me))
        self._probing = locks.lock(folder / "probe.lock")

    def _file(self, owner: str) -> Path:
        return self._folder / f"{owner}.lock"

    def hold(self) -> None:
        """Let others see that this process is alive, until `release` or until it dies."""
        if self._mine.is_locked and not self._file(self.me).exists():
            # Somebody has deleted the folder, and a lock that nobody finds tells nothing.
            self._mine.release()
        if not self._mine.is_locked:
            private.make_folder(self._folder)
            self._mine.acquire(blocking=False)

    def release(self) -> None:
        """Let others see that this process has ended."""
        if self._mine.is_locked:
            self._mine.release()
            self._remove(self.me)

    def alive(self, owner: str) -> bool:
        """Tell whether the process with the id `owner` is alive."""
        if owner == self.me:
            return True
        if not self._file(owner).exists():
            return False
        # One at a time, or a process that looks would be taken for the one that it looks for.
        with self._probing.acquire(timeout=PROBE_SECONDS, poll_interval=locks.POLL_SECONDS):
            probe = locks.lock(self._file(owner))
            try:
                probe.acquire(blocking=False)
            except Timeout:
                return True
            probe.release()
            self._remove(owner)
        return False

    def _remove(self, owner: str) -> None:
        # Who looks just now may have it open, which keeps Windows from removing it.
        with suppress(OSError):
            self._file(owner).unlink()
