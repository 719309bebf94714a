"""The runs that this process drives, each in the background until it ends or is lost."""

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from concertmaster.engine.concurrency import Changes
from concertmaster.engine.consents import Consents
from concertmaster.engine.orchestration.orchestrator import Orchestrator
from concertmaster.engine.record.earlier import NO_EARLIER_RUN, EarlierRun
from concertmaster.engine.record.events import CancelRequested, Event, ToolAnswered
from concertmaster.engine.record.request import Approve, RunRequest
from concertmaster.engine.run import Run, Setup
from concertmaster.engine.steps import Steps
from concertmaster.errors import LostRunError, StoreError, UnknownRunError
from concertmaster.llm.protocol import Document
from concertmaster.runs import ends
from concertmaster.runs.given_up import GivenUp
from concertmaster.runs.reuse import offers_for
from concertmaster.runs.state import RunState, fold
from concertmaster.store.journal import Journal
from concertmaster.store.looking import LIVENESS_SECONDS, Looking, changed

log = logging.getLogger(__name__)

END_SECONDS = 2
"""How long a process that is about to end may take to write that a run was cancelled."""

_UNWRITABLE = (StoreError, UnknownRunError)
"""What the journal raises when it does not take an event of a run."""


_CLOCK_TOLERANCE_SECONDS = 1.0
"""A clock that is further off than this was set; one that is less so runs fast or slow."""


