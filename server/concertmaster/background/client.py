"""How a front end gets to its background server: found, or started on demand."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from concertmaster.background.files import START_SECONDS, Record, ServerFiles
from concertmaster.background.handshake import HANDSHAKE_SECONDS, Report, Wish, ask
from concertmaster.errors import BackgroundError

READY = "ready"
"""The last line that a server writes to its stdout, which it then closes."""

_LAUNCHER = "import subprocess, sys; subprocess.Popen(sys.argv[1:], stdin=0, stdout=1, stderr=2)"


@dataclass(frozen=True, slots=True)
class Answered:
    """A server that has answered."""

    connection: socket.socket
    report: Report


def call(files: ServerFiles, wish: Wish) -> Answered:
    """Connect to a server and ask it for something.

    Raises:
        BackgroundError: there is none, or it does not answer.
    """
    if not files.alive:
        raise BackgroundError("There is none.")
    record = files.record()
    with ExitStack() as undo:
        try:
            connection = undo.enter_context(_connected(record))
            report = ask(connection, record.secret, wish)
        except OSError as exc:
            raise BackgroundError(f"It does not answer: {exc.strerror or exc}.") from exc
        connection.settimeout(None)
        undo.pop_all()
        return Answered(connection, report)


def inquire(files: ServerFiles, wish: Wish) -> Report:
    """Ask a server for something that is no session, and return how it is.

    Raises:
        BackgroundError: there is none, or it does not answer.
    """
    answered = call(files, wish)
    answered.connection.close()
    return answered.report


def _connected(record: Record) -> socket.socket:
    if record.socket is not None and sys.platform != "win32":
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(HANDSHAKE_SECONDS)
        try:
            connection.connect(str(record.socket))
        except OSError:
            connection.close()
            raise
        return connection
    connection = socket.create_connection(("127.0.0.1", record.port or 0), HANDSHAKE_SECONDS)
    # Messages are small, and somebody waits for each.
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def reach(files: ServerFiles, command: Sequence[str]) -> socket.socket:
    """Return a connection to a server, which `command` starts if there is none.

    Raises:
        BackgroundError: it cannot be started, or does not answer.
    """
    with suppress(BackgroundError):
        return call(files, "session").connection
    with files.starting():
        # Another may have started it meanwhile.
        with suppress(BackgroundError):
            return call(files, "session").connection
        launch(command)
        return call(files, "session").connection


def launch(command: Sequence[str]) -> None:
    """Start a server that this process may leave behind; return when it is ready.

    It is a process without parent, since some clients end whatever descends from what they
    have started; and in a session of its own, since signals go to groups.

    Raises:
        BackgroundError: it does not get ready.
    """
    # Without site packages, because it only hands on what it was given.
    launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, *command]
    try:
        with _apart(launcher) as process:
            told, _ = process.communicate(timeout=START_SECONDS)
    except OSError as exc:
        raise BackgroundError(f"It cannot be started: {exc.strerror}.") from exc
    except subprocess.TimeoutExpired:
        raise BackgroundError(f"It was not ready after {START_SECONDS:g} s.") from None
    last = told.strip().rpartition("\n")[2]
    if last != READY:
        raise BackgroundError(last.removeprefix("Error: ") or "It has ended.")


def _apart(launcher: Sequence[str]) -> "subprocess.Popen[str]":
    def begin(flags: int = 0) -> "subprocess.Popen[str]":
        return subprocess.Popen(  # noqa: S603 - our own interpreter
            launcher,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
            creationflags=flags,
        )

    if sys.platform != "win32":
        return begin()
    flags = subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP
    try:
        return begin(flags | subprocess.CREATE_BREAKAWAY_FROM_JOB)
    except PermissionError:
        # The client has put us into a job that nothing gets out of.
        return begin(flags)


CHUNK_BYTES = 65_536

STDIN, STDOUT = 0, 1


def relay(connection: socket.socket) -> bool:
    """Copy from stdin to the server and from the server to stdout until either side leaves.

    Returns whether it was the client. A signal ends the process at once, for it holds nothing.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    client_left = threading.Event()

    def forward() -> None:
        while chunk := _read():
            try:
                connection.sendall(chunk)
            except OSError:
                # The server has ended, which the other direction notices too.
                return
        client_left.set()
        with suppress(OSError):
            # What the server has still to say may come.
            connection.shutdown(socket.SHUT_WR)

    # A thread that reads cannot be interrupted; this one dies with the process.
    threading.Thread(target=forward, name="stdin", daemon=True).start()
    try:
        while chunk := _received(connection):
            _write(chunk)
    except BrokenPipeError:
        return True
    return client_left.is_set()


def _read() -> bytes:
    try:
        return os.read(STDIN, CHUNK_BYTES)
    except OSError:
        # A terminal that has gone cannot be read.
        return b""


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(CHUNK_BYTES)
    except ConnectionError:
        return b""


def _write(chunk: bytes) -> None:
    rest = memoryview(chunk)
    while rest:
        rest = rest[os.write(STDOUT, rest) :]
