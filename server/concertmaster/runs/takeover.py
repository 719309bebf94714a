"""Runs whose process has died go on by themselves in a process that is alive."""

import logging
from typing import NoReturn

import anyio

from concertmaster.errors import RequestError, StoreError, UnreadableRunError
from concertmaster.runs.service import RunService

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
"""How often to look for such runs."""

MOST_RESUMPTIONS = 3
"""How often a run may have gone on before it does so by itself no more."""


class Takeover:
    """Has interrupted runs go on, but for those that were to stop.

    Those that have been cut off time and again are left alone: they may be the reason.
    """

    def __init__(self, service: RunService, *, by: str) -> None:
        self._service = service
        self._by = by
        self._left_alone: set[str] = set()

    async def keep_on(self) -> NoReturn:
        """Look for such runs again and again, until cancelled."""
        while True:
            try:
                await self.look()
            except StoreError as exc:
                log.warning("store not looked at: %s", exc)
                log.debug("store not looked at", exc_info=True)
            await anyio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Have the runs go on that are interrupted now."""
        for run_id in await self._service.orphans():
            if run_id in self._left_alone:
                continue
            try:
                state = await self._service.get(run_id)
                if state.cancel_requested is None and state.resumed < MOST_RESUMPTIONS:
                    await self._service.resume(run_id, by=self._by)
                    continue
            except (RequestError, UnreadableRunError) as exc:
                log.warning("run not resumed: %s", exc, extra={"run": run_id})
            # Said once, and not each time.
            self._left_alone.add(run_id)
