"""The stores there are, and events to put into them."""

import sqlite3
from contextlib import AbstractAsyncContextManager, closing
from pathlib import Path
from typing import LiteralString, Protocol

import psycopg

from concertmaster.engine.record.events import (
    CancelRequested,
    Event,
    RunStarted,
    SubtaskStarted,
)
from concertmaster.engine.record.request import RunRequest
from concertmaster.store.journal import Journal
from concertmaster.store.postgres_store import open_postgres
from concertmaster.store.sqlite_store import open_sqlite
from postgres import Postgres, execute


class Store(Protocol):
    """A place where runs are kept."""

    def open(self, *, works: bool = False) -> AbstractAsyncContextManager[Journal]:
        """Open the journal there, as one process has it."""
        ...

    def change(self, statement: LiteralString, *parameters: object) -> None:
        """Commit a change as another process would; `?` stands for a parameter."""
        ...

    def contents(self) -> bytes:
        """Return all that is kept there, in whatever form."""
        ...


class SqliteStore:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self, *, works: bool = False) -> AbstractAsyncContextManager[Journal]:
        del works  # A file knows nothing of that.
        return open_sqlite(self._folder)

    def change(self, statement: LiteralString, *parameters: object) -> None:
        with closing(sqlite3.connect(self._folder / "runs.db")) as connection, connection:
            connection.execute(statement, parameters)

    def contents(self) -> bytes:
        return b"".join(path.read_bytes() for path in self._folder.glob("runs.db*"))


class PostgresStore:
    def __init__(self, url: str) -> None:
        self.url = url

    def open(self, *, works: bool = False) -> AbstractAsyncContextManager[Journal]:
        return open_postgres(self.url, works=works)

    def change(self, statement: LiteralString, *parameters: object) -> None:
        execute(self.url, statement.replace("?", "%s"), *parameters)

    def contents(self) -> bytes:
        statement = "SELECT convert_to(data, 'UTF8') FROM events UNION ALL SELECT text FROM texts"
        with psycopg.connect(self.url) as connection:
            return b"".join(bytes(part) for (part,) in connection.execute(statement))


def a_store(kind: str, folder: Path, postgres: Postgres) -> Store:
    """Return an empty store."""
    return SqliteStore(folder) if kind == "sqlite" else PostgresStore(postgres.store())


def started(at: float = 1.0) -> Event:
    return RunStarted(name="run/start", at=at, request=RunRequest(task="why?"))


def numbered(number: int) -> Event:
    return SubtaskStarted(name=f"subtask/s{number}/start", at=number, subtask_id=f"s{number}")


def cancel(reason: str = "enough") -> Event:
    return CancelRequested(name=f"run/cancel/{reason}", at=5.0, reason=reason)


async def names(journal: Journal, run_id: str = "r-1") -> list[str]:
    return [event.name for event in await journal.events(run_id)]
