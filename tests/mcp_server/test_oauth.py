"""OAuth tokens, of an authorization server on this machine, on a real server over HTTP."""

import base64
import json
import time
from collections.abc import Generator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from jwt.algorithms import RSAAlgorithm

from clients import structured
from concertmaster.mcp_server.transports.auth import (
    HttpAccess,
    ProtectedResource,
    SignedTokens,
    always,
    open_introspection,
)
from concertmaster.mcp_server.transports.http import BAD_TOKENS, MOST_TOKENS, RecentTokens
from fakes import plan_json, subtask
from serving import Issuer, issuing, served

pytestmark = pytest.mark.anyio

ANSWERED = 400
"""The status of a ping that belongs to no session: it was let in."""

RESOURCE = "https://concertmaster.example.org/mcp"
KEY = generate_private_key(65537, 2048)
OTHER_KEY = generate_private_key(65537, 2048)
PLAN = {"planner": plan_json(subtask("s1"))}


@pytest.fixture
def issuer() -> Generator[Issuer]:
    with issuing() as made:
        public = json.loads(RSAAlgorithm.to_jwk(KEY.public_key()))
        made.pages["/keys"] = {"keys": [public | {"kid": "k1", "use": "sig"}]}
        yield made


def claims(issuer: Issuer, **changed: Any) -> dict[str, Any]:
    """Return what a good token says, with changes; None leaves something out."""
    said = {
        "iss": issuer.url,
        "aud": RESOURCE,
        "sub": "ann",
        "client_id": "an-editor",
        "exp": time.time() + 60,
        "scope": "runs",
    }
    return {name: value for name, value in (said | changed).items() if value is not None}


def signed(issuer: Issuer, key: RSAPrivateKey = KEY, **changed: Any) -> str:
    return jwt.encode(claims(issuer, **changed), key, "RS256", headers={"kid": "k1"})


def access_for(issuer: Issuer, *scopes: str) -> HttpAccess:
    """Return terms under which JWTs are accepted."""
    verifier = SignedTokens(f"{issuer.url}/keys", issuer=issuer.url, resource=RESOURCE)
    return HttpAccess(
        hosts=("concertmaster.example.org",),
        open_verifier=always(verifier),
        resource=ProtectedResource(url=RESOURCE, issuer=issuer.url, scopes=scopes),
    )


def introspecting(issuer: Issuer) -> HttpAccess:
    """Return terms under which the issuer is asked about tokens."""
    return replace(
        access_for(issuer),
        open_verifier=partial(
            open_introspection,
            f"{issuer.url}/introspect",
            credentials=("us", "secret"),
            issuer=issuer.url,
            resource=RESOURCE,
        ),
    )


async def status(address: str, token: str, *, x_forwarded_for: str = "") -> httpx2.Response:
    """Return the answer to a request with a token."""
    headers = {
        "authorization": f"Bearer {token}",
        "accept": "application/json, text/event-stream",
        "x-forwarded-for": x_forwarded_for,
    }
    body: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {}}
    async with httpx2.AsyncClient(timeout=60) as browser:
        return await browser.post(address, json=body, headers=headers)


async def test_whoever_has_a_token_for_this_server_has_their_own_runs(
    issuer: Issuer, tmp_path: Path
) -> None:
    async with served(tmp_path, PLAN, access=access_for(issuer, "runs")) as server:
        async with server.client(signed(issuer)) as ann:
            reply = await ann.call_tool("run_orchestration", {"task": "why?"})
            wanted = {"run_id": structured(reply)["run_id"]}
        async with server.client(signed(issuer, client_id="a-terminal")) as ann_elsewhere:
            assert not (await ann_elsewhere.call_tool("get_run", wanted)).is_error
        async with server.client(signed(issuer, sub="bob")) as bob:
            assert (await bob.call_tool("get_run", wanted)).is_error


