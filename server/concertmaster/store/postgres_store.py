"""The journal on Postgres, shared by processes on any number of machines.

Its connections belong to threads, as those to SQLite do, so that it works under either back
end of anyio and a cancelled caller never leaves a connection in the middle of something.
"""

import logging
import time
from collections.abc import AsyncGenerator, Set
from contextlib import asynccontextmanager, closing

import anyio
import psycopg
from anyio import to_thread

from concertmaster.store.group_commit import GroupCommit
from concertmaster.store.journal import ANY_RUN
from concertmaster.store.postgres_link import WRITE_SECONDS, Address, Connection, Link
from concertmaster.store.postgres_tables import CHANNEL, PostgresTables
from concertmaster.store.stored import Write

log = logging.getLogger(__name__)

BEAT_SECONDS = 1
"""How often a process tells that it is alive."""

RETRY_SECONDS = 1
"""How long to wait before listening again where that has failed."""


class PostgresJournal(GroupCommit):
    """A journal in a Postgres database. See `Journal` for what its methods promise."""

    def __init__(self, address: Address, *, works: bool) -> None:
        self._address = address
        self._works = works
        writing = Link(address, patience=WRITE_SECONDS)
        self._database = PostgresTables(writing, Link(address), works=works)
        super().__init__(self._database)
        self._wanted = anyio.Event()
        """Set once somebody has to hear of others, or others of this process."""
        if works:
            self._wanted.set()
        self._news: dict[str, anyio.Event] = {}
        self._next_beat = 0.0

    async def _submit(self, write: Write, *, wait: bool = True) -> None:
        self._wanted.set()
        await super()._submit(write, wait=wait)

    async def least_load(self) -> int | None:
        """Return how many runs the least busy of the other processes has that take runs up."""
        return await self._read(self._database.least_load)

    async def changed_elsewhere(self, run_id: str = "") -> None:
        """Return when another process has changed a run since the last such call began.

        The first call returns at once, since something may have come before it.
        """
        self._wanted.set()
        news = self._news.get(run_id)
        if news is not None:
            await news.wait()
        if self._news.get(run_id) is news:
            self._news[run_id] = anyio.Event()

    async def keep_in_touch(self) -> None:
        """Hear of what others commit, and let them hear that this process is alive."""
        await self._wanted.wait()
        while True:
            try:
                await self._listen()
            except psycopg.Error as exc:
                log.warning("not in touch: %s", self._address.store_error(exc))
                log.debug("not in touch", exc_info=True)
            await anyio.sleep(RETRY_SECONDS)

    async def _listen(self) -> None:
        with closing(await to_thread.run_sync(self._connect)) as connection:
            # Nobody knows what went by before.
            self._tell(self._news.keys())
            while True:
                self._tell(await to_thread.run_sync(self._hear, connection))
                with anyio.move_on_after(BEAT_SECONDS):
                    await anyio.wait_readable(connection.fileno())

    def _connect(self) -> Connection:
        connection = self._address.connect()
        connection.execute("LISTEN " + CHANNEL)
        if self._works:
            self._database.come(connection)
        return connection

    def _hear(self, connection: Connection) -> set[str]:
        """Return what has been heard from other processes, and be heard if that is due."""
        if self._database.known and time.monotonic() >= self._next_beat:
            self._database.beat(connection)
            self._next_beat = time.monotonic() + BEAT_SECONDS
        return {
            notice.payload
            for notice in connection.notifies(timeout=0)
            # That a run is to be taken up or stopped concerns this process too.
            if notice.pid != self._database.writer or not notice.payload
        }

    def _tell(self, heard: Set[str]) -> None:
        wanted = heard | {ANY_RUN} if heard else heard
        for run_id in wanted & self._news.keys():
            self._news[run_id].set()


@asynccontextmanager
async def open_postgres(url: str, *, works: bool = False) -> AsyncGenerator[PostgresJournal]:
    """Open the journal in the database at `url`, which is not called before it is first used.

    A process that `works` goes on with runs that nobody has, and hands back its own at the
    end. When the journal is closed, everything that was submitted to it has been committed
    or has failed.

    Raises:
        SettingsError: `url` is no address of a Postgres.
    """
    journal = PostgresJournal(Address(url), works=works)
    async with journal.committing() as tasks:
        tasks.start_soon(journal.keep_in_touch)
        yield journal
