"""Runs in the background of one process: start, watch, wait, cancel, list."""

import secrets
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskGroup

from concertmaster.catalog.catalog import Catalog
from concertmaster.engine.earlier import NO_EARLIER_RUN, EarlierRun, earlier_results
from concertmaster.engine.events import (
    CancelRequested,
    Event,
    GuardDecided,
    RunEnded,
    RunRequest,
    RunResumed,
    RunStarted,
    SubtaskResult,
)
from concertmaster.engine.orchestrator import Orchestrator
from concertmaster.engine.plan import Plan
from concertmaster.engine.run import Setup
from concertmaster.errors import LostRunError, UnknownRunError, UnreadableRunError, UsedKeyError
from concertmaster.runs import ends
from concertmaster.runs.intake import CheckedOrder, RunPolicy
from concertmaster.runs.journal import Journal, RunRow, StoredRun
from concertmaster.runs.live import LIVENESS_SECONDS, LiveRun, LiveRuns
from concertmaster.runs.orders import Order
from concertmaster.runs.reading import OrderReader, check_same
from concertmaster.runs.resumable import check_resumable
from concertmaster.runs.retention import Retention
from concertmaster.runs.rewrites import file_changes
from concertmaster.runs.state import RecentRuns, RunState, fold, subtask_result
from concertmaster.runs.trace import Span, trace
from concertmaster.tools.changes import FileChange
from concertmaster.tools.inputs import InputSpec

CANCEL_SECONDS = 10
"""How long a cancelled run may take to end before the caller is answered anyway."""

