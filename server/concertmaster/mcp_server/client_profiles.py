"""What MCP clients pass to their model of a tool result, and how much of it."""

import tomllib
from functools import cache
from importlib import resources
from typing import Literal, Protocol

from mcp.types import InitializeRequestParams
from pydantic import Field

from concertmaster.llm.usage import Frozen

Reads = Literal["structured", "text", "both", "either"]


class ClientProfile(Frozen):
    """What a client reads of a tool result; the data file explains the fields."""

    client: str = ""
    names: tuple[str, ...] = ()
    reads: Reads
    size: int = Field(gt=0)
    unit: Literal["characters", "bytes"]
    source: str

    def fits(self, name: str) -> bool:
        """Tell whether a client that calls itself `name` is one of these."""
        return any(_fits(name.casefold(), known.casefold()) for known in self.names)

    def measure(self, text: str) -> int:
        """Return the length of a text in the unit in which the client counts."""
        return len(text.encode(errors="replace")) if self.unit == "bytes" else len(text)


class _Profiles(Frozen):
    default: ClientProfile
    profiles: tuple[ClientProfile, ...]


class ClientSession(Protocol):
    """The part of a server's session that says which client is at the other end."""

    @property
    def client_params(self) -> InitializeRequestParams | None:
        """Return how the client introduced itself."""
        ...


def client_profiles() -> tuple[ClientProfile, ...]:
    """Return the profiles of all clients that are known."""
    return _load().profiles


def profile_named(name: str) -> ClientProfile:
    """Return the profile of the client that calls itself `name`; a safe one, if it is unknown."""
    profiles = _load()
    return next((item for item in profiles.profiles if item.fits(name)), profiles.default)


def profile_of(session: ClientSession) -> ClientProfile:
    """Return the profile of the client at the other end of a session.

    Clients of 2025-11-25 introduce themselves once, those of 2026-07-28 may with each request.
    """
    params = session.client_params
    return profile_named(params.client_info.name if params is not None else "")


def _fits(name: str, known: str) -> bool:
    return name.startswith(known[:-1]) if known.endswith("*") else name == known


@cache
def _load() -> _Profiles:
    file = resources.files("concertmaster.mcp_server") / "client_profiles.toml"
    return _Profiles.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
