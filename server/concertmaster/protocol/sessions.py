"""MCP sessions side by side in one process, each over a stream of bytes, on one run service.

What is of a client is of its session alone: what it has subscribed to, which of its calls wait,
and that it has left. So no session ends another's calls, and runs go on without their clients.
"""

import sys
from collections.abc import Callable, Generator
from contextlib import AbstractAsyncContextManager, contextmanager

import anyio
from anyio.streams.buffered import BufferedByteStream
from anyio.streams.memory import MemoryObjectReceiveStream
from mcp.shared.message import SessionMessage
from mcp.types import jsonrpc_message_adapter

from concertmaster.engine.concurrency import Changes
from concertmaster.protocol.incoming import Item, mended
from concertmaster.protocol.on_demand import OpenService, ServiceOnDemand
from concertmaster.protocol.prompts import LoadJobs, no_jobs
from concertmaster.protocol.server import ConcertmasterServer, nothing
from concertmaster.protocol.state import ServerState


class Sessions:
    """The sessions of a process, and the runs that it drives for them."""

    def __init__(
        self,
        open_service: OpenService,
        load_jobs: LoadJobs = no_jobs,
        *,
        at_once: bool = False,
        keep_days: float | None = None,
        listed: Callable[[], object] = nothing,
    ) -> None:
        self._listed = listed
        self._service = ServiceOnDemand(open_service, at_once=at_once)
        self._load_jobs = load_jobs
        self._keep_days = keep_days
        self._open: set[ServerState] = set()
        self._changes = Changes()

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        """Keep the run service open, once it is, for as long as there may be sessions."""
        return self._service.lifespan()

    def __len__(self) -> int:
        """Return how many sessions there are."""
        return len(self._open)

    @property
    def runs_under_way(self) -> int:
        """Return how many runs this process drives."""
        return self._service.runs_under_way

    @contextmanager
    def join(self) -> Generator["Session"]:
        """Yield a session that there is for as long as the block lasts."""
        state = ServerState(self._service, shares_service=True)
        server = ConcertmasterServer(
            state, self._load_jobs, keep_days=self._keep_days, listed=self._listed
        )
        self._open.add(state)
        self._changes.tell()
        try:
            yield Session(server)
        finally:
            self._open.discard(state)
            self._changes.tell()

    def end(self) -> None:
        """Let calls that wait for a run return at once, and leave the runs to be resumed."""
        for state in self._open:
            state.end()

    async def idle_for(self, seconds: float) -> None:
        """Return once there has been neither a session nor a run for so long."""
        while True:
            await self._idle()
            with anyio.move_on_after(seconds):
                await self._changes.next.wait()
                continue
            # The time may be up at the moment a client comes, and without one a run that another
            # process has left may have been taken up.
            if not self._busy:
                return

    @property
    def _busy(self) -> bool:
        return bool(self._open or self.runs_under_way)

    async def _idle(self) -> None:
        while self._busy:
            if self._open:
                await self._changes.next.wait()
            else:
                await self._service.idle()


class Session:
    """One client's session."""

    def __init__(self, server: ConcertmasterServer) -> None:
        self._server = server

    async def serve(self, stream: BufferedByteStream) -> None:
        """Serve the client at the other end of a stream until it leaves; its runs go on."""
        sender, messages = anyio.create_memory_object_stream[SessionMessage]()
        async with anyio.create_task_group() as tasks:
            lines = _Lines(stream, at_end=self._server.state.leave)
            tasks.start_soon(self._write, messages, stream, tasks.cancel_scope)
            await self._server.serve_session(lines, sender)

    async def _write(
        self,
        messages: MemoryObjectReceiveStream[SessionMessage],
        stream: BufferedByteStream,
        session: anyio.CancelScope,
    ) -> None:
        try:
            async with messages:
                async for item in messages:
                    text = item.message.model_dump_json(by_alias=True, exclude_unset=True)
                    await stream.send(f"{text}\n".encode())
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            # Said first, or its calls would be taken for cancelled by it.
            self._server.state.leave()
            session.cancel()


class _Lines:
    """The messages that a client sends, a line each."""

    def __init__(self, stream: BufferedByteStream, *, at_end: Callable[[], None]) -> None:
        self._stream = stream
        self._at_end = at_end

    async def receive(self) -> Item:
        """Return the next message, or why a line is none."""
        line = b""
        while not line.strip():
            line = await self._line()
        text = mended(line.decode("utf-8", errors="replace"))
        try:
            return SessionMessage(jsonrpc_message_adapter.validate_json(text, by_name=False))
        except ValueError as exc:
            return exc

    async def _line(self) -> bytes:
        try:
            return await self._stream.receive_until(b"\n", sys.maxsize)
        except (anyio.IncompleteRead, anyio.BrokenResourceError, anyio.ClosedResourceError):
            # What is left of a line that broke off is no message.
            self._at_end()
            raise anyio.EndOfStream from None

    async def aclose(self) -> None:
        """Do nothing: replies may still be on their way out by the same stream."""
