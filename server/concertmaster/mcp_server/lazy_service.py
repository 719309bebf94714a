"""The run service of a process, for any number of servers."""

import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

import anyio
from anyio.abc import TaskGroup, TaskStatus

from concertmaster.errors import ConcertmasterError
from concertmaster.mcp_server.subscriptions import (
    RUNS,
    OthersUpdates,
    RunBus,
    RunUpdates,
    WatchNoMore,
)

if TYPE_CHECKING:
    from concertmaster.runs.service import RunService


log = logging.getLogger(__name__)

OpenService = Callable[[], AbstractAsyncContextManager["RunService"]]
"""Opens the run service of a process."""


def nobody() -> None:
    """Return that the caller is nobody in particular, who may hear of all runs."""


class ServiceOnDemand:
    """A run service that is opened when it is first asked for, and what tells of its runs."""

    def __init__(
        self,
        open_service: OpenService,
        *,
        at_once: bool = False,
        whose: Callable[[], str | None] = nobody,
    ) -> None:
        """Take what says whose runs the caller may hear of; None stands for everybody's."""
        self.bus = RunBus(whose)
        """Tells what of runs has changed."""
        self._whose = whose
        self._open_service = open_service
        self._at_once = at_once
        self._opening = anyio.Lock()
        self._service: RunService | None = None
        self._others: OthersUpdates | None = None
        self._tasks: TaskGroup | None = None
        self._unneeded = anyio.Event()

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        """Keep the run service open, once it is, for as long as it may be asked for.

        However this ends, the service closes in its own time.
        """
        self._unneeded = anyio.Event()
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            if self._at_once:
                tasks.start_soon(self._open)
            try:
                yield
            finally:
                self._unneeded.set()
                tasks.cancel_scope.cancel()

    async def opened(self) -> "RunService":
        """Return the run service.

        Raises:
            ConcertmasterError: it cannot be opened, which is tried again with the next call.
        """
        async with self._opening:
            service = self._service
            if service is None:
                if self._tasks is None:
                    raise RuntimeError("the server is not in use")
                service = self._service = await self._tasks.start(self._keep_open)
            return service

    async def _open(self) -> None:
        try:
            await self.opened()
        except ConcertmasterError as exc:
            # Whoever calls next is told the same.
            log.warning("not opened: %s", exc)

    async def _keep_open(self, *, task_status: TaskStatus["RunService"]) -> None:
        try:
            with anyio.CancelScope() as scope:
                async with self._open_service() as service, anyio.create_task_group() as tasks:
                    # Runs live in it, and must not be cut off before their calls have ended.
                    scope.shield = True
                    updates = RunUpdates(service, self.bus)
                    self._others = OthersUpdates(service.elsewhere, updates, self.bus)
                    task_status.started(service)
                    tasks.start_soon(self._others.publish)
                    tasks.start_soon(updates.publish)
                    await self._unneeded.wait()
                    tasks.cancel_scope.cancel()
        finally:
            self._service = None

    async def watch(self, uris: Sequence[str]) -> WatchNoMore:
        """Have changes of resources published that other processes make.

        Raises:
            ConcertmasterError: the runs cannot be looked at.
        """
        if not any(uri.startswith(RUNS) for uri in uris):
            return lambda: None
        await self.opened()
        if self._others is None:
            raise RuntimeError("the run service is not open")
        return await self._others.watch(uris, whose=self._whose())

    @property
    def runs_under_way(self) -> int:
        """Return how many runs this process drives."""
        return 0 if self._service is None else self._service.room.load

    async def idle(self) -> None:
        """Return when this process drives no run."""
        if self._service is not None:
            await self._service.room.idle()
