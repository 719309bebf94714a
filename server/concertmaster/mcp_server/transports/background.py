"""Serving MCP to the front ends of this user that connect, until nobody has needed it for long."""

import logging
import os
import secrets
import sys
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager

import anyio
from anyio.abc import Listener, SocketAttribute, SocketStream
from anyio.streams.buffered import BufferedByteStream
from anyio.streams.memory import MemoryObjectReceiveStream
from mcp.shared.message import SessionMessage
from mcp.types import jsonrpc_message_adapter

from concertmaster import __version__
from concertmaster.background.files import Record, ServerFiles
from concertmaster.background.handshake import HANDSHAKE_SECONDS, Report, admit, tell
from concertmaster.engine.concurrency import Changes
from concertmaster.errors import BackgroundError
from concertmaster.mcp_server.context import ServerState
from concertmaster.mcp_server.incoming import Item, mended
from concertmaster.mcp_server.lazy_service import OpenService, ServiceOnDemand
from concertmaster.mcp_server.prompts import LoadJobs, no_jobs
from concertmaster.mcp_server.server import ConcertmasterServer, nothing
from concertmaster.mcp_server.transports.stdio import Ending


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


log = logging.getLogger(__name__)

SOCKET_PATH_BYTES = 100
"""How long the path of a socket may be: a little less than where systems draw the line."""

_NO_CALLER = (
    BackgroundError,
    TimeoutError,
    anyio.IncompleteRead,
    anyio.DelimiterNotFound,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
)
"""What comes of a connection by which nobody asks for anything, or not rightly."""


async def serve_background(
    sessions: Sessions,
    files: ServerFiles,
    *,
    idle_seconds: float,
    ready: Callable[[], object],
    drain_seconds: float = 0.0,
) -> int:
    """Serve until there has been no session and no run for so long, or somebody ends it.

    That is a caller or a signal. `ready` is called once front ends can connect. The run service
    may take `drain_seconds` longer to close than it usually does. Returns the exit status: 0, or
    128 plus the number of the signal.
    """
    ending = Ending(drain_seconds)

    async def stop() -> None:
        sessions.end()
        scope.cancel()

    with anyio.CancelScope() as scope:
        async with (
            sessions.lifespan(),
            ending.at_signal(stop),
            _listening(files) as (listener, record),
            anyio.create_task_group() as tasks,
        ):
            door = Door(sessions, record.secret)
            tasks.start_soon(listener.serve, door.answer, tasks)
            files.publish(record)
            log.info("ready")
            ready()
            await door.wanted_until(idle_seconds)
            # Nobody is to find the way to a server that is about to end.
            files.withdraw()
            ending.hurry()
            await stop()
    return ending.status


@asynccontextmanager
async def _listening(files: ServerFiles) -> AsyncGenerator[tuple[Listener[SocketStream], Record]]:
    """Listen where front ends of this user alone can connect, or can say who they are."""
    listener, record = await _listen(files)
    async with listener:
        try:
            yield listener, record
        finally:
            files.withdraw()


async def _listen(files: ServerFiles) -> tuple[Listener[SocketStream], Record]:
    secret = secrets.token_hex(32)
    if sys.platform != "win32" and len(os.fsencode(files.socket)) <= SOCKET_PATH_BYTES:
        try:
            listener = await anyio.create_unix_listener(files.socket, mode=0o600)
        except OSError as exc:
            # Not every file system has sockets.
            log.info("no socket: %s", exc)
        else:
            return listener, Record(pid=os.getpid(), socket=files.socket, secret=secret)
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra_attributes[SocketAttribute.local_port]()
    return listener, Record(pid=os.getpid(), port=port, secret=secret)


class Door:
    """Answers those who connect: with a session, with a report, or by ending the server."""

    def __init__(self, sessions: Sessions, secret: str) -> None:
        self._sessions = sessions
        self._secret = secret
        self._since = time.time()
        self._unwanted = anyio.Event()

    async def wanted_until(self, idle_seconds: float) -> None:
        """Return once the server has been idle for so long, or a caller wants it to end."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._unwanted_when_idle, idle_seconds)
            await self._unwanted.wait()
            tasks.cancel_scope.cancel()

    async def _unwanted_when_idle(self, seconds: float) -> None:
        await self._sessions.idle_for(seconds)
        log.info("nobody has needed this server for %g s", seconds)
        self._unwanted.set()

    async def answer(self, connection: SocketStream) -> None:
        """Do what a caller wants who knows the secret."""
        async with connection:
            stream = BufferedByteStream(connection)
            try:
                with anyio.fail_after(HANDSHAKE_SECONDS):
                    wish = await admit(stream, self._secret)
                if self._unwanted.is_set():
                    # Who is not told anything looks for another server.
                    return
                if wish == "session":
                    await self._serve(stream)
                    return
                await tell(stream, self._report())
                if wish == "end":
                    log.info("a caller wants this server to end")
                    self._unwanted.set()
            except _NO_CALLER as exc:
                log.info("not let in: %s", exc)

    async def _serve(self, stream: BufferedByteStream) -> None:
        with self._sessions.join() as session:
            # Told when the session counts already, or the server could end before it begins.
            await tell(stream, self._report())
            try:
                await session.serve(stream)
            except Exception:
                log.exception("a session failed")

    def _report(self) -> Report:
        return Report(
            pid=os.getpid(),
            version=__version__,
            since=self._since,
            sessions=len(self._sessions),
            runs=self._sessions.runs_under_way,
        )
