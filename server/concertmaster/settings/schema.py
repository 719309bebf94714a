"""Values of settings, as people write them in a file, a variable or a flag."""

import json
import os
import re
import shlex
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

import platformdirs
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, SecretStr, ValidationInfo
from pydantic import field_validator as validates

from concertmaster.llm.messages import ServerToolName
from concertmaster.tools.registry import Decision


def absolute(path: Path) -> Path:
    """Return a path as written on a command line or in a variable, from the root on."""
    return path.expanduser().absolute()


def read_json(value: object) -> object:
    """Return what JSON stands for, which a variable may hold; anything else as it is."""
    return json.loads(value) if isinstance(value, str) else value


def _split_folders(value: object) -> object:
    if isinstance(value, str):
        return [part for part in value.split(os.pathsep) if part]
    return [value] if isinstance(value, Path) else value


FilePath = Annotated[Path, AfterValidator(absolute)]
Folder = FilePath
Folders = Annotated[tuple[Folder, ...], BeforeValidator(_split_folders)]
LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"],
    BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value),
]


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


_DOMAIN = re.compile(r"[a-z0-9*-]+(\.[a-z0-9*-]+)+(/\S*)?")


def _listed(value: object) -> object:
    """Return a list that a variable has as JSON, or with commas between its items."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return json.loads(value)
    return [part for part in re.split(r"[,\s]+", value) if part]


def _domain(name: str) -> str:
    if not _DOMAIN.fullmatch(name.lower()):
        raise ValueError(f"{name!r} is no domain; write it as in example.org or example.org/blog")
    return name.lower()


Domains = Annotated[
    tuple[Annotated[str, AfterValidator(_domain)], ...],
    BeforeValidator(_listed),
]


class ServedSettings(BaseModel):
    """Which tools the provider may call itself, how often, and where they may look."""

    server_tools: Annotated[tuple[ServerToolName, ...] | None, BeforeValidator(_listed)] = Field(
        default=None,
        description="Tools that workers may have the provider call: web_search, web_fetch, "
        "code_execution. Left out: the first two at Anthropic's own address, none elsewhere.",
    )
    server_tool_uses: int = Field(
        default=5,
        ge=1,
        description="Uses of each of them in one conversation of a worker, at most.",
    )
    web_domains: Domains = Field(
        default=(), description="The only domains that web_search and web_fetch may reach."
    )
    web_domains_blocked: Domains = Field(
        default=(), description="Domains that web_search and web_fetch may not reach."
    )

    @validates("web_domains_blocked")
    @classmethod
    def _one_list(cls, blocked: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if blocked and info.data.get("web_domains"):
            raise ValueError("web_domains is set too, and the provider takes one of them")
        return blocked


def _default_data_folder() -> Path:
    return platformdirs.user_data_path("concertmaster", appauthor=False)


class StoreSettings(BaseModel):
    """Where runs are kept and for how long, and who works on them."""

    data_folder: Folder = Field(
        default_factory=_default_data_folder, description="Where runs are kept."
    )
    network_folder: bool = Field(
        default=False,
        description="Keep runs in the data folder even if it is on a network share, where locks of "
        "files often do not hold.",
    )
    store: SecretStr | None = Field(
        default=None, description="Address of a Postgres that keeps the runs instead."
    )
    runs_at_once: int = Field(
        default=16, ge=1, description="Runs that one process works on at the same time, at most."
    )
    runs_in_all: int | None = Field(
        default=None, ge=1, description="Runs that all processes together work on, at most."
    )
    keep_days: float | None = Field(
        default=None, gt=0, description="Days that runs are kept; left out: for ever."
    )
    keep_runs: int | None = Field(
        default=None, ge=1, description="Runs that are kept, the newest; left out: all."
    )
    keep_megabytes: float | None = Field(
        default=None, gt=0, description="Megabytes of runs that are kept; left out: all."
    )
    resume_interrupted: bool = Field(
        default=False,
        description="A server goes on with runs whose process has died; with a store, always.",
    )
    drain_seconds: float = Field(
        default=6,
        ge=0,
        description="How long a process that is told to end lets calls under way end, in seconds; "
        "over stdio 3 at most.",
    )
    reuse_hours: float | None = Field(
        default=None,
        gt=0,
        description="Take over results of the same subtask from runs of the last so many hours; "
        "left out: from none.",
    )


def _splittable(command: str) -> str:
    shlex.split(command)
    return command


class ToolSettings(BaseModel):
    """What workers may call, how long that may take, and who has to agree."""

    tool_policy: Annotated[dict[str, Decision], BeforeValidator(read_json)] = Field(
        default_factory=dict[str, Decision],
        description="Which tools workers may call: allow, ask or deny for `SERVER.TOOL`, "
        "`SERVER.*` or `*`. Without a rule, those that change nothing.",
    )
    tool_seconds: float = Field(
        default=60, gt=0, description="Time for one call of a tool of an MCP server."
    )
    ask_seconds: float = Field(
        default=120, gt=0, description="How long a call of a tool waits for somebody to agree."
    )
    custom_worker_tools: Annotated[tuple[str, ...], BeforeValidator(read_json)] = Field(
        default=(), description="Tools of workers that a planner writes for a run."
    )
    web: bool = Field(
        default=True,
        description="Let workers read public pages and search the web and arXiv.",
    )
    test_command: Annotated[str, AfterValidator(_splittable)] | None = Field(
        default=None,
        description="Command that workers may run the tests of a root with, such as pytest -q. "
        "Left out: they run none.",
    )


class BackgroundSettings(BaseModel):
    """Whether runs go on when the client that started them ends, and for how long."""

    background: bool = Field(
        default=False,
        description="Serve stdio clients from a server in the background, which goes on with "
        "their runs when they quit.",
    )
    background_idle_seconds: float = Field(
        default=300,
        gt=0,
        description="The background server ends when it has had no client and no run for so long.",
    )
