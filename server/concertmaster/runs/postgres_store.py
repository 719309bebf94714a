"""The journal on Postgres, shared by processes on any number of machines.

Its connections belong to threads, as those to SQLite do, so that it works under either back
end of anyio and a cancelled caller never leaves a connection in the middle of something.
"""

import logging
import time
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager, closing

import anyio
import psycopg
from anyio import to_thread

from concertmaster.errors import StoreError
from concertmaster.runs.group_commit import GroupCommit
from concertmaster.runs.postgres_link import Address, Connection
from concertmaster.runs.postgres_tables import CHANNEL, PostgresTables
from concertmaster.runs.stored import Write

log = logging.getLogger(__name__)

BEAT_SECONDS = 1
"""How often a process tells that it is alive."""

RETRY_SECONDS = 1
"""How long to wait before listening again where that has failed."""


class PostgresJournal(GroupCommit):
    """A journal in a Postgres database. See `Journal` for what its methods promise."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._database = PostgresTables(address)
        super().__init__(self._database)
        self._wanted = anyio.Event()
        """Set once somebody has to hear of others, or others of this process."""
        self._news: dict[str, anyio.Event] = {}
        self._next_beat = 0.0

    async def _submit(self, write: Write, *, wait: bool = True) -> None:
        self._wanted.set()
        await super()._submit(write, wait=wait)

    async def changed_elsewhere(self) -> None:
        """Return when another process has committed something since the last call began.

        The first call returns at once, since something may have come before it.
        """
        self._wanted.set()
        news = self._news.get("")
        if news is not None:
            await news.wait()
        if self._news.get("") is news:
            self._news[""] = anyio.Event()

    async def keep_in_touch(self) -> None:
        """Hear of what others commit, and let them hear that this process is alive."""
        await self._wanted.wait()
        while True:
            try:
                await self._listen()
            except psycopg.Error as exc:
                log.warning("not in touch: %s", self._address.store_error(exc))
                log.debug("not in touch", exc_info=True)
            except StoreError as exc:
                log.warning("not in touch: %s", exc)
            await anyio.sleep(RETRY_SECONDS)

    async def _listen(self) -> None:
        with closing(await to_thread.run_sync(self._connect)) as connection:
            # Nobody knows what went by before.
            self._tell(self._news)
            while True:
                heard = await to_thread.run_sync(self._hear, connection)
                if heard:
                    self._tell(heard)
                with anyio.move_on_after(BEAT_SECONDS):
                    await anyio.wait_readable(connection.fileno())

    def _connect(self) -> Connection:
        connection = self._address.connect()
        connection.execute(b"LISTEN " + CHANNEL.encode())
        return connection

    def _hear(self, connection: Connection) -> set[str]:
        """Return what has been heard from other processes, and be heard if that is due."""
        if self._database.owns and time.monotonic() >= self._next_beat:
            self._database.beat(connection)
            self._next_beat = time.monotonic() + BEAT_SECONDS
        heard = connection.notifies(timeout=0)
        return {notice.payload for notice in heard if notice.pid != self._database.writer}

    def _tell(self, heard: Collection[str]) -> None:
        for key in {*heard, ""} & self._news.keys():
            self._news[key].set()


@asynccontextmanager
async def open_postgres(url: str) -> AsyncGenerator[PostgresJournal]:
    """Open the journal in the database at `url`, which is not called before it is first used.

    When the journal is closed, everything that was submitted to it has been committed or
    has failed.

    Raises:
        SettingsError: `url` is no address of a Postgres.
    """
    journal = PostgresJournal(Address(url))
    async with journal.committing() as tasks:
        tasks.start_soon(journal.keep_in_touch)
        yield journal
