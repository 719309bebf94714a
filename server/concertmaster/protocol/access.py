"""Who may use a server over HTTP, under which names, and how much."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from mcp.server.auth.provider import TokenVerifier
from mcp.server.transport_security import TransportSecuritySettings

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
