"""Telling clients which resources of runs have changed, in the way of each protocol version."""

from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream
from mcp.server.connection import Connection
from mcp.server.context import ServerRequestContext
from mcp.server.subscriptions import ResourceUpdated, ServerEvent
from mcp.types import EmptyResult, SubscribeRequestParams, UnsubscribeRequestParams

from concertmaster.errors import ConcertmasterError
from concertmaster.protocol.bus import RunBus
from concertmaster.runs.state import RunState

if TYPE_CHECKING:
    # Imported when a run is first asked for: see ServiceOnDemand.
    from concertmaster.runs.service import RunService

KEPT_RUNS = 64
"""Of how many runs it is remembered what subscribers were told last."""

UNREAD = 256
"""How many changes may wait for a client; one that does not read misses those after."""

Work = Callable[[], Coroutine[Any, Any, None]]
"""What goes on beside requests."""

WatchNoMore = Callable[[], None]

Watch = Callable[[Sequence[str]], Awaitable[WatchNoMore]]
"""Has changes of resources published that other processes make, until its result is called."""

UPDATED = "notifications/resources/updated"


class RunUpdates:
    """Publishes which resources have changed, for the runs that a service drives."""

    def __init__(self, service: "RunService", bus: RunBus) -> None:
        self._service = service
        self._bus = bus
        self._changed: dict[str, None] = {}
        self._wake = anyio.Event()
        self._told: dict[str, dict[str, object]] = {}
        service.on_change(self._note)

    def _note(self, run_id: str) -> None:
        self._changed[run_id] = None
        self._wake.set()

    async def publish(self) -> NoReturn:
        """Publish changes as they come; several of one run at a time are one."""
        while True:
            await self._wake.wait()
            self._wake = anyio.Event()
            changed, self._changed = self._changed, {}
            for run_id in changed:
                await self.publish_run(run_id)

    async def publish_run(self, run_id: str) -> None:
        """Publish what of a run has changed since that was done last."""
        if (state := await self._state(run_id)) is None:
            return
        told = self._told.pop(run_id, {})
        self._told[run_id] = now = dict(versions(state))
        if len(self._told) > KEPT_RUNS:
            del self._told[next(iter(self._told))]
        for uri, version in now.items():
            if uri not in told or told[uri] != version:
                await self._bus.publish_to(state.principal, ResourceUpdated(uri=uri))

    async def note_run(self, run_id: str) -> None:
        """Take a run of which nothing was published yet as it is now, and publish nothing."""
        if run_id not in self._told and (state := await self._state(run_id)) is not None:
            self._told.setdefault(run_id, dict(versions(state)))

    async def _state(self, run_id: str) -> RunState | None:
        try:
            return await self._service.get(run_id)
        except ConcertmasterError:
            # Whoever reads a resource of the run is told why it cannot be read.
            return None


def versions(state: RunState) -> Iterator[tuple[str, object]]:
    """Yield each resource that tells of a run, with a value that differs when it does."""
    run = f"runs://{state.run_id}"
    yield "runs://recent", state.displayed_status
    yield run, (state.status, state.events)
    yield f"{run}/trace", state.events
    if state.plan is not None:
        yield f"{run}/plan", state.plan
    for subtask_id, item in state.subtasks.items():
        yield f"{run}/subtasks/{subtask_id}", (item.status, item.usage)
    if state.answer:
        yield f"{run}/answer", state.answer
        yield f"{run}/diff", state.ended_subtasks


class LegacySubscriptions:
    """`resources/subscribe`, with which clients listen before protocol version 2026-07-28."""

    def __init__(self, bus: RunBus, start_soon: Callable[[Work], None], watch: Watch) -> None:
        self._bus = bus
        self._start_soon = start_soon
        self._watch = watch

    async def subscribe(
        self, ctx: ServerRequestContext[Any, Any], params: SubscribeRequestParams
    ) -> EmptyResult:
        """Have the client told when a resource changes, as long as its connection lasts."""
        uri = str(params.uri)
        uris = self._uris(ctx)
        watch_no_more = await self._watch([uri])
        if uris.setdefault(uri, watch_no_more) is not watch_no_more:
            watch_no_more()
        return EmptyResult()

    async def unsubscribe(
        self, ctx: ServerRequestContext[Any, Any], params: UnsubscribeRequestParams
    ) -> EmptyResult:
        """Tell the client no more of a resource."""
        if (watch_no_more := self._uris(ctx).pop(str(params.uri), None)) is not None:
            watch_no_more()
        return EmptyResult()

    def _uris(self, ctx: ServerRequestContext[Any, Any]) -> dict[str, WatchNoMore]:
        # The SDK offers no other way to what outlasts a request.
        connection = ctx.session._connection  # pyright: ignore[reportPrivateUsage]
        uris: dict[str, WatchNoMore] | None = connection.state.get(UPDATED)
        if uris is None:
            uris = connection.state[UPDATED] = dict[str, WatchNoMore]()
            self._connect(connection, uris)
        return uris

    def _connect(self, connection: Connection, uris: dict[str, WatchNoMore]) -> None:
        sender, receiver = anyio.create_memory_object_stream[str](UNREAD)

        def note(event: ServerEvent) -> None:
            if isinstance(event, ResourceUpdated) and event.uri in uris:
                try:
                    sender.send_nowait(event.uri)
                except anyio.WouldBlock:
                    return

        connection.exit_stack.callback(sender.close)
        connection.exit_stack.callback(self._bus.subscribe(note))
        connection.exit_stack.callback(lambda: [end() for end in uris.values()])
        self._start_soon(lambda: _deliver(connection, receiver))


async def _deliver(connection: Connection, changed: MemoryObjectReceiveStream[str]) -> None:
    async with changed:
        async for uri in changed:
            await connection.notify(UPDATED, {"uri": uri})
