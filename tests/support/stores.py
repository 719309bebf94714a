"""The stores there are, and events to put into them."""

import sqlite3
from contextlib import AbstractAsyncContextManager, closing
from pathlib import Path
from typing import Any, LiteralString, Protocol

import psycopg

from concertmaster.engine.events import (
    ApprovalOffered,
    CallFailed,
    CallFinished,
    CallStarted,
    CancelRequested,
    Event,
    PlanAccepted,
    PlanRejected,
    RunEnded,
    RunStarted,
    SubtaskFinished,
    SubtaskResult,
    SubtaskStarted,
    SynthesisStarted,
    ToolAnswered,
    ToolAsked,
    ToolCalled,
)
from concertmaster.engine.plan.plan import Plan
from concertmaster.engine.request import InputRef, RunRequest
from concertmaster.llm.messages import ToolCall, ToolOutcome
from concertmaster.store.journal import Journal
from concertmaster.store.postgres.store import open_postgres
from concertmaster.store.sqlite.store import open_sqlite
from fakes import USAGE, reply_with, subtask
from postgres import Postgres, execute

LONG_RESULT = "\n".join(f"{number}. It is so \u2013 for a reason." for number in range(60))
"""One that journals of the latest versions have."""


class Store(Protocol):
    """A place where runs are kept."""

    def open(self, *, works: bool = False) -> AbstractAsyncContextManager[Journal]:
        """Open the journal there, as one process has it."""
        ...

    def change(self, statement: LiteralString, *parameters: object) -> None:
        """Commit a change as another process would; `?` stands for a parameter."""
        ...

    def look(self, query: LiteralString) -> list[tuple[Any, ...]]:
        """Return what another process would find."""
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

    def look(self, query: LiteralString) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self._folder / "runs.db")) as connection:
            return connection.execute(query).fetchall()

    def contents(self) -> bytes:
        return b"".join(path.read_bytes() for path in self._folder.glob("runs.db*"))


class PostgresStore:
    def __init__(self, url: str) -> None:
        self.url = url

    def open(self, *, works: bool = False) -> AbstractAsyncContextManager[Journal]:
        return open_postgres(self.url, works=works)

    def change(self, statement: LiteralString, *parameters: object) -> None:
        execute(self.url, statement.replace("?", "%s"), *parameters)

    def look(self, query: LiteralString) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url) as connection:
            return connection.execute(query).fetchall()

    def contents(self) -> bytes:
        statement = "SELECT convert_to(data, 'UTF8') FROM events UNION ALL SELECT text FROM texts"
        with psycopg.connect(self.url) as connection:
            return b"".join(bytes(part) for (part,) in connection.execute(statement))


def a_store(kind: str, folder: Path, postgres: Postgres) -> Store:
    """Return an empty store."""
    return SqliteStore(folder) if kind == "sqlite" else PostgresStore(postgres.store())


EVERY_KIND: list[Event] = [
    RunStarted(
        name="run/start",
        at=1.5,
        request=RunRequest(
            task="why? \u00e9\u4e2d\U0001f600\0",
            inputs=(InputRef(name="a", digest="0", chars=3),),
            output_schema={"type": "object"},
        ),
        notice="offline",
    ),
    CallStarted(name="call/start", at=2, step="call", caller="planner", model="big"),
    CallFinished(
        name="call",
        at=3,
        caller="planner",
        reply=reply_with("{}", tool_calls=(ToolCall(id="1", name="lint", arguments={"a": [1]}),)),
    ),
    CallFailed(name="call/failed", at=4, step="call", caller="c", error="no", usage=USAGE),
    PlanRejected(name="plan/rejected/1", at=5, problems=("a cycle",)),
    PlanAccepted(name="plan/1", at=6, plan=Plan(subtasks=(subtask("s1"),)), left_out=("s9",)),
    SubtaskStarted(name="subtask/s1/start", at=7, subtask_id="s1"),
    ToolAsked(
        name="tool/question",
        at=7.5,
        step="tool",
        question_id="q-1",
        subtask_id="s1",
        worker="analyst",
        tool="lint",
        arguments='{"file": "\u00e9"}',
        until=100,
    ),
    ToolAnswered(name="question/q-1/1", at=7.75, question_id="q-1", allowed=True, by="a person"),
    ToolCalled(
        name="tool",
        at=8,
        subtask_id="s1",
        call=ToolCall(id="1", name="lint", arguments={}),
        outcome=ToolOutcome(id="1", text="fine"),
        seconds=0.5,
    ),
    SubtaskFinished(
        name="subtask/s1/result",
        at=9,
        result=SubtaskResult(subtask_id="s1", worker="analyst", status="succeeded", value={"a": 1}),
    ),
    SynthesisStarted(name="synthesis/start", at=10),
    CancelRequested(name="run/cancel/1", at=11, reason="enough"),
    ApprovalOffered(name="run/approval/1", at=13, plan="0" * 64, token="1" * 64),
    RunEnded(name="run/end", at=12, status="succeeded", answer="so", value=[1, None]),
]
"""An event of most kinds there are."""


def started(at: float = 1.0) -> Event:
    return RunStarted(name="run/start", at=at, request=RunRequest(task="why?"))


def numbered(number: int) -> Event:
    return SubtaskStarted(name=f"subtask/s{number}/start", at=number, subtask_id=f"s{number}")


def cancel(reason: str = "enough") -> Event:
    return CancelRequested(name=f"run/cancel/{reason}", at=5.0, reason=reason)


async def names(journal: Journal, run_id: str = "r-1") -> list[str]:
    return [event.name for event in await journal.events(run_id)]
