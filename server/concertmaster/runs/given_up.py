"""Runs that this process has given up, because their journal could not be written any more."""

import logging
from dataclasses import dataclass, field

import anyio
from anyio.abc import TaskGroup

from concertmaster.errors import StoreError
from concertmaster.runs.state import RunState
from concertmaster.store.journal import Journal

log = logging.getLogger(__name__)

RETRY_SECONDS = 1
"""How often to try to let others have a run, and to look whether one has it."""


@dataclass(slots=True)
class _Given:
    state: RunState
    epoch: int
    mine: bool = True
    """Whether others still take this process for the one that drives it."""


@dataclass(frozen=True, slots=True)
class GivenUp:
    """Where runs stand of which the journal does not tell all, until somebody goes on with them.

    Each is let go as soon as that can be written, so that others can.
    """

    journal: Journal
    tasks: TaskGroup
    runs: dict[str, _Given] = field(default_factory=dict[str, _Given])

    def known(self, run_id: str) -> RunState | None:
        """Return where a run stands, if it was given up."""
        given = self.runs.get(run_id)
        return given.state if given is not None else None

    def add(self, state: RunState, *, epoch: int) -> None:
        """Take in that a run was given up in one of its epochs."""
        self.runs[state.run_id] = _Given(state, epoch)
        if len(self.runs) == 1:
            self.tasks.start_soon(self._look_after)

    def discard(self, run_id: str) -> None:
        """Take in that a run goes on, so that others tell where it stands."""
        self.runs.pop(run_id, None)

    async def _look_after(self) -> None:
        while self.runs:
            try:
                await self._let_go()
                await self._forget()
            except StoreError as exc:
                log.debug("still given up: %s", exc)
            await anyio.sleep(RETRY_SECONDS)

    async def _let_go(self) -> None:
        for run_id, given in list(self.runs.items()):
            if given.mine:
                await self.journal.let_go(run_id, epoch=given.epoch)
                given.mine = False

    async def _forget(self) -> None:
        """Forget the runs that somebody has gone on with or has deleted."""
        standing = await self.journal.standing(self.runs)
        for run_id, given in list(self.runs.items()):
            if run_id not in standing or standing[run_id].epoch != given.epoch:
                self.discard(run_id)