REFUSED: dict[str, dict[str, Any]] = {
    "for another server": {"aud": "https://elsewhere.example.org/mcp"},
    "for several, and not this one": {"aud": ["https://a.example.org", "https://b.example.org"]},
    "for nobody in particular": {"aud": None},
    "of another issuer": {"iss": "https://evil.example.org"},
    "expired": {"exp": time.time() - 60},
    "without an end": {"exp": None},
    "of nobody": {"sub": None},
    "of an empty somebody": {"sub": ""},
}


@pytest.mark.parametrize("changed", REFUSED.values(), ids=REFUSED)
async def test_a_token_is_refused_that_is(
    changed: dict[str, Any], issuer: Issuer, tmp_path: Path
) -> None:
    async with served(tmp_path, access=access_for(issuer)) as server:
        assert (await status(server.address, signed(issuer, **changed))).status_code == 401


def unsigned(issuer: Issuer) -> str:
    return jwt.encode(claims(issuer), "", "none", headers={"kid": "k1"})


def signed_with_the_public_key(issuer: Issuer) -> str:
    parts = [{"alg": "HS256", "typ": "JWT", "kid": "k1"}, claims(issuer)]
    body = b".".join(base64.urlsafe_b64encode(json.dumps(part).encode()) for part in parts)
    return f"{body.decode().replace('=', '')}.c2lnbmF0dXJl"


def signed_by_somebody_else(issuer: Issuer) -> str:
    return signed(issuer, OTHER_KEY)


def no_token(_: Issuer) -> str:
    return "no.token.at-all"


@pytest.mark.parametrize(
    "forge", [unsigned, signed_with_the_public_key, signed_by_somebody_else, no_token]
)
async def test_a_forged_token_is_refused(forge: Any, issuer: Issuer, tmp_path: Path) -> None:
    async with served(tmp_path, access=access_for(issuer)) as server:
        assert (await status(server.address, forge(issuer))).status_code == 401


async def test_a_token_for_several_servers_is_good_if_this_is_one(
    issuer: Issuer, tmp_path: Path
) -> None:
    async with served(tmp_path, access=access_for(issuer)) as server:
        several = signed(issuer, aud=["https://a.example.org", f"{RESOURCE}/"])
        assert (await status(server.address, several)).status_code not in (401, 403)


@pytest.mark.parametrize("said", [{"scope": "other"}, {"scope": None}, {"scope": None, "scp": []}])
async def test_a_token_without_the_scope_may_not(
    said: dict[str, Any], issuer: Issuer, tmp_path: Path
) -> None:
    async with served(tmp_path, access=access_for(issuer, "runs")) as server:
        refusal = await status(server.address, signed(issuer, **said))
        listed = await status(server.address, signed(issuer, scope=None, scp=["runs"]))
    assert refusal.status_code == 403
    assert "insufficient_scope" in refusal.headers["www-authenticate"]
    assert listed.status_code not in (401, 403)


async def test_a_client_is_told_where_to_get_a_token(issuer: Issuer, tmp_path: Path) -> None:
    async with served(tmp_path, access=access_for(issuer, "runs")) as server:
        refusal = await status(server.address, "none")
        async with httpx2.AsyncClient(timeout=60) as browser:
            path = "/.well-known/oauth-protected-resource/mcp"
            metadata = (await browser.get(f"{server.root}{path}")).json()
    told = f'resource_metadata="https://concertmaster.example.org{path}"'
    assert told in refusal.headers["www-authenticate"]
    assert metadata["resource"] == RESOURCE
    assert [url.rstrip("/") for url in metadata["authorization_servers"]] == [issuer.url]
    assert metadata["scopes_supported"] == ["runs"]


