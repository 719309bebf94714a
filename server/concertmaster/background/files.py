"""What background servers keep in a data folder, by which they are found."""

import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from concertmaster.errors import BackgroundError
from concertmaster.store import locks
from concertmaster.store import private_files as private

START_SECONDS = 30.0
"""How long a server may take to start."""

POLL_SECONDS = 0.02


class Record(BaseModel):
    """Where a background server listens, and the secret that its callers have to know."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pid: int
    socket: Path | None = None
    port: int | None = None
    """A port of this machine, where there is no socket."""
    secret: str = Field(repr=False)


@dataclass(frozen=True, slots=True)
class ServerFiles:
    """The files of one background server, which nobody but this user can read."""

    folder: Path
    identity: str
    """What the server was started for; one with another identity is another server."""

    @property
    def socket(self) -> Path:
        """Return where the server listens, if it can listen at a path."""
        return self._file("sock")

    @property
    def log(self) -> Path:
        """Return the file that the server writes its log to."""
        return self._file("log")

    def _file(self, suffix: str) -> Path:
        return self.folder / f"{self.identity}.{suffix}"

    @property
    def _record(self) -> Path:
        return self._file("json")

    @property
    def alive(self) -> bool:
        """Tell whether the server is alive; the system releases its lock when it dies."""
        if not self._file("lock").exists():
            return False
        try:
            with self._lock("lock").acquire(blocking=False):
                return False
        except Timeout:
            return True

    @contextmanager
    def living(self, *, seconds: float) -> Generator[None]:
        """Be the server; one that is ending is waited for.

        Raises:
            BackgroundError: another has been the server for so many `seconds`, or the folder
                cannot be used.
        """
        with self._held("lock", seconds, late="Another is there, and does not end."):
            yield

    @contextmanager
    def starting(self) -> Generator[None]:
        """Keep others from starting the server meanwhile.

        Raises:
            BackgroundError: others take longer than a start may take, or the folder cannot be
                used.
        """
        with self._held("start", START_SECONDS, late="Its start takes too long."):
            yield

    @contextmanager
    def _held(self, suffix: str, seconds: float, *, late: str) -> Generator[None]:
        try:
            for folder in (self.folder.parent, self.folder):
                private.make_folder(folder)
            held = self._lock(suffix).acquire(timeout=seconds, poll_interval=POLL_SECONDS)
        except Timeout:
            raise BackgroundError(late) from None
        except OSError as exc:
            raise BackgroundError(f"{self.folder} cannot be used: {exc.strerror}.") from exc
        with held:
            yield

    def _lock(self, suffix: str) -> FileLock:
        return locks.lock(self._file(suffix))

    def publish(self, record: Record) -> None:
        """Let others find the server."""
        number, name = tempfile.mkstemp(dir=self.folder, prefix=f".{self.identity}.")
        with os.fdopen(number, "w", encoding="utf-8") as new:
            new.write(record.model_dump_json())
        Path(name).replace(self._record)

    def withdraw(self) -> None:
        """Let nobody find the server any more."""
        for file in (self._record, self.socket):
            with suppress(OSError):
                file.unlink()

    def record(self) -> Record:
        """Return what a server has published, which may be dead.

        Raises:
            BackgroundError: there is none.
        """
        try:
            return Record.model_validate_json(self._record.read_bytes())
        except (OSError, ValidationError):
            raise BackgroundError("There is none.") from None

    def sweep(self) -> None:
        """Remove what other servers have left that are dead."""
        for other in _all_files(self.folder):
            if other != self:
                with suppress(OSError, Timeout), other._lock("lock").acquire(blocking=False):
                    for suffix in ("json", "sock", "log", "log.1", "start", "lock"):
                        other._file(suffix).unlink(missing_ok=True)


def files_of(data_folder: Path, identity: str) -> ServerFiles:
    """Return the files of the server with this identity."""
    return ServerFiles(data_folder / "background", identity)


def files_of_all(data_folder: Path) -> list[ServerFiles]:
    """Return the files of all servers that are or have been, of which some may be dead."""
    return _all_files(data_folder / "background")


def _all_files(folder: Path) -> list[ServerFiles]:
    return [ServerFiles(folder, lock.stem) for lock in sorted(folder.glob("*.lock"))]
