"""Runs that no process drives go on by themselves in a process that is alive and has room."""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import count
from typing import NoReturn

import anyio

from concertmaster.errors import RequestError, StoreError, UnreadableRunError
from concertmaster.runs.service import RunService
from concertmaster.runs.state import RunState
from concertmaster.store.journal import Looking, RunRow


class Turns:
    """Lets principals take turns, so that many runs of one do not hold up the few of another."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._latest: dict[str, int] = {}
        """When each principal had its latest turn in this process."""

    def order(self, rows: Sequence[RunRow]) -> list[RunRow]:
        """Return the runs that no process drives, of all that have not ended, given by age.

        Who has the fewest under way comes first; of several, who has not had a turn for longest.
        """
        runs = Counter(row.principal for row in rows if row.alive)
        found: list[tuple[int, int, RunRow]] = []
        for row in rows:
            if not row.alive:
                runs[row.principal] += 1
                found.append((runs[row.principal], self._latest.get(row.principal, 0), row))
        return [row for *_, row in sorted(found, key=lambda item: item[:2])]

    def take(self, row: RunRow) -> None:
        """Take in that a run goes on here."""
        self._latest[row.principal] = next(self._numbers)


log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
"""How often to look for such runs, since the death of a process is no news."""

PACE_SECONDS = 0.05
"""How long a process leaves a run to others, for each run that it is ahead of one of them."""

MOST_PACE_SECONDS = 0.25
"""How long at most, because others may have no use for it."""

AWAY_SECONDS = 2
"""How long a store may take to answer that was not away meanwhile."""

RETURN_SECONDS = 5
"""How long other processes may take to say that they are alive once the store is back."""


class Takeover:
    """Has interrupted and queued runs go on, but for those that were to stop.

    Those that have been cut off time and again are left alone: they may be the reason.
    """

    def __init__(self, service: RunService, *, by: str) -> None:
        self._service = service
        self._by = by
        self._left_alone: set[tuple[str, int]] = set()
        """Runs by id and epoch."""
        self._troublesome: set[str] = set()
        """Runs at which the store failed: they come last, so that they keep no other waiting."""
        self._turns = Turns()
        self._away = False
        """Whether the store could not be asked the last time."""

    async def keep_on(self) -> NoReturn:
        """Look for such runs again and again, until cancelled."""
        looking = Looking(pause=LOOK_SECONDS)
        while True:
            async with looking.once_more():
                await self.look()
                with anyio.move_on_after(LOOK_SECONDS):
                    await self._service.room.news()

    async def look(self) -> None:
        """Have the runs go on that nobody drives now, as far as there is room."""
        looking = True
        while looking:
            await self._service.room.free()
            rows = self._turns.order(await self._unfinished())
            rows = [row for row in rows if (row.run_id, row.epoch) not in self._left_alone]
            rows.sort(key=lambda row: row.run_id in self._troublesome)
            if rows:
                pace = min(PACE_SECONDS * await self._service.room.lead(), MOST_PACE_SECONDS)
                await anyio.sleep(pace)
            looking = await self._take_up_one(rows)

    async def _unfinished(self) -> Sequence[RunRow]:
        """Return the runs that have not ended, and which of them nobody drives.

        A store that was away for a while takes whoever could not tell it otherwise for dead.
        """
        asked_at = anyio.current_time()
        try:
            rows = await self._service.elsewhere.unfinished()
        except StoreError:
            self._away = True
            raise
        if not self._away and anyio.current_time() - asked_at < AWAY_SECONDS:
            return rows
        await anyio.sleep(RETURN_SECONDS)
        self._away = False
        return await self._service.elsewhere.unfinished()

    async def _take_up_one(self, rows: Iterable[RunRow]) -> bool:
        """Have the first of the runs go on that can; tell whether there may be others."""
        for row in rows:
            if (state := await self._taken_up(row)) is not None:
                self._turns.take(row)
                # It waits still if there are as many under way as may be in all.
                return state.status not in ("queued", "interrupted")
            # Said once, and not each time.
            self._left_alone.add((row.run_id, row.epoch))
        return False

    async def _taken_up(self, row: RunRow) -> RunState | None:
        """Return where a run stands once it goes on, or nothing if it should not or cannot."""
        try:
            state = await self._service.get(row.run_id)
            if state.cancel_requested is not None:
                await self._service.end_cancelled(state)
            if state.cancel_requested is None and (row.queued or not state.left_alone):
                return await self._service.resume(row.run_id, by=self._by, here=True)
        except (RequestError, UnreadableRunError) as exc:
            log.warning("run not resumed: %s", exc, extra={"run": row.run_id})
        except StoreError:
            self._troublesome.add(row.run_id)
            raise
        return None
