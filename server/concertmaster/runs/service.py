"""Runs in the background of one process: start, watch, wait, cancel, list."""

import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import anyio
from anyio.abc import TaskGroup

from concertmaster.catalog.catalog import Catalog
from concertmaster.engine.events import (
    CancelRequested,
    Event,
    GuardDecided,
    RunEnded,
    RunStarted,
    SubtaskResult,
)
from concertmaster.engine.orchestrator import Orchestrator
from concertmaster.engine.run import Run, Setup
from concertmaster.engine.steps import Steps
from concertmaster.errors import (
    LostRunError,
    StoreError,
    UnknownRunError,
    UnreadableRunError,
)
from concertmaster.runs import ends
from concertmaster.runs.intake import CheckedOrder, RunPolicy
from concertmaster.runs.journal import Journal, RunRow
from concertmaster.runs.orders import Order
from concertmaster.runs.reading import OrderReader
from concertmaster.runs.rewrites import file_changes
from concertmaster.runs.state import RecentRuns, RunState, fold, subtask_result
from concertmaster.runs.trace import Span, trace
from concertmaster.tools.changes import FileChange
from concertmaster.tools.inputs import InputSpec

log = logging.getLogger(__name__)

LIVENESS_SECONDS = 1
"""How often to look whether the process of a run is still there."""

CANCEL_SECONDS = 10
"""How long a cancelled run may take to end before the caller is answered anyway."""

_UNWRITABLE = (StoreError, UnknownRunError)
"""What the journal raises when it does not take an event of a run."""


_OUTWARD = (RunStarted, GuardDecided, CancelRequested, RunEnded)
"""What the trace of a run shows before its guard has let anything pass."""


@dataclass(slots=True, kw_only=True)
class _LiveRun:
    """A run that this process drives."""

    state: RunState
    epoch: int
    scope: anyio.CancelScope
    changed: anyio.Event


