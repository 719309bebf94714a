"""What an operator can choose about serving several people over HTTP."""

import re
from ipaddress import ip_network
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, SecretStr

from concertmaster.setting_types import FilePath

HTTP_SECRETS = ("oauth_client_secret", "request_state_keys")

_HOST = re.compile(r"(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9._-]+)(:\d+)?")


def _split(value: object) -> object:
    if isinstance(value, str):
        return [part for part in re.split(r"[,\s]+", value) if part]
    return value


def _host(name: str) -> str:
    if not _HOST.fullmatch(name):
        raise ValueError(f"{name!r} is no host name; write it as in concertmaster.example.org")
    return name.lower()


def _network(text: str) -> str:
    try:
        return str(ip_network(text))
    except ValueError:
        raise ValueError(
            f"{text!r} is no address or network; write it as in 10.0.0.7 or 10.0.0.0/8"
        ) from None


Network = Annotated[str, AfterValidator(_network)]
Host = Annotated[str, AfterValidator(_host)]
Url = Annotated[str, Field(pattern=r"^https?://[^\s@]+$")]
StateKey = Annotated[SecretStr, Field(min_length=32)]


class HttpSettings(BaseModel):
    """Who may use the server over HTTP, under which names, and how much."""

    allowed_hosts: Annotated[tuple[Host, ...], BeforeValidator(_split)] = Field(
        default=(),
        description="Names under which clients may call the server over HTTP, with commas between "
        "them. Needed off this machine.",
    )
    tokens_file: FilePath | None = Field(
        default=None, description="A file of users and their bearer tokens, for HTTP."
    )
    oauth_issuer: Url | None = Field(
        default=None, description="The OAuth authorization server whose tokens are accepted."
    )
    oauth_jwks_url: Url | None = Field(
        default=None, description="Where its signing keys are, if its tokens are JWTs."
    )
    oauth_introspection_url: Url | None = Field(
        default=None, description="Where it tells what a token is worth, if they are not."
    )
    oauth_client_id: str | None = Field(
        default=None, description="Who this server is to the introspection endpoint."
    )
    oauth_client_secret: SecretStr | None = Field(
        default=None, description="The secret that goes with oauth_client_id."
    )
    oauth_scopes: Annotated[tuple[str, ...], BeforeValidator(_split)] = Field(
        default=(), description="Scopes that a token must have, with commas between them."
    )
    public_url: Url | None = Field(
        default=None,
        description="The address that clients use, such as https://concertmaster.example.org/mcp. "
        "OAuth tokens must be made out to it.",
    )
    request_state_keys: Annotated[tuple[StateKey, ...], BeforeValidator(_split)] = Field(
        default=(),
        description="Secrets that seal what clients carry from call to call, the same on all "
        "replicas. The first seals, all open. Left out: one of this process alone.",
    )
    requests_per_minute: int = Field(
        default=600,
        ge=1,
        description="HTTP requests of one user a minute, at most, counted by each process for "
        "itself.",
    )
    connections: int = Field(
        default=500, ge=1, description="HTTP connections at the same time, at most."
    )
    connections_per_address: int = Field(
        default=100,
        ge=1,
        description="HTTP connections of one address at the same time, at most; proxies that are "
        "trusted have no such limit.",
    )
    trusted_proxies: Annotated[tuple[Network, ...], BeforeValidator(_split)] = Field(
        default=("127.0.0.0/8", "::1/128"),
        description="Addresses and networks of reverse proxies, with commas between them: what "
        "they say in X-Forwarded-For is believed.",
    )
    request_megabytes: int = Field(default=4, ge=1, description="Size of an HTTP request, at most.")
    user_runs: int = Field(
        default=8,
        ge=1,
        description="Runs of one user that are queued or under way, at most, over HTTP; of all "
        "processes on a store together.",
    )
    user_usd_per_day: float = Field(
        default=20,
        gt=0,
        description="USD that runs of one user may cost in 24 hours, over HTTP, of all "
        "processes on a store together; what unfinished runs may still spend is reserved.",
    )
