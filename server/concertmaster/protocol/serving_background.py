"""Serving MCP to the front ends of this user that connect, until nobody has needed it for long."""

import logging
import os
import secrets
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import anyio
from anyio.abc import Listener, SocketAttribute, SocketStream
from anyio.streams.buffered import BufferedByteStream

from concertmaster import __version__
from concertmaster.background.files import Record, ServerFiles
from concertmaster.background.handshake import HANDSHAKE_SECONDS, Report, admit, tell
from concertmaster.errors import BackgroundError
from concertmaster.protocol.serving import Ending
from concertmaster.protocol.sessions import Sessions

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
