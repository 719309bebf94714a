"""Telling clients what other processes do to the runs that they watch."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

import anyio
from mcp.server.subscriptions import ResourceUpdated

from concertmaster.protocol.bus import RunBus
from concertmaster.protocol.subscriptions import RunUpdates, WatchNoMore
from concertmaster.store.looking import Looking

if TYPE_CHECKING:
    # Imported when a run is first asked for: see ServiceOnDemand.
    from concertmaster.runs.elsewhere import Elsewhere
    from concertmaster.store.journal import RunRow

RUNS = "runs://"
LATEST = "runs://recent"

PAUSE_SECONDS = 0.5
"""How long to let changes gather before they are looked at."""


def run_of(uri: str) -> str:
    """Return the id of the run that a resource tells of; empty, if it tells of no single one."""
    if not uri.startswith(RUNS) or uri == LATEST:
        return ""
    return uri.removeprefix(RUNS).partition("/")[0]


class OthersUpdates:
    """Publishes what other processes do to runs, as long as somebody watches those."""

    def __init__(self, elsewhere: "Elsewhere", updates: RunUpdates, bus: RunBus) -> None:
        self._elsewhere = elsewhere
        self._updates = updates
        self._bus = bus
        self._runs = Counter[str]()
        self._lists = Counter[str | None]()
        """By whose latest runs are watched; None stands for everybody's."""
        self._some = anyio.Event()
        self._looking = anyio.Lock()
        self._seen: dict[str, RunRow] = {}
        self._latest: dict[str | None, list[str]] = {}

    async def watch(self, uris: Sequence[str], *, whose: str | None) -> WatchNoMore:
        """Have changes of these published from now on, until what is returned is called.

        Raises:
            StoreError: the store cannot be read.
        """
        runs = Counter([run_id for uri in uris if (run_id := run_of(uri))])
        lists = Counter({whose: list(uris).count(LATEST)})

        def watch_no_more() -> None:
            self._runs -= runs
            self._lists -= lists
            if not (self._runs or self._lists):
                self._some = anyio.Event()

        if whose not in self._lists:
            self._latest.pop(whose, None)
        for run_id in runs.keys() - self._runs.keys():
            self._seen.pop(run_id, None)
        self._runs += runs
        self._lists += lists
        if self._runs or self._lists:
            try:
                await self._look()
            except BaseException:
                watch_no_more()
                raise
            self._some.set()
        return watch_no_more

    async def publish(self) -> NoReturn:
        """Publish changes as they come."""
        looking = Looking(pause=PAUSE_SECONDS)
        while True:
            await self._some.wait()
            async with looking.once_more():
                await self._elsewhere.changed()
                await self._look()
            await anyio.sleep(PAUSE_SECONDS)

    async def _look(self) -> None:
        """Publish what has changed; what is watched since just now is taken as it is."""
        async with self._looking:
            rows = {row.run_id: row for row in await self._elsewhere.rows(list(self._runs))}
            for run_id in rows.keys() - self._seen.keys():
                await self._updates.note_run(run_id)
            for whose in list(self._lists):
                rows |= await self._look_at_list(whose)
            for run_id, row in rows.items():
                if self._seen.get(run_id, row) != row:
                    await self._updates.publish_run(run_id)
            self._seen = rows

    async def _look_at_list(self, whose: str | None) -> dict[str, "RunRow"]:
        rows = {row.run_id: row for row in await self._elsewhere.latest(whose)}
        ids = list(rows)
        if self._latest.get(whose, ids) != ids:
            await self._bus.publish_to(whose, ResourceUpdated(uri=LATEST))
        self._latest[whose] = ids
        return rows