_OUTWARD = (RunStarted, RunResumed, GuardDecided, CancelRequested, RunEnded)
"""What the trace of a run shows before its guard has let anything pass."""


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
        self._live = LiveRuns(journal=journal, orchestrator=Orchestrator(setup), tasks=tasks)
        self._reader = OrderReader(
            journal=journal, policy=policy, catalog=setup.catalog, find=self.get
        )

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
        self._live.on_change(listener)

    async def start(self, order: Order) -> RunState:
        """Check an order, write it to the journal, and start it; return at once.

        Raises:
            RequestError: it cannot be done as asked.
            InputError: an input cannot be read.
            StoreError: the journal cannot be written, so nothing was started.
        """
        if (known := await self.known(order)) is not None:
            return known
        checked = await self._reader.checked(order)
        try:
            return await self._begin(checked, key=order.idempotency_key)
        except UsedKeyError as exc:
            state = await self.get(exc.run_id)
            check_same(state, order)
            return state

    async def rerun(
        self, run_id: str, *, plan: Plan | None = None, redo: Sequence[str] = ()
    ) -> RunState:
        """Start a run like one that there is, with another plan; return at once.

        What nothing has changed for is taken over from that run, except for the subtasks
        `redo` and what depends on them.

        Raises:
            RequestError: it cannot be done as asked.
            UnknownRunError: there is no run of that id.
            StoreError: the journal cannot be written, so nothing was started.
        """
        checked = await self._reader.again(await self.get(run_id), plan=plan, redo=redo)
        return await self._begin(checked, earlier=await self._earlier(checked.request))

    async def _begin(
        self, checked: CheckedOrder, *, key: str = "", earlier: EarlierRun = NO_EARLIER_RUN
    ) -> RunState:
        run_id = f"r-{secrets.token_urlsafe(16)}"
        event = RunStarted(
            name="run/start", at=time.time(), request=checked.request, notice=self.notice
        )
        if self._queues:
            await self._journal.create(run_id, event, checked.texts, key=key, queued=True)
            return await self.get(run_id)
        live = LiveRun(fold(run_id, [event], alive=True), epoch=1)

        async def commit() -> None:
            await self._journal.create(run_id, event, checked.texts, key=key)

        await self._live.begin(live, checked.documents, commit, earlier=earlier)
        return live.state.shown()

    async def _earlier(self, request: RunRequest) -> EarlierRun:
        """Return what the run that `request` is to repeat has for it, if that is still there."""
        if not request.rerun_of:
            return NO_EARLIER_RUN
        try:
            events = await self._journal.events(request.rerun_of)
        except (UnknownRunError, UnreadableRunError):
            return NO_EARLIER_RUN
        return EarlierRun(
            run_id=request.rerun_of,
            results=earlier_results(events),
            redo=frozenset(request.redo),
        )

    async def known(self, order: Order) -> RunState | None:
        """Return where the run stands that was started by an order with the same key.

        Raises:
            RequestError: that was another order.
        """
        run_id = order.idempotency_key and await self._journal.run_with(order.idempotency_key)
        if not run_id:
            return None
        state = await self.get(run_id)
        check_same(state, order)
        return state

    @property
    def _queues(self) -> bool:
        """Tell whether runs are left to whoever has room."""
        here, in_all = self._policy.runs_here, self._policy.runs_in_all
        return in_all is not None or (here is not None and len(self._live) >= here)

    @property
    def load(self) -> int:
        """Return how many runs this process drives."""
        return len(self._live)

    async def lead(self) -> int:
        """Return how many runs more this process drives than the least busy other that could."""
        least = await self._journal.least_load()
        return 0 if least is None else max(0, self.load - least)

    async def room(self) -> None:
        """Return when this process has room for another run."""
        if self._policy.runs_here is not None:
            await self._live.fewer_than(self._policy.runs_here)

    async def news(self) -> None:
        """Return when there may be a run to be taken up."""
        await self._journal.changed_elsewhere()

    async def resume(self, run_id: str, *, by: str, here: bool = False) -> RunState:
        """Have a run go on that was interrupted, or that ended without success; return at once.

        One that is under way, here or elsewhere, or has succeeded, is left as it is. Where
        there is no room it is queued, unless it has to go on `here`.

        Raises:
            RequestError: it cannot go on.
            UnknownRunError: there is no run of that id.
            StoreError: the journal cannot be written, so nothing was started.
        """
        state = await self.get(run_id)
        queued = self._queues and not here
        waits = state.status == "queued" and not queued
        if state.status == "succeeded" or not (state.still or waits):
            return state
        check_resumable(state, self._setup)
        row = await self._journal.row(run_id)
        events = await self._journal.events(run_id)
        documents = {item.name: item for item in await self._reader.documents_of(state.request)}
        earlier = await self._earlier(state.request)
        if (live := self._live.get(run_id)) is not None:
            return live.state.shown()
        event = RunResumed(
            name=f"run/resume/{row.epoch + 1}", at=time.time(), epoch=row.epoch + 1, by=by
        )
        live = LiveRun(fold(run_id, [*events, event], alive=True), epoch=event.epoch)
        most = self._policy.runs_in_all

        async def commit() -> None:
            await self._journal.take_over(run_id, event, epoch=event.epoch, most=most)

        try:
            if queued:
                await self._journal.take_over(run_id, event, epoch=event.epoch, queued=True)
                return await self.get(run_id)
            await self._live.begin(live, documents, commit, earlier=earlier)
        except LostRunError:
            return await self.get(run_id)
        return live.state.shown()

    async def orphans(self) -> Sequence[RunRow]:
        """Return the runs that have not ended and that no process drives, oldest first."""
        rows = await self._journal.unfinished()
        return [row for row in rows if self._live.get(row.run_id) is None]

    async def get(self, run_id: str) -> RunState:
        """Return where a run stands.

        Raises:
            UnknownRunError: there is none of that id.
        """
        if (state := self._live.known(run_id)) is not None:
            return state.shown()
        row = await self._journal.row(run_id)
        return _folded(row, await self._journal.events(run_id)).shown()

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
                    await self._journal.changed_elsewhere(run_id)

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
            await self._live.stop(live, event)
        elif state.status != "queued" or not await self._cancel_queued(state, event):
            await self._journal.request_cancel(run_id, event)
        return await self.wait(run_id, seconds=CANCEL_SECONDS)

    async def _cancel_queued(self, state: RunState, event: CancelRequested) -> bool:
        """End a run that nobody drives; tell whether nobody was faster to take it up."""
        row = await self._journal.row(state.run_id)
        epoch = row.epoch + 1
        try:
            await self._journal.take_over(state.run_id, event, epoch=epoch)
            state = _folded(row, await self._journal.events(state.run_id))
            for end in ends.cancelled(state):
                await self._journal.append(state.run_id, end, epoch=epoch)
        except LostRunError:
            return False
        return True

    async def recent(self, limit: int = 20) -> RecentRuns:
        """Return the latest runs, without the texts of what was said in them."""
        states: list[RunState] = []
        unreadable: list[str] = []
        for row in await self._journal.recent(limit):
            try:
                state = self._live.known(row.run_id) or await self._outline(row)
                states.append(state.shown())
            except UnreadableRunError as exc:
                unreadable.append(str(exc))
        return RecentRuns(states=tuple(states), unreadable=tuple(unreadable))

    async def _outline(self, row: RunRow) -> RunState:
        return _folded(row, await self._journal.events(row.run_id, light=True))

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

    async def delete(self, run_id: str) -> None:
        """Delete a run with all that is known of it.

        Raises:
            UnknownRunError: there is none of that id.
            BusyRunError: it is under way.
        """
        await self._journal.delete([run_id])

    async def prune(self, retention: Retention) -> Sequence[StoredRun]:
        """Delete the runs that are not to be kept, and return what they were."""
        surplus = retention.surplus(await self._journal.stock(), now=time.time())
        if surplus:
            await self._journal.delete([run.run_id for run in surplus])
        return surplus

    async def trace(self, run_id: str) -> Span:
        """Return the run as a tree of spans."""
        driven = self._live.get(run_id) is not None
        row = await self._journal.row(run_id)
        events = await self._journal.events(run_id)
        alive = driven or (row.alive and not row.mine)
        if fold(run_id, events, alive=alive).withheld:
            events = [event for event in events if isinstance(event, _OUTWARD)]
        return trace(run_id, events, alive=alive)


def _folded(row: RunRow, events: Sequence[Event]) -> RunState:
    """Return where a run stands that this process does not drive."""
    alive = row.alive and not row.mine
    return fold(row.run_id, events, alive=alive, waiting=row.waiting)


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
