"""Who may use a server over HTTP, under which names, and how much."""

import hmac
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import ip_address, ip_network
from typing import Any

import anyio
import httpx2
import jwt
from anyio import to_thread
from mcp.server.auth.provider import AccessToken, TokenVerifier
from mcp.server.transport_security import TransportSecuritySettings
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from starlette.authentication import AuthenticationError

from concertmaster.errors import SettingsError

LOOPBACK = ("127.0.0.1", "localhost", "::1")

LOOPBACK_NETWORKS = ("127.0.0.0/8", "::1/128")

OpenVerifier = Callable[[], AbstractAsyncContextManager[TokenVerifier]]
"""Opens what tells whom a bearer token stands for."""


def always(verifier: TokenVerifier) -> OpenVerifier:
    """Return what opens a verifier that needs no opening."""
    return lambda: nullcontext(verifier)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtectedResource:
    """What OAuth clients are told about the server (RFC 9728), so that they can get a token."""

    url: str
    issuer: str
    scopes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpAccess:
    """The terms of a server over HTTP. By default everybody on this machine may use it."""

    hosts: tuple[str, ...] = ()
    """Names under which the server may be called, besides those of this machine."""
    open_verifier: OpenVerifier | None = None
    """What every call's token is checked with; without one, there is nobody to tell apart."""
    resource: ProtectedResource | None = None
    requests_a_minute: int = 600
    """Of one principal; and of one address, for those who have no valid token."""
    connections: int = 500
    """Open requests, and connections; an idle one makes room for a new one."""
    connections_per_address: int = 100
    """The same of one address that is no trusted proxy."""
    trusted_proxies: tuple[str, ...] = LOOPBACK_NETWORKS
    """Addresses and networks that speak for others, and name them in X-Forwarded-For."""
    head_seconds: float = 10.0
    """How long the head of a request may take to arrive."""
    body_seconds: float = 60.0
    """How long its body may take."""
    request_bytes: int = 4 * 1024 * 1024

    def trusts(self, address: str) -> bool:
        """Tell whether an address is that of a trusted proxy."""
        try:
            given = ip_address(address)
        except ValueError:
            return False
        return any(given in ip_network(network) for network in self.trusted_proxies)

    def check(self, host: str) -> None:
        """Do nothing if these terms will do for serving at an address.

        Raises:
            SettingsError: others can reach it, and not all is set that keeps them out.
        """
        missing: list[str] = []
        if not self.hosts:
            missing.append("allowed_hosts to the names under which clients call the server")
        if self.open_verifier is None:
            missing.append("tokens_file or oauth_issuer, which say who may use it")
        if host not in LOOPBACK and missing:
            raise SettingsError(
                f"At {host!r} others can reach this server, so more has to be set: "
                f"{', and '.join(missing)}. docs/serving.md tells how. For "
                "this machine alone, use --host 127.0.0.1."
            )

    @asynccontextmanager
    async def verifying(self) -> AsyncGenerator[TokenVerifier | None]:
        """Open what tokens are checked with, if they are."""
        if self.open_verifier is None:
            yield None
        else:
            async with self.open_verifier() as verifier:
                yield verifier

    def security(self, host: str) -> TransportSecuritySettings:
        """Return which Host and Origin headers requests may have."""
        local = ("127.0.0.1", "localhost", "[::1]") if host in LOOPBACK else ()
        origins = [f"http://{name}" for name in local] + [f"https://{name}" for name in self.hosts]
        return TransportSecuritySettings(
            allowed_hosts=_with_any_port([*local, *self.hosts]),
            allowed_origins=_with_any_port(origins),
        )


def _with_any_port(names: list[str]) -> list[str]:
    return [*names, *(f"{name}:*" for name in names)]


OPEN = HttpAccess()
"""Everybody on this machine may use the server."""


log = logging.getLogger(__name__)

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA")
"""Those whose verifying key cannot sign."""

LEEWAY_SECONDS = 30
"""How far the clocks of the issuer and of this machine may be apart."""

FETCH_SECONDS = 5.0
"""How long the issuer may take to answer."""

FETCHES = 4
"""How many requests may wait for the issuer's keys at the same time."""


class IssuerUnavailableError(AuthenticationError):
    """A token cannot be checked now, because its issuer does not answer."""

    def __init__(self) -> None:
        super().__init__("Tokens cannot be checked, as their issuer does not answer.")


_OBJECT: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])


