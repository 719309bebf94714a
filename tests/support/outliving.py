"""Background servers of a folder, and a provider that answers when it is let."""

import os
import signal
import tempfile
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from concertmaster.background.client import inquire
from concertmaster.background.files import ServerFiles, files_of_all
from concertmaster.background.handshake import Report
from concertmaster.errors import BackgroundError
from scripted_anthropic import whole

BACKGROUND = {
    "CONCERTMASTER_BACKGROUND": "true",
    "CONCERTMASTER_BACKGROUND_IDLE_SECONDS": "30",
}
"""The environment of a client's server that works in the background."""

END_SECONDS = 60


@contextmanager
def short_folder() -> Generator[Path]:
    """Yield a data folder with a path short enough for sockets; no server is left in it."""
    with tempfile.TemporaryDirectory(prefix="cm-") as name, cleared(Path(name) / "data") as folder:
        yield folder


@contextmanager
def cleared(folder: Path) -> Generator[Path]:
    """Yield a data folder in which no server is left at the end."""
    try:
        yield folder
    finally:
        for files in alive_in(folder):
            try:
                inquire(files, "end")
            except BackgroundError:
                os.kill(files.record().pid, signal.SIGKILL)
            wait_for_end(files)


def alive_in(folder: Path) -> list[ServerFiles]:
    """Return the files of the servers that are alive."""
    return [files for files in files_of_all(folder) if files.alive]


def report_in(folder: Path) -> Report:
    """Return how the one server is that is alive."""
    (files,) = alive_in(folder)
    return inquire(files, "report")


def wait_for_end(files: ServerFiles) -> None:
    """Return when a server has ended."""
    with files.living(seconds=END_SECONDS):
        return


class HeldProvider:
    """A provider whose answers come when they are released."""

    def __init__(self, address: str, released: threading.Event) -> None:
        self.settings = {"CONCERTMASTER_API_KEY": "no-key", "CONCERTMASTER_BASE_URL": address}
        """The environment that points to it."""
        self._released = released

    def release(self) -> None:
        """Answer all requests, also those to come."""
        self._released.set()


@contextmanager
def held_provider() -> Generator[HeldProvider]:
    """Serve a provider that takes requests and answers none of them yet."""
    released = threading.Event()

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            released.wait()
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            self.wfile.write(whole())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            del format, args

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield HeldProvider(f"http://127.0.0.1:{server.server_address[1]}", released)
        finally:
            released.set()
            server.shutdown()
            thread.join()
