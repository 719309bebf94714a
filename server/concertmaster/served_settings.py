"""What an operator can choose about the tools that the model's provider calls itself."""

import json
import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationInfo
from pydantic import field_validator as validates

from concertmaster.llm.server_tools import ServerToolName

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
