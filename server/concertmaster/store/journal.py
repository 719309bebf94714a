"""What a store of runs has to offer. The journal of a run is its only truth."""

import logging
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import anyio

from concertmaster.engine.events import Event, ToolAnswered
from concertmaster.errors import StoreError, UnreadableRunError

MOST_OFFERING = 3
"""How many runs are looked into for a result that another may take over."""

ROUNDING_USD = 1e-9
"""By how much sums of the same amounts may differ."""

ANY_RUN = "*"
"""Stands for the id of each run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """What a store knows of a run besides its events."""

    run_id: str
    created_at: float
    epoch: int
    """Grows each time another process takes the run over; writes with an old one are refused."""
    alive: bool
    """Whether the process that owns the run still exists."""
    mine: bool
    """Whether that process is this one."""
    principal: str = ""
    """Whom the run belongs to, on a server that several people use."""
    queued: bool = False
    """Whether it belongs to nobody, and waits for a process that has room."""
    attended: bool = False
    """Whether a process is there that goes on with runs whose own has died."""
    last: int = 0
    """Another one after each event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrincipalUsage:
    """What the runs of a principal use, in all processes."""

    runs: int
    """Runs that are queued or under way."""
    reserved_usd: float
    """What the runs that have not ended may still spend of their budgets."""
    spent_usd: float
    """What model calls have cost since the time asked about."""
    spent_before_usd: float = 0.0
    """What the run that was left out of `runs` and `reserved_usd` has cost so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """A condition for beginning or resuming a run: the limits of its principal have room for it."""

    principal: str
    budget_usd: float
    """What the run may spend in all."""
    since: float
    """From when on spending counts."""
    most_runs: int | None = None
    """Runs that are queued or under way, this one included."""
    most_usd: float | None = None
    """What may be spent since then and reserved, this run included."""

    def fits(self, used: PrincipalUsage) -> bool:
        """Tell whether there is room, given what the other runs of the principal use."""
        more = max(0.0, self.budget_usd - used.spent_before_usd)
        total = used.spent_usd + used.reserved_usd + more
        return (self.most_runs is None or used.runs < self.most_runs) and (
            self.most_usd is None or total <= self.most_usd + ROUNDING_USD
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What the process that drives a run has to know of it."""

    epoch: int
    """Another one than its own, if the run was taken over."""
    cancel_requested: str | None
    """Why the run is to stop, if somebody has asked for that in this epoch."""
    answers: tuple[ToolAnswered, ...] = ()
    """What people have said in this epoch to tool calls that somebody has to agree to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """What is kept of a run."""

    run_id: str
    created_at: float
    size: int
    """Bytes of its events and of the texts that they refer to."""
    busy: bool
    """Whether it is under way."""


Outline = Sequence[Event] | UnreadableRunError
"""Events, or why they cannot be read."""


class Journal(Protocol):
    """Keeps the events of runs, and the texts that they refer to.

    Events are given and returned whole, however their own long texts are kept.

    Every method may raise StoreError, with a sentence that says what to do.
    """

    async def create(
        self,
        run_id: str,
        event: Event,
        texts: Mapping[str, str],
        *,
        key: str = "",
        queued: bool = False,
        reservation: Reservation | None = None,
    ) -> None:
        """Commit a new run, owned by this process at epoch 1, with its first event.

        A `queued` one belongs to nobody. `texts` are kept by digest; those already known are
        left as they are. With a `reservation`, the limits of the principal are checked in the same
        transaction, so that they hold for all processes together.

        Raises:
            ReservationError: the principal's limits have no room for the run.
            UsedKeyError: another run has the idempotency key `key`.
        """
        ...

    async def run_with(self, key: str) -> str | None:
        """Return the id of the run that has an idempotency key, if there is one."""
        ...

    async def append(self, run_id: str, event: Event, *, epoch: int, wait: bool = True) -> None:
        """Commit an event, in the order of the calls; without `wait`, return before that.

        Raises:
            LostRunError: the run's epoch is another one by now.
        """
        ...

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
        """Commit the event that begins the epoch `epoch` of a run, which this process owns then.

        Only the process that owned it, one that outlives it, or whoever finds it ended or
        queued can; of several that try at once, one. `queued`, it belongs to nobody then.

        Raises:
            ReservationError: the principal's limits have no room for the run.
            LostRunError: the process that owns it is at work on it, or another was faster, or
                `most` runs are under way already.
        """
        ...

    async def let_go(self, run_id: str, *, epoch: int) -> None:
        """Own a run no more that is still in this epoch, as if this process had died."""
        ...

    async def tell(self, run_id: str, event: Event) -> None:
        """Commit an event on behalf of a process that does not own the run."""
        ...

    async def row(self, run_id: str) -> RunRow:
        """Return what is known of a run.

        Raises:
            UnknownRunError: there is none of that id.
        """
        ...

    async def recent(self, limit: int, *, principal: str | None = None) -> Sequence[RunRow]:
        """Return the latest runs, newest first: all, or those of one principal."""
        ...

    async def usage_of(self, principal: str, *, since: float, without: str = "") -> PrincipalUsage:
        """Return what the runs of a principal use, `without` one of them."""
        ...

    async def unfinished(self) -> Sequence[RunRow]:
        """Return the runs that have not ended, oldest first."""
        ...

    async def least_load(self) -> int | None:
        """Return how many runs the least busy of the other processes has that take runs up.

        None, if there is no other, or if the store does not know.
        """
        ...

    async def offering(self, fingerprint: str, *, principal: str, since: float) -> Sequence[str]:
        """Return the runs of a principal that have had a result for others since a time.

        It is of work with this fingerprint. The latest come first, and not all of many.
        """
        ...

    async def standing(self, run_ids: Collection[str]) -> Mapping[str, Standing]:
        """Return how those of the runs stand that there are."""
        ...

    async def events(self, run_id: str) -> Sequence[Event]:
        """Return the events of a run in order.

        Raises:
            UnknownRunError: there is no run of that id.
        """
        ...

    async def outlines(self, run_ids: Collection[str]) -> Mapping[str, Outline]:
        """Return the events of each of the runs in order, without what was said in them.

        Replies have no text, results and answers no long ones, and tool calls are left out.
        """
        ...

    async def text(self, digest: str) -> str:
        """Return the text with this digest."""
        ...

    async def stock(self) -> Sequence[StoredRun]:
        """Return what is kept of each run, newest first."""
        ...

    async def delete(self, run_ids: Sequence[str]) -> None:
        """Delete runs, and the texts that no other run refers to; all of them or none.

        Where there is no space for that, they are deleted one by one.

        Raises:
            UnknownRunError: there is none of one of the ids.
            BusyRunError: one of them is under way.
        """
        ...

    async def changed_elsewhere(self, run_id: str = "") -> None:
        """Return when another process has changed a run since the last such call began.

        With `ANY_RUN`, whichever it was. Without an id, when something may have come up for
        those who drive runs: one to be stopped, or to be taken up. Returning too early is no
        fault.
        """
        ...


log = logging.getLogger(__name__)

LIVENESS_SECONDS = 1
"""How often to look whether the process of a run is still there."""


async def changed(journal: Journal, run_id: str = "") -> None:
    """Return when another process may have done something to a run, in any case before long.

    Which runs are meant by what id is said at the journal's `changed_elsewhere`.

    Raises:
        StoreError: the store cannot be read.
    """
    # Bounded, because the death of a run's process changes nothing in the store, and what
    # changes between two calls goes unnoticed.
    with anyio.move_on_after(LIVENESS_SECONDS):
        await journal.changed_elsewhere(run_id)


class Looking:
    """Lets blocks fail for want of the store, as those do that look at it time and again."""

    def __init__(self, *, pause: float) -> None:
        """After a block has failed, wait for so many seconds."""
        self._pause = pause
        self._told = ""

    @asynccontextmanager
    async def once_more(self) -> AsyncGenerator[None]:
        """Let the block fail; why it does is told once, and not each time."""
        try:
            yield
        except StoreError as exc:
            if str(exc) != self._told:
                log.warning("store not looked at: %s", exc)
            self._told = str(exc)
            log.debug("store not looked at", exc_info=True)
            await anyio.sleep(self._pause)
        else:
            self._told = ""
