"""Looking time and again at a store that others change, and that may fail for a while."""

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

from concertmaster.errors import StoreError
from concertmaster.store.journal import Journal

log = logging.getLogger(__name__)

LIVENESS_SECONDS = 1
"""How often to look whether the process of a run is still there."""


async def changed(journal: Journal, run_id: str = "") -> None:
    """Return when another process may have done something to a run, in any case before long.

    Which runs are meant by what id is said at the journal's `changed_elsewhere`.

    Raises:
        StoreError: the store cannot be read.
    """
    # Bounded, because the death of a run's process changes nothing in the store, and what
    # changes between two calls goes unnoticed.
    with anyio.move_on_after(LIVENESS_SECONDS):
        await journal.changed_elsewhere(run_id)


class Looking:
    """Lets blocks fail for want of the store, as those do that look at it time and again."""

    def __init__(self, *, pause: float) -> None:
        """After a block has failed, wait for so many seconds."""
        self._pause = pause
        self._told = ""

    @asynccontextmanager
    async def once_more(self) -> AsyncGenerator[None]:
        """Let the block fail; why it does is told once, and not each time."""
        try:
            yield
        except StoreError as exc:
            if str(exc) != self._told:
                log.warning("store not looked at: %s", exc)
            self._told = str(exc)
            log.debug("store not looked at", exc_info=True)
            await anyio.sleep(self._pause)
        else:
            self._told = ""