async def test_while_the_keys_cannot_be_had_nobody_is_let_in(
    issuer: Issuer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    del issuer.pages["/keys"]
    async with served(tmp_path, access=access_for(issuer)) as server:
        assert (await status(server.address, signed(issuer))).status_code == 503
    assert "cannot be had" in caplog.text


async def test_the_issuer_is_asked_about_tokens_that_are_not_signed(
    issuer: Issuer, tmp_path: Path
) -> None:
    issuer.worth = {
        "good": claims(issuer, iss=None, exp=None) | {"active": True},
        "revoked": {"active": False},
        "for-another-server": claims(issuer, aud="https://a.example.org") | {"active": True},
        "without-audience": claims(issuer, aud=None) | {"active": True},
        "of-another-issuer": claims(issuer, iss="https://evil.example.org") | {"active": True},
        "odd": ["active"],
    }
    async with served(tmp_path, access=introspecting(issuer)) as server:
        good = await status(server.address, "good")
        del issuer.worth["good"]
        bad = [await status(server.address, token) for token in issuer.worth]
    assert good.status_code not in (401, 403)
    assert [reply.status_code for reply in bad] == [401] * 5
    assert set(issuer.asked_by) == {"Basic " + base64.b64encode(b"us:secret").decode()}


async def test_while_the_issuer_cannot_be_asked_nobody_is_let_in(
    issuer: Issuer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(tmp_path, access=introspecting(issuer)) as server:
        assert (await status(server.address, "unheard-of")).status_code == 503
        issuer.worth["unheard-of"] = claims(issuer) | {"active": True}
        assert (await status(server.address, "unheard-of")).status_code not in (401, 503)
    assert "cannot be asked" in caplog.text


async def test_bad_tokens_of_one_address_are_not_all_asked_about(
    issuer: Issuer, tmp_path: Path
) -> None:
    issuer.worth = {"good": claims(issuer) | {"active": True}}
    issuer.worth |= {f"bad-{number}": {"active": False} for number in range(200)}
    async with served(tmp_path, access=introspecting(issuer)) as server:
        assert (await status(server.address, "good")).status_code == ANSWERED
        guesses = [await status(server.address, f"bad-{number}") for number in range(200)]
        good = await status(server.address, "good")
        elsewhere = await status(server.address, "unheard-of", x_forwarded_for="203.0.113.7")
    assert len(issuer.asked_by) == BAD_TOKENS.amount + 3
    statuses = [guess.status_code for guess in guesses]
    assert statuses == [401] * BAD_TOKENS.amount + [429] * (200 - BAD_TOKENS.amount)
    assert guesses[-1].headers["retry-after"] == "60"
    assert good.status_code == ANSWERED
    assert elsewhere.status_code == 503


async def test_bad_tokens_that_come_at_once_are_not_all_asked_about(
    issuer: Issuer, tmp_path: Path
) -> None:
    issuer.worth = {f"bad-{number}": {"active": False} for number in range(100)}
    async with served(tmp_path, access=introspecting(issuer)) as server:
        await anyio.amap(partial(status, server.address), issuer.worth)
    assert 0 < len(issuer.asked_by) <= BAD_TOKENS.amount


async def test_a_refused_token_is_asked_about_once(issuer: Issuer, tmp_path: Path) -> None:
    issuer.worth = {"revoked": {"active": False}}
    async with served(tmp_path, access=introspecting(issuer)) as server:
        refused = [await status(server.address, "revoked") for _ in range(3)]
    assert [reply.status_code for reply in refused] == [401] * 3
    assert len(issuer.asked_by) == 1


async def test_a_good_token_is_asked_about_no_more_often_than_its_user_may_call(
    issuer: Issuer, tmp_path: Path
) -> None:
    issuer.worth = {"good": claims(issuer) | {"active": True}}
    access = replace(introspecting(issuer), requests_a_minute=3)
    async with served(tmp_path, access=access) as server:
        calls = [await status(server.address, "good") for _ in range(10)]
    assert [reply.status_code for reply in calls].count(ANSWERED) == 3
    assert len(issuer.asked_by) <= 4


async def test_the_oldest_of_too_many_remembered_tokens_is_forgotten() -> None:
    tokens = RecentTokens(60)
    for number in range(MOST_TOKENS + 1):
        tokens.add(f"token {number}")
    assert "token 0" not in tokens
    assert "token 1" in tokens
    assert f"token {MOST_TOKENS}" in tokens
