"""An endpoint on this machine in the place of arXiv."""

from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import urlsplit

from concertmaster.tools.builtin.arxiv import ArxivSearch


@contextmanager
def arxiv_endpoint(*bodies: bytes, status: int = 200) -> Generator[tuple[ArxivSearch, list[str]]]:
    """Serve feeds in turn, and yield a tool that asks for them and the queries it makes."""
    queries: list[str] = []
    left = list(bodies)

    class Endpoint(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            queries.append(urlsplit(self.path).query)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(left.pop(0) if left else b"")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Endpoint) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}/api/query"
        yield ArxivSearch(endpoint=endpoint, pause_seconds=0), queries
        server.shutdown()
