"""The runs that this process drives, each in the background until it ends or is lost."""

import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from concertmaster.engine.approvals import Consents
from concertmaster.engine.concurrency import Changes
from concertmaster.engine.events import CancelRequested, Event, ToolAnswered
from concertmaster.engine.orchestrator import Orchestrator
from concertmaster.engine.replay import (
    NO_EARLIER_RUN,
    EarlierRun,
    FindOffers,
    Offer,
    no_offers,
    offers_of,
)
from concertmaster.engine.request import Approve, RunRequest
from concertmaster.engine.run import Run, Setup
from concertmaster.engine.steps import Steps
from concertmaster.errors import LostRunError, StoreError, UnknownRunError, UnreadableRunError
from concertmaster.llm.messages import Document
from concertmaster.runs import state as ends
from concertmaster.runs.intake import RunPolicy
from concertmaster.runs.state import RunState, fold
from concertmaster.store.journal import ANY_RUN, LIVENESS_SECONDS, Journal, Looking, RunRow, changed

log = logging.getLogger(__name__)

RETRY_SECONDS = 1
"""How often to try to let others have a run, and to look whether one has it."""


@dataclass(slots=True)
class _Given:
    state: RunState
    epoch: int
    mine: bool = True
    """Whether others still take this process for the one that drives it."""


class GivenUp:
    """Where runs stand of which the journal does not tell all, until somebody goes on with them.

    Each is let go as soon as that can be written, so that others can.
    """

    def __init__(self, journal: Journal, tasks: TaskGroup) -> None:
        self._journal = journal
        self._tasks = tasks
        self._runs: dict[str, _Given] = {}
        self._looked_after = False

    def known(self, run_id: str) -> RunState | None:
        """Return where a run stands, if it was given up."""
        given = self._runs.get(run_id)
        return given.state if given is not None else None

    def add(self, state: RunState, *, epoch: int) -> None:
        """Take in that a run was given up in one of its epochs."""
        self._runs[state.run_id] = _Given(state, epoch)
        if not self._looked_after:
            self._looked_after = True
            self._tasks.start_soon(self._look_after)

    def discard(self, run_id: str) -> None:
        """Take in that a run goes on, so that others tell where it stands."""
        self._runs.pop(run_id, None)

    async def _look_after(self) -> None:
        while self._runs:
            try:
                await self._let_go()
                await self._forget()
            except StoreError as exc:
                log.debug("still given up: %s", exc)
            await anyio.sleep(RETRY_SECONDS)
        self._looked_after = False

    async def _let_go(self) -> None:
        for run_id, given in list(self._runs.items()):
            if given.mine:
                await self._journal.let_go(run_id, epoch=given.epoch)
                given.mine = False

    async def _forget(self) -> None:
        """Forget the runs that somebody has gone on with or has deleted."""
        asked_about = dict(self._runs)
        standing = await self._journal.standing(asked_about)
        for run_id, given in asked_about.items():
            goes_on = run_id not in standing or standing[run_id].epoch != given.epoch
            # It may have gone on here meanwhile, and have been given up again.
            if goes_on and self._runs.get(run_id) is given:
                self.discard(run_id)


HOUR = 3600


def offers_for(state: RunState, journal: Journal, *, hours: float | None) -> FindOffers:
    """Return what finds results of the last `hours` for a run; without them, nothing."""
    return no_offers if hours is None else _Offers(state, journal, hours=hours).find


class _Offers:
    """What the other runs of a principal have for one of them."""

    def __init__(self, state: RunState, journal: Journal, *, hours: float) -> None:
        self._state = state
        self._journal = journal
        self._seconds = hours * HOUR

    async def find(self, fingerprint: str, /) -> Sequence[Offer]:
        """Return what there is for work with a fingerprint, the latest first."""
        since = time.time() - self._seconds
        principal = self._state.principal
        run_ids = await self._journal.offering(fingerprint, principal=principal, since=since)
        others = [run_id for run_id in run_ids if run_id != self._state.run_id]
        found = [(await self._of(run_id)).get(fingerprint) for run_id in others]
        return [offer for offer in found if offer is not None]

    async def _of(self, run_id: str) -> Mapping[str, Offer]:
        try:
            return offers_of(run_id, await self._journal.events(run_id))
        except (UnknownRunError, UnreadableRunError):
            return {}


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


@dataclass(frozen=True, slots=True)
class Room:
    """What there is room for in this process."""

    journal: Journal
    live: LiveRuns
    policy: RunPolicy

    @property
    def load(self) -> int:
        """Return how many runs this process drives."""
        return len(self.live)

    @property
    def queues(self) -> bool:
        """Tell whether runs are left to whoever has room."""
        here, in_all = self.policy.runs_here, self.policy.runs_in_all
        return in_all is not None or (here is not None and self.load >= here)

    async def free(self) -> None:
        """Return when this process has room for another run."""
        if self.policy.runs_here is not None:
            await self.live.fewer_than(self.policy.runs_here)

    async def idle(self) -> None:
        """Return when this process drives no run."""
        await self.live.fewer_than(1)

    async def news(self) -> None:
        """Return when there may be a run to be taken up."""
        await self.journal.changed_elsewhere()

    async def lead(self) -> int:
        """Return how many runs more this process drives than the least busy other that could."""
        least = await self.journal.least_load()
        return 0 if least is None else max(0, self.load - least)

    async def cancelled(self, before: RunState, event: CancelRequested) -> bool:
        """End a run that nobody drives; tell whether nobody was faster to take it up."""
        run_id = before.run_id
        epoch = (await self.journal.row(run_id)).epoch + 1
        try:
            with anyio.CancelScope(shield=True):
                await self.journal.take_over(run_id, event, epoch=epoch)
        except LostRunError:
            return False
        try:
            # Read only now that nobody else can write to it any more.
            state = fold(run_id, await self.journal.events(run_id), alive=False)
            for end in ends.cancelled(state):
                await self.journal.append(run_id, end, epoch=epoch)
        except BaseException:
            before.apply(event)
            self.live.leave_to_others(before, epoch=epoch)
            raise
        self.live.leave_to_journal(run_id)
        return True


LATEST = 20
"""How many runs a list of the latest has."""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """The runs that this process does not drive. The row of one differs once it has changed."""

    journal: Journal
    live: LiveRuns

    async def changed(self) -> None:
        """Return when a run may have changed, and in any case before long."""
        await changed(self.journal, ANY_RUN)

    async def rows(self, run_ids: Iterable[str]) -> list[RunRow]:
        """Return the rows of those of the runs that there are."""
        rows: list[RunRow] = []
        for run_id in run_ids:
            with suppress(UnknownRunError):
                rows.append(await self.journal.row(run_id))
        return self._not_driven_here(rows)

    async def latest(self, principal: str | None) -> list[RunRow]:
        """Return the rows of the latest runs: of all, or of a principal's."""
        return self._not_driven_here(await self.journal.recent(LATEST, principal=principal))

    async def unfinished(self) -> list[RunRow]:
        """Return the runs that have not ended, oldest first; those driven by none are not alive."""
        rows = await self.journal.unfinished()
        return [
            # Of its own runs, this process may have given some up.
            replace(row, alive=self.live.get(row.run_id) is not None) if row.mine else row
            for row in rows
        ]

    def _not_driven_here(self, rows: Iterable[RunRow]) -> list[RunRow]:
        return [row for row in rows if self.live.get(row.run_id) is None]
