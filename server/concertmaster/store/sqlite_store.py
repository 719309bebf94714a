"""The journal on SQLite: one file in the data folder, shared by any number of processes."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio

from concertmaster.store.group_commit import GroupCommit
from concertmaster.store.sqlite_file import SqliteFile

T = TypeVar("T")

POLL_SECONDS = 0.25
"""How often to look whether another process has committed something."""

PATIENCE_SECONDS = 20
"""How long to wait for another process that has the file locked."""


class SqliteJournal(GroupCommit):
    """A journal in one SQLite file. See `Journal` for what its methods promise."""

    def __init__(
        self, data_folder: Path, *, patience: float = PATIENCE_SECONDS, network: bool = False
    ) -> None:
        self._file = SqliteFile(data_folder, patience=patience, network=network)
        super().__init__(self._file)
        self._seen_of_others: int | None = None

    async def _read(self, read: Callable[[], T]) -> T:
        if self._file.gone:
            await self._writing.run(self._file.renew)
        return await super()._read(read)

    async def least_load(self) -> int | None:
        """Return nothing: who might take runs up, a file does not tell."""
        return None

    async def changed_elsewhere(self, run_id: str = "") -> None:
        """Return when another process has committed something since the last call began.

        The first call returns at once, since something may have come before it.
        """
        del run_id  # SQLite tells that the file has changed, and no more.
        since = self._seen_of_others
        # Asked of the connection that writes, to which commits of this process are no news.
        look = partial(self._writing.run, self._file.commits_of_others)
        self._seen_of_others = now = await look()
        while now == since:
            await anyio.sleep(POLL_SECONDS)
            now = await look()


@asynccontextmanager
async def open_sqlite(
    data_folder: Path, *, patience: float = PATIENCE_SECONDS, network: bool = False
) -> AsyncGenerator[SqliteJournal]:
    """Open the journal in `data_folder`; the disk is not touched before it is first used.

    When the journal is closed, everything that was submitted to it has been committed or
    has failed. `patience` is how long to wait for a process that has the file locked. A
    folder on a network share is refused unless `network` is true.
    """
    journal = SqliteJournal(data_folder, patience=patience, network=network)
    async with journal.committing():
        yield journal
