"""Who is let in over HTTP, under which names, and how often."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client, MCPError

from clients import connected
from concertmaster.errors import SettingsError
from concertmaster.mcp_server.transports.auth import OPEN, HttpAccess
from concertmaster.mcp_server.transports.http import serve_http
from serving import ANN, BOB, TEAM, TOKENS, Served, served

pytestmark = pytest.mark.anyio

NAME = "concertmaster.example.org"
PING: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {}}
HELLO: dict[str, Any] = PING | {
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}
AS_ANN = {"authorization": f"Bearer {ANN}", "accept": "application/json, text/event-stream"}
AS_BOB = AS_ANN | {"authorization": f"Bearer {BOB}"}


@asynccontextmanager
async def browsing(server: Served) -> AsyncGenerator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=server.root, timeout=60) as browser:
        yield browser


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "example.org", ""])  # noqa: S104
@pytest.mark.parametrize(
    ("access", "missing"),
    [
        (OPEN, "allowed_hosts to .*, and tokens_file or oauth_issuer"),
        (HttpAccess(hosts=(NAME,)), "set: tokens_file or oauth_issuer"),
        (HttpAccess(open_verifier=TOKENS), "set: allowed_hosts to"),
    ],
)
async def test_nothing_is_served_to_others_without_names_and_tokens(
    host: str, access: HttpAccess, missing: str, tmp_path: Path
) -> None:
    async with connected(tmp_path) as connection:
        with pytest.raises(SettingsError, match=missing):
            await serve_http(connection.server, host=host, access=access)


async def test_with_names_and_tokens_every_address_of_the_machine_is_served(
    tmp_path: Path,
) -> None:
    async with served(tmp_path, access=TEAM, host="0.0.0.0") as server:  # noqa: S104
        address = server.address.replace("0.0.0.0", "127.0.0.1")  # noqa: S104
        async with httpx2.AsyncClient(timeout=60) as browser:
            named = await browser.post(address, json=PING, headers=AS_ANN | {"host": NAME})
            unnamed = await browser.post(address, json=PING, headers=AS_ANN)
    assert named.status_code not in (401, 403, 421)
    assert unnamed.status_code == 421


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", f"Bearer {ANN[:-1]}", f"Basic {ANN}", "Bearer \u00e9"],
)
async def test_without_a_valid_token_nothing_is_answered(
    authorization: str, tmp_path: Path
) -> None:
    headers = {b"authorization": authorization.encode()} if authorization else {}
    async with served(tmp_path, access=TEAM) as server, browsing(server) as browser:
        refusal = await browser.post("/mcp", json=PING, headers=headers)
        other_page = await browser.get("/other", headers=headers)
    assert refusal.status_code == other_page.status_code == 401
    assert refusal.headers["www-authenticate"].startswith("Bearer")


async def test_a_client_without_a_token_cannot_connect(tmp_path: Path) -> None:
    async with served(tmp_path, access=TEAM) as server:
        with pytest.RaisesGroup(MCPError, flatten_subgroups=True, allow_unwrapped=True):
            async with Client(server.address):
                raise AssertionError("unreachable")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.org"}, 421),
        ({"host": f"{NAME}.evil.org"}, 421),
        ({"host": NAME, "origin": "https://evil.org"}, 403),
        ({"host": NAME, "origin": f"http://{NAME}"}, 403),
    ],
)
async def test_a_token_does_not_help_a_web_page_elsewhere(
    headers: dict[str, str], status: int, tmp_path: Path
) -> None:
    async with served(tmp_path, access=TEAM) as server, browsing(server) as browser:
        refusal = await browser.post("/mcp", json=PING, headers=AS_ANN | headers)
    assert refusal.status_code == status


async def test_a_session_is_of_no_use_to_somebody_else(tmp_path: Path) -> None:
    async with served(tmp_path, access=TEAM) as server, browsing(server) as browser:
        opened = await browser.post("/mcp", json=HELLO, headers=AS_ANN)
        session = {"mcp-session-id": opened.headers["mcp-session-id"]}
        stolen = await browser.post("/mcp", json=PING, headers=AS_BOB | session)
        own = await browser.post("/mcp", json=PING, headers=AS_ANN | session)
    assert stolen.status_code == 404
    assert own.status_code == 200


async def test_a_person_who_asks_too_often_is_turned_away_and_others_are_not(
    tmp_path: Path,
) -> None:
    access = replace(TEAM, requests_a_minute=3)
    async with served(tmp_path, access=access) as server, browsing(server) as browser:
        for_ann = [await browser.post("/mcp", json=PING, headers=AS_ANN) for _ in range(4)]
        for_bob = await browser.post("/mcp", json=PING, headers=AS_BOB)
        for_nobody = [await browser.post("/mcp", json=PING) for _ in range(4)]
    assert [reply.status_code for reply in for_ann].index(429) == 3
    assert for_ann[3].headers["retry-after"] == "60"
    assert for_bob.status_code != 429
    assert [reply.status_code for reply in for_nobody] == [401, 401, 401, 429]


async def test_a_request_that_is_too_large_is_refused(tmp_path: Path) -> None:
    access = replace(TEAM, request_bytes=1000)
    large = PING | {"params": {"text": "x" * 1000}}
    async with served(tmp_path, access=access) as server, browsing(server) as browser:
        refusal = await browser.post("/mcp", json=large, headers=AS_ANN)
    assert refusal.status_code == 413


async def test_health_is_told_to_everybody_and_says_no_more(tmp_path: Path) -> None:
    async with served(tmp_path, access=TEAM) as server, browsing(server) as browser:
        alive = await browser.get("/healthz", headers={"host": "10.0.0.7"})
        ready = await browser.get("/readyz", headers={"host": "10.0.0.7"})
    assert (alive.status_code, alive.json()) == (200, {"status": "alive"})
    assert (ready.status_code, ready.json()) == (200, {"status": "ready"})


async def test_a_server_whose_store_is_damaged_is_alive_and_not_ready(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "runs.db").write_bytes(b"no journal at all" * 100)
    async with served(tmp_path) as server, browsing(server) as browser:
        assert (await browser.get("/healthz")).status_code == 200
        ready = await browser.get("/readyz")
    assert (ready.status_code, ready.json()) == (503, {"status": "not ready"})


@pytest.mark.parametrize("version", ["2025-11-25", "2026-07-28"])
@pytest.mark.parametrize(
    ("arguments", "code"),
    [("[" * 50_000 + "]" * 50_000, -32700), ("[" * 1_200 + "]" * 1_200, -32700), ("oops", -32700)],
)
async def test_a_request_that_cannot_be_read_is_refused_by_its_id(
    arguments: str, code: int, version: str, tmp_path: Path
) -> None:
    call = f'{{"jsonrpc": "2.0", "id": "a-7", "method": "tools/call", "params": {arguments}}}'
    async with served(tmp_path, access=TEAM) as server, browsing(server) as browser:
        opened = await browser.post("/mcp", json=HELLO, headers=AS_ANN)
        headers = AS_ANN | {"mcp-protocol-version": version, "content-type": "application/json"}
        if version == "2025-11-25":
            headers["mcp-session-id"] = opened.headers["mcp-session-id"]
        refusal = await browser.post("/mcp", content=call, headers=headers)
    assert refusal.status_code == 400
    assert refusal.json()["id"] == "a-7"
    assert refusal.json()["error"]["code"] == code
