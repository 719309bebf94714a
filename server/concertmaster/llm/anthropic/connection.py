"""Where the provider is, and with what to reach it."""

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from concertmaster.errors import SettingsError

if TYPE_CHECKING:
    import httpx2

_SENDABLE = re.compile(r"[\x21-\x7e]+")
"""What a header can carry. Anything else would fail deep below, in an error that quotes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """How to reach the provider. Its representation shows no secret.

    Raises:
        SettingsError: there is no key, more than one, or one that cannot be sent.
    """

    api_key: str | None = field(default=None, repr=False)
    auth_token: str | None = field(default=None, repr=False)
    """A bearer token, instead of a key."""
    base_url: str | None = None
    """None is Anthropic's own, which needs a key or a token; others may do without."""
    auth_header: Literal["bearer", "x-api-key"] = "bearer"
    """How the key is sent; a token is always sent as a bearer token."""
    idle_seconds: float = 60.0
    """A provider that sends nothing at all for so long is given up."""
    connect_seconds: float = 10.0
    transport: "httpx2.AsyncBaseTransport | None" = None
    """What carries the requests, in place of the network."""

    def __post_init__(self) -> None:
        if self.api_key and self.auth_token:
            raise SettingsError("Both api_key and auth_token are set; keep one of them.")
        if not (self.api_key or self.auth_token or self.base_url):
            raise SettingsError(
                "There is no key for a language model. Set CONCERTMASTER_API_KEY or "
                "ANTHROPIC_API_KEY."
            )
        for name, secret in (("api_key", self.api_key), ("auth_token", self.auth_token)):
            if secret and not _SENDABLE.fullmatch(secret):
                raise SettingsError(
                    f"{name} has a space, a line break or a character outside ASCII. "
                    "Copy it again, alone."
                )