class _Claims(BaseModel):
    """What a token says: a JWT's claims, or the answer to an introspection."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    sub: str = Field(min_length=1)
    aud: str | list[str]
    iss: str | None = None
    exp: float | None = None
    client_id: str | None = None
    azp: str | None = None
    scope: str = ""
    scp: str | list[str] = ""

    @property
    def scopes(self) -> list[str]:
        scp = self.scp.split() if isinstance(self.scp, str) else self.scp
        return [*self.scope.split(), *scp]

    def made_out_to(self, resource: str) -> bool:
        named = [self.aud] if isinstance(self.aud, str) else self.aud
        return resource.rstrip("/") in [name.rstrip("/") for name in named]


def _access(token: str, said: Mapping[str, Any], *, issuer: str, resource: str) -> AccessToken:
    """Return what a token allows, given what it says.

    Raises:
        ValueError: it is not for this server, or does not say for whom it is.
    """
    claims = _Claims.model_validate(said)
    if not claims.made_out_to(resource):
        raise ValueError("the token is made out to another server")
    if claims.iss not in (None, issuer):
        raise ValueError("the token is of another issuer")
    return AccessToken(
        token=token,
        client_id=claims.client_id or claims.azp or claims.sub,
        scopes=claims.scopes,
        expires_at=None if claims.exp is None else int(claims.exp),
        resource=resource,
        subject=claims.sub,
        claims={"iss": issuer},
    )


class SignedTokens(TokenVerifier):
    """Checks JWTs by the keys that their issuer publishes."""

    def __init__(self, jwks_url: str, *, issuer: str, resource: str) -> None:
        self._keys = jwt.PyJWKClient(jwks_url, timeout=FETCH_SECONDS)
        self._issuer = issuer
        self._resource = resource
        self._checking = anyio.CapacityLimiter(FETCHES)

    async def verify_token(self, token: str) -> AccessToken | None:
        """Return what a token allows, if it is a valid one for this server.

        Raises:
            IssuerUnavailableError: it cannot be checked now.
        """
        try:
            said = await to_thread.run_sync(self._said, token, limiter=self._checking)
            return _access(token, said, issuer=self._issuer, resource=self._resource)
        except jwt.PyJWKClientConnectionError as exc:
            log.warning("the keys of %s cannot be had: %s", self._issuer, exc)
            raise IssuerUnavailableError from exc
        except (jwt.PyJWTError, ValueError) as exc:
            log.info("token refused: %s", exc)
        return None

    def _said(self, token: str) -> dict[str, Any]:
        key = self._keys.get_signing_key_from_jwt(token)
        return jwt.decode(
            token,
            key,
            algorithms=ALGORITHMS,
            issuer=self._issuer,
            leeway=LEEWAY_SECONDS,
            # The audience is checked with all else that is said.
            options={"require": ["exp", "iss", "sub", "aud"], "verify_aud": False},
        )


class IntrospectedTokens(TokenVerifier):
    """Asks the issuer what each token is worth (RFC 7662)."""

    def __init__(
        self, client: httpx2.AsyncClient, introspection_url: str, *, issuer: str, resource: str
    ) -> None:
        self._client = client
        self._url = introspection_url
        self._issuer = issuer
        self._resource = resource

    async def verify_token(self, token: str) -> AccessToken | None:
        """Return what a token allows, if it is a valid one for this server.

        Raises:
            IssuerUnavailableError: it cannot be checked now.
        """
        try:
            reply = await self._client.post(self._url, data={"token": token})
            said = _OBJECT.validate_json(reply.raise_for_status().content)
            if said.get("active") is True:
                return _access(token, said, issuer=self._issuer, resource=self._resource)
        except httpx2.HTTPError as exc:
            log.warning("%s cannot be asked about tokens: %s", self._issuer, exc)
            raise IssuerUnavailableError from exc
        except ValueError as exc:
            log.info("token refused: %s", exc)
        return None


@asynccontextmanager
async def open_introspection(
    introspection_url: str, *, credentials: tuple[str, str], issuer: str, resource: str
) -> AsyncGenerator[IntrospectedTokens]:
    """Open what asks an issuer about tokens, with the credentials that it asks for."""
    auth = httpx2.BasicAuth(*credentials)
    async with httpx2.AsyncClient(auth=auth, timeout=FETCH_SECONDS) as client:
        yield IntrospectedTokens(client, introspection_url, issuer=issuer, resource=resource)


class StaticTokens(TokenVerifier):
    """Tells the user of a token, in a time that says nothing about the tokens there are."""

    def __init__(self, tokens: Mapping[str, str]) -> None:
        """Take the token of each user."""
        self._digests = {user: _digest(token) for user, token in tokens.items()}

    async def verify_token(self, token: str) -> AccessToken | None:
        """Return what a token stands for, if it is one."""
        given = _digest(token)
        # All are compared, whether or not one has matched.
        users = [user for user, kept in self._digests.items() if hmac.compare_digest(given, kept)]
        return AccessToken(token=token, client_id=users[0], scopes=[]) if users else None


def _digest(token: str) -> bytes:
    return sha256(token.encode(errors="surrogatepass")).digest()
