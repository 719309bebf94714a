"""What a store of runs has to offer. The journal of a run is its only truth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from concertmaster.engine.record.events import Event


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
    principal: str
    """Whom the run belongs to, on a server that several people use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """What is kept of a run."""

    run_id: str
    created_at: float
    size: int
    """Bytes of its events and of the texts that they refer to."""
    busy: bool
    """Whether it is under way."""


class Journal(Protocol):
    """Keeps the events of runs, and the texts that they refer to.

    Every method may raise StoreError, with a sentence that says what to do.
    """

    async def create(
        self, run_id: str, event: Event, texts: Mapping[str, str], *, key: str = ""
    ) -> None:
        """Commit a new run, owned by this process at epoch 1, with its first event.

        `texts` are kept by digest; those already known are left as they are.

        Raises:
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

    async def take_over(self, run_id: str, event: Event, *, epoch: int) -> None:
        """Commit the event that begins the epoch `epoch` of a run, which this process owns then.

        Only the process that owned it, one that outlives it, or whoever finds it ended can;
        of several that try at once, one.

        Raises:
            LostRunError: the process that owns it is at work on it, or another was faster.
        """
        ...

    async def request_cancel(self, run_id: str, event: Event) -> None:
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

    async def spent(self, principal: str, *, since: float) -> float:
        """Return what the model calls of a principal's runs cost since a time, in USD."""
        ...

    async def unfinished(self) -> Sequence[RunRow]:
        """Return the runs that have not ended and whose process is dead, oldest first."""
        ...

    async def events(self, run_id: str, *, light: bool = False) -> Sequence[Event]:
        """Return the events of a run in order; `light` leaves out what was said in them.

        Raises:
            UnknownRunError: there is no run of that id.
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

        Raises:
            UnknownRunError: there is none of one of the ids.
            BusyRunError: one of them is under way.
        """
        ...

    async def changed_elsewhere(self) -> None:
        """Return when another process has committed something since the last call began."""
        ...
