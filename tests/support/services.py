"""Run services over a real store, with a model that follows a script."""

import sqlite3
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path

import anyio

from building import setup
from concertmaster.catalog.definitions import WorkerDefinition
from concertmaster.engine.events import Event
from concertmaster.engine.request import Limits
from concertmaster.errors import StoreError
from concertmaster.llm.messages import Request
from concertmaster.runs.intake import RunPolicy
from concertmaster.runs.service import RunService, open_service
from concertmaster.store.journal import Reservation, RunRow, Standing
from concertmaster.store.sqlite.store import SqliteJournal
from fakes import FakeLLM, Script
from stores import SqliteStore, Store


@asynccontextmanager
async def service_in(
    place: Path | Store,
    scripts: Mapping[str, Script] | None = None,
    *,
    llm: FakeLLM | None = None,
    workers: Iterable[WorkerDefinition] = (),
    limits: Limits | None = None,
    roots: tuple[Path, ...] = (),
    reuse_hours: float | None = None,
) -> AsyncGenerator[RunService]:
    """Open the runs in a folder or another store, as one process has them."""
    policy = RunPolicy(limits=limits or Limits(), roots=roots, reuse_hours=reuse_hours)
    store = SqliteStore(place) if isinstance(place, Path) else place
    async with (
        store.open() as journal,
        open_service(
            journal=journal,
            setup=setup(llm or FakeLLM(scripts), workers=workers),
            policy=policy,
        ) as service,
    ):
        yield service


class Gate:
    """A script that waits until it is opened, and tells when somebody waits."""

    def __init__(self, answer: str = "done") -> None:
        self.reached = anyio.Event()
        self.opened = anyio.Event()
        self._answer = answer

    async def __call__(self, _request: Request) -> str:
        self.reached.set()
        await self.opened.wait()
        return self._answer


class FailingJournal(SqliteJournal):
    """Refuses events of some kinds, as a full disk would."""

    refused: Collection[str] = ()
    reads_refused = 0
    blind_after_take_over = False

    async def events(self, run_id: str) -> Sequence[Event]:
        self._refuse_reads()
        return await super().events(run_id)

    async def unfinished(self) -> Sequence[RunRow]:
        self._refuse_reads()
        return await super().unfinished()

    async def standing(self, run_ids: Collection[str]) -> Mapping[str, Standing]:
        self._refuse_reads()
        return await super().standing(run_ids)

    def _refuse_reads(self) -> None:
        if self.reads_refused:
            self.reads_refused -= 1
            raise StoreError("The disk is gone.")

    async def append(self, run_id: str, event: Event, *, epoch: int, wait: bool = True) -> None:
        if event.kind in self.refused:
            raise StoreError("The disk is full.")
        await super().append(run_id, event, epoch=epoch, wait=wait)

    async def take_over(
        self,
        run_id: str,
        event: Event,
        *,
        epoch: int,
        queued: bool = False,
        most: int | None = None,
        reservation: Reservation | None = None,
    ) -> None:
        if event.kind in self.refused:
            raise StoreError("The disk is full.")
        await super().take_over(
            run_id, event, epoch=epoch, queued=queued, most=most, reservation=reservation
        )
        self.reads_refused += self.blind_after_take_over

    async def let_go(self, run_id: str, *, epoch: int) -> None:
        if "let-go" in self.refused:
            raise StoreError("The disk is full.")
        await super().let_go(run_id, epoch=epoch)


def change(folder: Path, statement: str, *parameters: object) -> None:
    """Commit a change to the file as another process would."""
    with closing(sqlite3.connect(folder / "runs.db")) as connection, connection:
        connection.execute(statement, parameters)


@asynccontextmanager
async def failing_service(
    folder: Path,
    llm: FakeLLM,
    refused: Collection[str] = (),
    *,
    reads_refused: int = 0,
    blind_after_take_over: bool = False,
    journal: type[FailingJournal] = FailingJournal,
) -> AsyncGenerator[RunService]:
    """Open the runs in a folder through a journal that refuses events of some kinds."""
    store = journal(folder, patience=5)
    store.refused = refused
    store.reads_refused = reads_refused
    store.blind_after_take_over = blind_after_take_over
    async with (
        store.committing(),
        open_service(journal=store, setup=setup(llm), policy=RunPolicy()) as service,
    ):
        yield service
