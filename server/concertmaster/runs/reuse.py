"""Results of other runs, for one that needs the same work done."""

import time
from collections.abc import Mapping, Sequence

from concertmaster.engine.record.earlier import (
    FindOffers,
    Offer,
    no_offers,
    offers_of,
)
from concertmaster.errors import UnknownRunError, UnreadableRunError
from concertmaster.runs.state import RunState
from concertmaster.store.journal import Journal

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
