"""Telling clients which resources of runs have changed, in the way of each protocol version."""

from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream
from mcp.server.connection import Connection
from mcp.server.context import ServerRequestContext
from mcp.server.subscriptions import InMemorySubscriptionBus, ResourceUpdated, ServerEvent
from mcp.types import EmptyResult, SubscribeRequestParams, UnsubscribeRequestParams

from concertmaster.errors import ConcertmasterError
from concertmaster.runs.state import RunState
from concertmaster.store.journal import Looking

if TYPE_CHECKING:
    from concertmaster.runs.executor import Elsewhere
    from concertmaster.runs.service import RunService
    from concertmaster.store.journal import RunRow


class RunBus:
    """Tells listeners what has changed. One who is somebody hears of their own runs alone."""

    def __init__(self, whose: Callable[[], str | None]) -> None:
        """Take what says for whom a listener is being added; None is whoever may see all."""
        self._whose = whose
        self._listeners = defaultdict[str | None, InMemorySubscriptionBus](InMemorySubscriptionBus)

    def subscribe(self, listener: Callable[[ServerEvent], None]) -> Callable[[], None]:
        """Add a listener; what is returned removes it."""
        return self._listeners[self._whose()].subscribe(listener)

    async def publish(self, event: ServerEvent) -> None:
        """Tell everybody."""
        for listeners in list(self._listeners.values()):
            await listeners.publish(event)

    async def publish_to(self, principal: str | None, event: ServerEvent) -> None:
        """Tell those who may see the runs of a principal."""
        for whose in dict.fromkeys((None, principal)):
            if whose in self._listeners:
                await self._listeners[whose].publish(event)


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