class RunService:
    """Starts runs, drives them in the background, and answers what is asked of them.

    Runs of other processes on the same store can be read, waited for and cancelled too.
    """

    def __init__(
        self, *, journal: Journal, setup: Setup, policy: RunPolicy, tasks: TaskGroup
    ) -> None:
        self._journal = journal
        self._setup = setup
        self._policy = policy
        self._tasks = tasks
        self._orchestrator = Orchestrator(setup)
        self._reader = OrderReader(
            journal=journal, policy=policy, catalog=setup.catalog, find=self.get
        )
        self._live: dict[str, _LiveRun] = {}
        self._given_up: dict[str, RunState] = {}
        """Runs whose journal could not be written any more, of which it does not tell all."""
        self._listeners: list[Callable[[str], None]] = []
        self._watching_others = False

    @property
    def catalog(self) -> Catalog:
        """Return the workers that runs may use."""
        return self._setup.catalog

    @property
    def notice(self) -> str:
        """Return what every reader of an answer must know of the models in use."""
        return self._setup.llm.notice

    def on_change(self, listener: Callable[[str], None]) -> None:
        """Have `listener` called with the run's id after each event of a run driven here."""
        self._listeners.append(listener)

    async def start(self, order: Order) -> RunState:
        """Check an order, write it to the journal, and start it; return at once.

        Raises:
            RequestError: it cannot be done as asked.
            InputError: an input cannot be read.
            StoreError: the journal cannot be written, so nothing was started.
        """
        checked = await self._reader.checked(order)
        run_id = f"r-{secrets.token_urlsafe(16)}"
        event = RunStarted(
            name="run/start", at=time.time(), request=checked.request, notice=self.notice
        )
        live = _LiveRun(
            state=fold(run_id, [event], alive=True),
            epoch=1,
            scope=anyio.CancelScope(),
            changed=anyio.Event(),
        )
        # From here on, because it is in the list of runs the moment it has been committed.
        self._live[run_id] = live
        try:
            await self._journal.create(run_id, event, checked.texts)
        except BaseException:
            del self._live[run_id]
            raise
        self._tasks.start_soon(self._drive, live, checked)
        if not self._watching_others:
            self._watching_others = True
            self._tasks.start_soon(self._watch_others)
        return live.state.shown()

    async def get(self, run_id: str) -> RunState:
        """Return where a run stands.

        Raises:
            UnknownRunError: there is none of that id.
        """
        if (state := self._known(run_id)) is not None:
            return state.shown()
        row = await self._journal.row(run_id)
        events = await self._journal.events(run_id)
        return fold(run_id, events, alive=row.alive and not row.mine).shown()

    def _known(self, run_id: str) -> RunState | None:
        """Return the state of a run that this process knows better than the journal."""
        live = self._live.get(run_id)
        return live.state if live is not None else self._given_up.get(run_id)

    async def wait(self, run_id: str, *, seconds: float) -> RunState:
        """Return where a run stands once nobody drives it any more, or `seconds` have passed."""
        state = await self.get(run_id)
        with anyio.move_on_after(seconds):
            while not state.still:
                state = await self._next(run_id, state.events)
        return await self.get(run_id)

    async def wait_for_change(self, run_id: str, *, seen: int, seconds: float) -> RunState:
        """Return where a run stands once it has other than `seen` events, or time has passed."""
        with anyio.move_on_after(seconds):
            return await self._next(run_id, seen)
        return await self.get(run_id)

    async def _next(self, run_id: str, seen: int) -> RunState:
        while True:
            live = self._live.get(run_id)
            changed = live.changed if live is not None else None
            state = await self.get(run_id)
            if state.events != seen or state.still:
                return state
            if changed is not None:
                await changed.wait()
            else:
                # Bounded, because the death of the run's process changes nothing in the store.
                with anyio.move_on_after(LIVENESS_SECONDS):
                    await self._journal.changed_elsewhere()

    async def cancel(self, run_id: str, *, reason: str) -> RunState:
        """Stop a run and return where it stands then; what is finished stays.

        A run that is over is left as it is. One of another process is asked to stop.
        """
        state = await self.get(run_id)
        if state.still:
            return state
        event = CancelRequested(
            name=f"run/cancel/{secrets.token_hex(4)}", at=time.time(), reason=reason
        )
        if (live := self._live.get(run_id)) is not None:
            await self._stop(live, event)
        else:
            await self._journal.request_cancel(run_id, event)
        return await self.wait(run_id, seconds=CANCEL_SECONDS)

    async def _stop(self, live: _LiveRun, event: CancelRequested) -> None:
        # At once, since each moment may cost money, and the caller may not wait for the commit.
        self._take_in(live, event)
        live.scope.cancel()
        # That nothing can be written down any more comes out when the run ends.
        with suppress(*_UNWRITABLE):
            await self._journal.append(live.state.run_id, event, epoch=live.epoch)

    async def recent(self, limit: int = 20) -> RecentRuns:
        """Return the latest runs, without the texts of what was said in them."""
        states: list[RunState] = []
        unreadable: list[str] = []
        for row in await self._journal.recent(limit):
            try:
                state = self._known(row.run_id) or await self._outline(row)
                states.append(state.shown())
            except UnreadableRunError as exc:
                unreadable.append(str(exc))
        return RecentRuns(states=tuple(states), unreadable=tuple(unreadable))

    async def _outline(self, row: RunRow) -> RunState:
        events = await self._journal.events(row.run_id, light=True)
        return fold(row.run_id, events, alive=row.alive and not row.mine)

    async def result(self, run_id: str, subtask_id: str) -> SubtaskResult:
        """Return how a subtask ended, or where it stands if it has not.

        Raises:
            UnknownSubtaskError: the run has no such subtask.
        """
        return subtask_result(await self.get(run_id), subtask_id)

    async def changes(self, run_id: str) -> tuple[FileChange, ...]:
        """Return how the results of a run change its inputs; nothing is written by this.

        Raises:
            UnknownRunError: there is none of that id.
        """
        return await file_changes(await self.get(run_id), self._journal.text)

    async def input_names(self, specs: Sequence[InputSpec]) -> tuple[str, ...]:
        """Return the names that inputs have in a run.

        Raises:
            InputError: an input cannot be read.
        """
        return tuple(document.name for document in await self._reader.documents(specs))

    async def check(self, order: Order) -> None:
        """Raise what `start` would, and start nothing."""
        await self._reader.checked(order)

    async def trace(self, run_id: str) -> Span:
        """Return the run as a tree of spans."""
        driven = run_id in self._live
        row = await self._journal.row(run_id)
        events = await self._journal.events(run_id)
        alive = driven or (row.alive and not row.mine)
        if fold(run_id, events, alive=alive).withheld:
            events = [event for event in events if isinstance(event, _OUTWARD)]
        return trace(run_id, events, alive=alive)

    async def _drive(self, live: _LiveRun, checked: CheckedOrder) -> None:
        async def append(event: Event, *, wait: bool = True) -> None:
            await self._append(live, event, wait=wait)

        limits = checked.request.limits
        steps = Steps(append, run_id=live.state.run_id, limits=limits)
        run = Run(request=checked.request, documents=checked.documents, steps=steps)
        try:
            with live.scope:
                await self._orchestrator.drive(run)
            if live.state.cancel_requested is not None and not live.state.over:
                for event in list(ends.cancelled(live.state)):
                    await self._append(live, event)
        except _UNWRITABLE as exc:
            self._give_up(live, exc)
        except Exception:
            log.exception("run broke", extra={"run": live.state.run_id})
            await self._end_broken(live)
        finally:
            if not live.state.still:
                live.state.interrupt()
            # Once it is over its journal tells all; only runs under way are kept in memory.
            del self._live[live.state.run_id]
            self._notify(live)

    async def _end_broken(self, live: _LiveRun) -> None:
        try:
            await self._append(live, ends.broken())
        except _UNWRITABLE as exc:
            self._give_up(live, exc)

    def _give_up(self, live: _LiveRun, error: StoreError | UnknownRunError) -> None:
        run_id = live.state.run_id
        log.error("run given up: %s", error, extra={"run": run_id})
        log.debug("run given up", exc_info=error, extra={"run": run_id})
        live.state.interrupt(f"The run was given up. {error}")
        # Of a run that another process has taken over, the journal tells all.
        if not isinstance(error, LostRunError):
            self._given_up[run_id] = live.state

    async def _append(self, live: _LiveRun, event: Event, *, wait: bool = True) -> None:
        try:
            await self._journal.append(live.state.run_id, event, epoch=live.epoch, wait=wait)
        except _UNWRITABLE:
            # The money is spent, whether or not that can be written down.
            live.state.charge(event)
            raise
        except anyio.get_cancelled_exc_class():
            # The journal commits what it has been given, though nobody waits for it.
            self._take_in(live, event)
            raise
        self._take_in(live, event)

    def _take_in(self, live: _LiveRun, event: Event) -> None:
        live.state.apply(event)
        self._notify(live)

    def _notify(self, live: _LiveRun) -> None:
        live.changed.set()
        live.changed = anyio.Event()
        for listener in self._listeners:
            listener(live.state.run_id)

    async def _watch_others(self) -> None:
        """Stop runs of this process that another one has asked to stop."""
        while self._live:
            # Bounded, because a change between two calls goes unnoticed.
            with anyio.move_on_after(LIVENESS_SECONDS):
                try:
                    await self._journal.changed_elsewhere()
                    for live in list(self._live.values()):
                        await self._heed(live)
                except StoreError as exc:
                    log.warning("store not looked at: %s", exc)
                    log.debug("store not looked at", exc_info=True)
                    await anyio.sleep_forever()
        self._watching_others = False

    async def _heed(self, live: _LiveRun) -> None:
        try:
            events = await self._journal.events(live.state.run_id, light=True)
        except (UnknownRunError, UnreadableRunError):
            # It is about to be committed, or damaged; others may have been asked to stop.
            return
        for event in events:
            if isinstance(event, CancelRequested) and live.state.cancel_requested is None:
                live.state.apply(event)
                live.scope.cancel()


@asynccontextmanager
async def open_service(
    *, journal: Journal, setup: Setup, policy: RunPolicy
) -> AsyncGenerator[RunService]:
    """Open a run service; when it closes, runs under way stay without an end: `interrupted`."""
    async with anyio.create_task_group() as tasks:
        try:
            yield RunService(journal=journal, setup=setup, policy=policy, tasks=tasks)
        finally:
            tasks.cancel_scope.cancel()
