"""Tools that a model's provider calls itself, within one model call."""

from dataclasses import dataclass
from typing import Literal, get_args

from pydantic import Field, JsonValue

from concertmaster.llm.values import Frozen, Text

ServerToolName = Literal["web_search", "web_fetch", "code_execution"]

SERVER_TOOLS: tuple[ServerToolName, ...] = get_args(ServerToolName)

FETCHED_TOKENS = 10_000
"""How much of a fetched page a model reads, about, at most."""

FOUND_TOKENS: dict[ServerToolName, int] = {
    "web_search": 8_000,
    "web_fetch": FETCHED_TOKENS,
    "code_execution": 1_000,
}
"""Tokens that one use of a tool gives a model to read: hardly ever more."""

CITED_CHARS = 300
"""How much of a cited text is kept."""

MOST_SOURCES = 30
"""How many sources of one result are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTool:
    """A tool that the provider may call, and within which bounds."""

    name: ServerToolName
    max_uses: int
    """How often, at most. For `code_execution` the provider takes no such bound."""
    allowed_domains: tuple[str, ...] = ()
    """The only ones that it may reach; all where there are none."""
    blocked_domains: tuple[str, ...] = ()


class ServerToolUse(Frozen):
    """One use that the provider made of a tool."""

    id: str
    name: str
    arguments: dict[str, JsonValue] = Field(default_factory=dict[str, JsonValue])
    result: Text = ""
    """What came of it, in words, cut where it is long."""
    result_chars: int = 0
    """How long that was before it was cut."""
    error: Text = ""
    """The provider's word for what went wrong: `max_uses_exceeded`, `url_not_allowed`…"""
    pending: bool = False
    """Whether what came of it is told in a later reply."""
    ago: float = 0.0
    """Seconds from its beginning to the end of the reply."""
    seconds: float = 0.0


class Source(Frozen):
    """Where something that a reply says comes from."""

    url: Text
    title: Text = ""
    cited: Text = ""
    """The words there that it rests on."""

    @property
    def line(self) -> str:
        """Return all of it in one line."""
        title = f"{self.title}, " if self.title else ""
        cited = f": “{self.cited}”" if self.cited else ""
        return f"{title}{self.url}{cited}"


def distinct(*groups: tuple[Source, ...]) -> tuple[Source, ...]:
    """Return the sources of all groups, each passage once, and no more of them than are kept."""
    return tuple(dict.fromkeys(source for group in groups for source in group))[:MOST_SOURCES]
