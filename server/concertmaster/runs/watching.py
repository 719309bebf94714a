"""Where a run stands, now and at each change, whichever process drives it."""

import anyio

from concertmaster.runs.live import LIVENESS_SECONDS, LiveRuns
from concertmaster.runs.recent import recent_runs, state_elsewhere
from concertmaster.runs.state import RecentRuns, RunState
from concertmaster.store.journal import Journal


class Watching:
    """Tells where the runs of a store stand, without what is withheld of them."""

    def __init__(self, journal: Journal, live: LiveRuns) -> None:
        self._journal = journal
        self._live = live

    async def get(self, run_id: str) -> RunState:
        """Return where a run stands, or raise UnknownRunError."""
        if (state := self._live.known(run_id)) is None:
            found = await state_elsewhere(self._journal, run_id)
            # It may have been taken up here meanwhile, of which the journal knows nothing.
            state = self._live.known(run_id) or found
        return state.shown()

    async def wait(self, run_id: str, *, seconds: float) -> RunState:
        """Return where a run stands once nobody drives it any more, or `seconds` have passed."""
        state = await self.get(run_id)
        with anyio.move_on_after(seconds):
            while not state.still:
                state = await self._next(run_id, state.events)
            return state
        return await self.get(run_id)

    async def wait_for_change(self, run_id: str, *, seen: int, seconds: float) -> RunState:
        """Return where a run stands once it has other than `seen` events, or time has passed."""
        with anyio.move_on_after(seconds):
            return await self._next(run_id, seen)
        return await self.get(run_id)

    async def _next(self, run_id: str, seen: int) -> RunState:
        while True:
            live = self._live.get(run_id)
            changed = live.changes.next if live is not None else None
            state = await self.get(run_id)
            if state.events != seen or state.still:
                return state
            if changed is not None:
                await changed.wait()
            else:
                # Bounded, because the death of the run's process changes nothing in the store.
                with anyio.move_on_after(LIVENESS_SECONDS):
                    await self._journal.changed_elsewhere(run_id)

    async def recent(self, limit: int, *, principal: str | None) -> RecentRuns:
        """Return the latest runs, all or a principal's, without what was said in them."""
        return await recent_runs(self._journal, self._live.known, limit=limit, principal=principal)
