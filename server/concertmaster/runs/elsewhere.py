"""What other processes do to the runs in a store, for those who watch them here."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

from concertmaster.errors import UnknownRunError
from concertmaster.runs.live import LiveRuns
from concertmaster.store.journal import ANY_RUN, Journal, RunRow
from concertmaster.store.looking import changed

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