class _Clock:
    """Compares the clock of the machine with one that nobody sets."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def corrected(self, event: Event) -> Event:
        """Return an event of this moment that says how far the clock was set, if it was."""
        moved = time.time() - time.monotonic() - self._offset
        if abs(moved) <= _CLOCK_TOLERANCE_SECONDS:
            return event
        return event.model_copy(update={"clock_moved": moved})


class LiveRun:
    """A run that this process drives."""

    def __init__(self, state: RunState, *, epoch: int, approve: Approve = "never") -> None:
        """Take where it stands, and what approval its plan needs at least."""
        self.state = state
        self.epoch = epoch
        self._approve: Approve = approve
        self.scope = anyio.CancelScope()
        self.changes = Changes()
        self.clock = _Clock()
        self.consents = Consents()
        self.begun = False
        """Whether the journal has what this life of the run begins with."""

    def begin(self, recorded: Sequence[Event]) -> None:
        """Take in that this life has begun, and what the journal of a run that goes on has."""
        self.begun = True
        if recorded:
            cancel_requested = self.state.cancel_requested
            self.state = fold(self.state.run_id, recorded, alive=True)
            self.state.cancel_requested = self.state.cancel_requested or cancel_requested

    @property
    def request(self) -> RunRequest:
        """Return what is asked of the run in this life of it."""
        return self.state.request.with_approval(self._approve)


class LiveRuns:
    """Drives runs in the background, and knows where they stand before the journal does."""

    def __init__(
        self,
        *,
        journal: Journal,
        setup: Setup,
        tasks: TaskGroup,
        reuse_hours: float | None = None,
    ) -> None:
        """With `reuse_hours`, runs take over what others of their principal have had since."""
        self._brake = setup.brake
        self._journal = journal
        self._reuse_hours = reuse_hours
        self._orchestrator = Orchestrator(setup)
        self._tasks = tasks
        self._live: dict[str, LiveRun] = {}
        self._given_up = GivenUp(journal, tasks)
        self._listeners: list[Callable[[str], None]] = []
        self._watching_others = False
        self._ends = Changes()

    def __len__(self) -> int:
        """Return how many runs are driven here."""
        return len(self._live)

    async def fewer_than(self, most: int) -> None:
        """Return when fewer than so many runs are driven here."""
        while len(self._live) >= most:
            await self._ends.next.wait()

    def get(self, run_id: str) -> LiveRun | None:
        """Return a run that is driven here."""
        return self._live.get(run_id)

    async def released(self, run_id: str) -> None:
        """Return when a run that is to stop is not driven here any more."""
        while (live := self._live.get(run_id)) and live.state.cancel_requested is not None:
            await live.changes.next.wait()

    @property
    def states(self) -> tuple[RunState, ...]:
        """Return where the runs stand that are driven here."""
        return tuple(live.state for live in self._live.values())

    def known(self, run_id: str) -> RunState | None:
        """Return the state of a run that this process knows better than the journal."""
        live = self._live.get(run_id)
        return live.state if live is not None else self._given_up.known(run_id)

    def leave_to_journal(self, run_id: str) -> None:
        """Take in that the journal tells all of a run again, if it was given up here."""
        self._given_up.discard(run_id)

    def on_change(self, listener: Callable[[str], None]) -> None:
        """Have `listener` called with the run's id after each event of a run driven here."""
        self._listeners.append(listener)

    async def begin(
        self,
        live: LiveRun,
        documents: Mapping[str, Document],
        commit: Callable[[], Awaitable[None]],
        *,
        earlier: EarlierRun = NO_EARLIER_RUN,
    ) -> None:
        """Commit what a life of a run begins with, and drive the run from then on.

        Raises:
            StoreError: it cannot be committed, so nothing was begun.
        """
        run_id = live.state.run_id
        # From here on, because it is in the list of runs the moment it has been committed.
        self._live[run_id] = live

        async def append(event: Event, *, wait: bool = True) -> None:
            await self._append(live, event, wait=wait)

        try:
            recorded = await self._commit_beginning(live, commit)
        except BaseException:
            self._drop(live)
            # Whoever has found it here meanwhile looks again.
            live.changes.tell()
            raise
        self._given_up.discard(run_id)
        live.begin(recorded)
        self._notify(live)
        request = live.request
        steps = Steps(
            append, run_id=run_id, limits=request.limits, recorded=recorded, brake=self._brake
        )
        run = Run(
            request=request,
            documents=documents,
            steps=steps,
            earlier=earlier,
            offers=offers_for(live.state, self._journal, hours=self._reuse_hours),
            consents=live.consents,
        )
        self._tasks.start_soon(self._drive, live, run)
        if not self._watching_others:
            self._watching_others = True
            self._tasks.start_soon(self._watch_others)

    async def _commit_beginning(
        self, live: LiveRun, commit: Callable[[], Awaitable[None]]
    ) -> Sequence[Event]:
        """Return what the journal has of the run, now that nobody else can write to it."""
        # Whoever stops waiting for it would not know whether the run is this process's now.
        with anyio.CancelScope(shield=True):
            await commit()
        try:
            await anyio.lowlevel.checkpoint_if_cancelled()
            return await self._journal.events(live.state.run_id) if live.epoch > 1 else ()
        except BaseException:
            self.leave_to_others(live.state, epoch=live.epoch)
            raise

    def leave_to_others(self, state: RunState, *, epoch: int) -> None:
        """Own a run no more that this process has taken over and cannot go on with."""
        state.lose_process()
        self._given_up.add(state, epoch=epoch)

    async def stop(self, live: LiveRun, event: CancelRequested) -> None:
        """Have a run end, because of `event`."""
        # At once, since each moment may cost money, and the caller may not wait for the commit.
        self._take_in(live, event)
        live.scope.cancel()
        # That nothing can be written down any more comes out when the run ends.
        with suppress(*_UNWRITABLE):
            await self._journal.append(live.state.run_id, event, epoch=live.epoch)

    async def answer(self, run_id: str, event: ToolAnswered) -> None:
        """Let a run hear what somebody says to a call of a tool, wherever it is driven.

        Raises:
            StoreError: it cannot be written down, so the run does not hear of it.
        """
        await self._journal.tell(run_id, event)
        if run_id in self._live:
            # The journal has the answers of other processes too, and knows which was the first.
            await self._heed()

    async def _drive(self, live: LiveRun, run: Run) -> None:
        try:
            try:
                with live.scope:
                    await self._orchestrator.drive(run)
            except anyio.get_cancelled_exc_class():
                # This process ends too, but the run was asked to stop before.
                with anyio.move_on_after(END_SECONDS, shield=True):
                    await self._end_cancelled(live)
                raise
            await self._end_cancelled(live)
        except _UNWRITABLE as exc:
            self._give_up(live, exc)
        except Exception:
            log.exception("run broke", extra={"run": live.state.run_id})
            await self._end_broken(live)
        finally:
            if not live.state.still:
                live.state.lose_process()
            # Once it is over its journal tells all; only runs under way are kept in memory.
            self._drop(live)
            self._notify(live)

    async def _end_cancelled(self, live: LiveRun) -> None:
        """Write the end of a run that was asked to stop, if it has not got there by itself."""
        if live.state.cancel_requested is not None and not live.state.over:
            for event in list(ends.cancelled(live.state)):
                await self._append(live, event)

    def _drop(self, live: LiveRun) -> None:
        del self._live[live.state.run_id]
        self._ends.tell()

    async def _end_broken(self, live: LiveRun) -> None:
        try:
            await self._append(live, ends.broken())
        except _UNWRITABLE as exc:
            self._give_up(live, exc)

    def _give_up(self, live: LiveRun, error: StoreError | UnknownRunError) -> None:
        run_id = live.state.run_id
        log.error("run given up: %s", error, extra={"run": run_id})
        log.debug("run given up", exc_info=error, extra={"run": run_id})
        live.state.interrupt(f"The run was given up. {error}")
        # Of a run that another process has taken over, the journal tells all.
        if not isinstance(error, LostRunError):
            self._given_up.add(live.state, epoch=live.epoch)

    async def _append(self, live: LiveRun, event: Event, *, wait: bool = True) -> None:
        event = live.clock.corrected(event)
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

    def _take_in(self, live: LiveRun, event: Event) -> None:
        live.state.apply(event)
        self._notify(live)

    def _notify(self, live: LiveRun) -> None:
        live.changes.tell()
        for listener in self._listeners:
            listener(live.state.run_id)

    async def _watch_others(self) -> None:
        """Stop runs that another process has asked to stop or has taken over; hear answers."""
        looking = Looking(pause=LIVENESS_SECONDS)
        while self._live:
            async with looking.once_more():
                await changed(self._journal)
                await self._heed()
        self._watching_others = False

    async def _heed(self) -> None:
        begun = {live.state.run_id: live for live in self._live.values() if live.begun}
        for run_id, standing in (await self._journal.standing(begun)).items():
            live = begun[run_id]
            wanted = standing.cancel_requested
            if standing.epoch != live.epoch:
                # It must not cost anything more here.
                live.scope.cancel()
            elif wanted is not None and live.state.cancel_requested is None:
                live.state.cancel_requested = wanted
                live.scope.cancel()
            for answer in standing.answers:
                self._hear(live, answer)

    def _hear(self, live: LiveRun, answer: ToolAnswered) -> None:
        if answer.question_id in live.state.questions:
            self._take_in(live, answer)
            live.consents.answer(answer)
