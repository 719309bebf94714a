"""The real server over HTTP in this process, and real clients with tokens."""

import gzip
import json
import threading
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from building import setup
from concertmaster.mcp_server.server import ConcertmasterServer, create_server
from concertmaster.mcp_server.transports.auth import OPEN, HttpAccess, StaticTokens, always
from concertmaster.mcp_server.transports.http import serve_http
from concertmaster.runs.intake import RunPolicy
from concertmaster.runs.principals import Allowance, Principals
from concertmaster.runs.service import RunService, open_service
from fakes import FakeLLM, Script
from stores import SqliteStore, Store

ANN = "ann-ann-ann-ann-ann-ann-ann"
BOB = "bob-bob-bob-bob-bob-bob-bob"
TOKENS = always(StaticTokens({"ann": ANN, "bob": BOB}))
TEAM = HttpAccess(hosts=("concertmaster.example.org",), open_verifier=TOKENS)
"""Two people, on a server with a name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A server at an address of this machine."""

    address: str
    service: RunService
    server: ConcertmasterServer

    @property
    def root(self) -> str:
        """Return the address without the path."""
        return self.address.removesuffix("/mcp")

    @asynccontextmanager
    async def client(
        self, token: str, *, mode: str = "auto", **options: Any
    ) -> AsyncGenerator[Client]:
        """Connect a client that sends a token."""
        headers = {"authorization": f"Bearer {token}"}
        async with httpx2.AsyncClient(headers=headers, timeout=30) as http:
            transport = streamable_http_client(self.address, http_client=http)
            async with Client(transport, mode=mode, **options) as client:
                yield client


@asynccontextmanager
async def served(
    folder: Path,
    scripts: Mapping[str, Script] | None = None,
    *,
    access: HttpAccess = OPEN,
    allowance: Allowance | None = None,
    store: Store | None = None,
    state_keys: Sequence[str] = (),
    **fields: Any,
) -> AsyncGenerator[Served]:
    """Serve HTTP on a free port."""
    ready = anyio.Event()
    addresses: list[str] = []

    def note(address: str) -> None:
        addresses.append(address)
        ready.set()

    async def serve() -> None:
        await serve_http(server, port=0, ready=note, access=access, **fields)

    async with (
        (store or SqliteStore(folder / "data")).open() as journal,
        open_service(journal=journal, setup=setup(FakeLLM(scripts)), policy=RunPolicy()) as service,
        anyio.create_task_group() as tasks,
    ):
        principals = Principals(allowance or Allowance()) if access.open_verifier else None
        server = create_server(
            lambda: nullcontext(service), principals=principals, state_keys=state_keys
        )
        tasks.start_soon(serve)
        await ready.wait()
        yield Served(address=addresses[0], service=service, server=server)
        tasks.cancel_scope.cancel()


class Issuer:
    """What an authorization server answers, by path and for a token that is asked about."""

    def __init__(self) -> None:
        self.url = ""
        self.pages: dict[str, Any] = {}
        self.worth: dict[str, Any] = {}
        self.asked_by: list[str | None] = []


@contextmanager
def issuing() -> Generator[Issuer]:
    """Serve an authorization server's endpoints on this machine."""
    issuer = Issuer()

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(issuer.pages.get(self.path))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            issuer.asked_by.append(self.headers["authorization"])
            self._answer(issuer.worth.get(body.removeprefix("token=")))

        def _answer(self, page: Any) -> None:
            self.send_response(500 if page is None else 200)
            self.end_headers()
            self.wfile.write(json.dumps(page).encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            del format, args

    with _in_a_thread(Answers) as url:
        issuer.url = url
        yield issuer


class Collector:
    """What was posted to an address of this machine."""

    def __init__(self) -> None:
        self.url = ""
        self.posted: list[tuple[str, bytes]] = []


@contextmanager
def collecting() -> Generator[Collector]:
    """Serve an address that takes whatever is posted."""
    collector = Collector()

    class Takes(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers["content-encoding"] == "gzip":
                body = gzip.decompress(body)
            collector.posted.append((self.path, body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            del format, args

    with _in_a_thread(Takes) as url:
        collector.url = url
        yield collector


@contextmanager
def _in_a_thread(answers: type[BaseHTTPRequestHandler]) -> Generator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
