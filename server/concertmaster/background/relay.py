"""What a front end does: it copies bytes between its client and a background server.

It knows nothing of MCP, so whatever a client and the server have to say to each other passes, in
every version of the protocol. Blocking calls, because they need nothing that takes time to import.
"""

import os
import signal
import socket
import threading
from contextlib import suppress

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
