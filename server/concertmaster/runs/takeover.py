"""Runs that no process drives go on by themselves in a process that is alive and has room."""

import logging
import random
from typing import NoReturn

import anyio

from concertmaster.errors import ConcertmasterError, StoreError
from concertmaster.runs.journal import RunRow
from concertmaster.runs.service import RunService
from concertmaster.runs.state import RunState

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
"""How often to look for such runs, since the death of a process is no news."""

PACE_SECONDS = 0.01
"""How much longer a process takes to reach for a run for each that it drives already."""


class Takeover:
    """Has interrupted and queued runs go on, but for those that were to stop.

    Those that have been cut off time and again are left alone: they may be the reason.
    """

    def __init__(self, service: RunService, *, by: str) -> None:
        self._service = service
        self._by = by
        self._left_alone: set[tuple[str, int]] = set()
        """Runs by id and epoch."""

    async def keep_on(self) -> NoReturn:
        """Look for such runs again and again, until cancelled."""
        while True:
            try:
                await self.look()
                with anyio.move_on_after(LOOK_SECONDS):
                    await self._service.news()
            except StoreError as exc:
                log.warning("store not looked at: %s", exc)
                log.debug("store not looked at", exc_info=True)
                await anyio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Have the runs go on that nobody drives now, as far as there is room."""
        looking = True
        while looking:
            await self._service.room()
            # The more a process has to do, the longer it waits for others to be faster.
            await anyio.sleep(random.uniform(0.5, 1) * PACE_SECONDS * self._service.load)  # noqa: S311
            looking = await self._take_up_one()

    async def _take_up_one(self) -> bool:
        """Have the oldest of the runs go on that can; tell whether there may be others."""
        for row in await self._service.orphans():
            if (row.run_id, row.epoch) in self._left_alone:
                continue
            if (state := await self._taken_up(row)) is not None:
                # It waits still if there are as many under way as may be in all.
                return state.status not in ("queued", "interrupted")
            # Said once, and not each time.
            self._left_alone.add((row.run_id, row.epoch))
        return False

    async def _taken_up(self, row: RunRow) -> RunState | None:
        """Return where a run stands once it goes on, or nothing if it should not or cannot."""
        try:
            state = await self._service.get(row.run_id)
            if state.cancel_requested is None and row.trusted:
                return await self._service.resume(row.run_id, by=self._by, here=True)
        except StoreError:
            raise
        except ConcertmasterError as exc:
            log.warning("run not resumed: %s", exc, extra={"run": row.run_id})
        return None
