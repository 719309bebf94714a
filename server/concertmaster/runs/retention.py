"""Which runs are kept, and for how long."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from concertmaster.errors import BusyRunError, UnknownRunError
from concertmaster.store.journal import Journal, StoredRun

DAY = 86_400
MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """What is kept of runs; without a bound, everything is."""

    days: float | None = None
    runs: int | None = None
    megabytes: float | None = None

    def surplus(self, stock: Iterable[StoredRun], *, now: float) -> list[StoredRun]:
        """Return what is not to be kept of `stock`, which has the newest runs first.

        What is under way is kept, whatever the bounds, and counts.
        """
        dropped: list[StoredRun] = []
        kept = size = 0
        for run in stock:
            if run.busy or self._has_room(run, kept=kept, size=size, now=now):
                kept += 1
                size += run.size
            else:
                dropped.append(run)
        return dropped

    def _has_room(self, run: StoredRun, *, kept: int, size: int, now: float) -> bool:
        return (
            (self.days is None or now - run.created_at <= self.days * DAY)
            and (self.runs is None or kept < self.runs)
            and (self.megabytes is None or size + run.size <= self.megabytes * MEGABYTE)
        )

    def __bool__(self) -> bool:
        """Tell whether there is any bound."""
        return self != KEEP_ALL


KEEP_ALL = Retention()


async def prune(journal: Journal, retention: Retention) -> Sequence[StoredRun]:
    """Delete the runs that are not to be kept, and return what they were."""
    while surplus := retention.surplus(await journal.stock(), now=time.time()):
        try:
            await journal.delete([run.run_id for run in surplus])
            return surplus
        except (UnknownRunError, BusyRunError):
            # Another process has deleted or taken up one of them meanwhile.
            continue
    return []
