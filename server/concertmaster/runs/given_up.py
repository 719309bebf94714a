"""Runs that this process has given up, because their journal could not be written any more."""

import logging
from dataclasses import dataclass

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
