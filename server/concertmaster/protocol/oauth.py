"""OAuth tokens, checked by their signature or by asking the server that issued them."""

import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx2
import jwt
from anyio import to_thread
from mcp.server.auth.provider import AccessToken, TokenVerifier
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from starlette.authentication import AuthenticationError

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
