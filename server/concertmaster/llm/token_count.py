"""How many tokens a request has at most, so that what is reserved for its call is enough."""

import json
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from concertmaster.llm.messages import (
    FOUND_TOKENS,
    AssistantMessage,
    Message,
    Request,
    ServerTool,
    ServerToolName,
    ToolMessage,
)
from concertmaster.llm.outcomes import with_report
from concertmaster.llm.usage import NO_USAGE, Usage

BYTES_OF_SHORT_TOKENS = 2.5
"""What is reckoned with where there have to be enough tokens."""
BYTES_OF_LONG_TOKENS = 4.0


def size(text: str) -> int:
    """Return how many bytes a text has in UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def most_tokens(length: int) -> int:
    """Return how many tokens a text of so many bytes has: hardly ever more."""
    return math.ceil(length / BYTES_OF_SHORT_TOKENS)


ENVELOPE_TOKENS = 500
"""What a provider may add to a request: how to call tools, how to write JSON."""

IMAGE_TOKENS = 4_800
"""What an image takes at most, however large it is.

By Anthropic's guide to images, one has a token for each 750 pixels or so, once it has been
scaled down to what the model looks at: at most 1,600 tokens for most models, 4,784 for those
that see more.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokensIn:
    """How many tokens a model reads in a request: hardly ever more."""

    prefix: int
    """In the part that the provider keeps for other calls."""
    rest: int

    @property
    def all(self) -> int:
        """Return all of them."""
        return self.prefix + self.rest

    @property
    def cold(self) -> Usage:
        """Return what they take if the provider has the prefix from nobody yet."""
        return Usage(tokens_in=self.rest, cache_write=self.prefix)

    @property
    def warm(self) -> Usage:
        """Return what they take if the provider has the prefix from another call."""
        return Usage(tokens_in=self.rest, cache_read=self.prefix)

    @property
    def plain(self) -> Usage:
        """Return what they take if nothing is kept."""
        return Usage(tokens_in=self.all)


def most_tokens_in(request: Request) -> TokensIn:
    """Return how many tokens a model reads in `request`."""
    parts = [request.system, request.shared]
    parts += [
        tool.name + tool.description + json.dumps(tool.input_schema) for tool in request.tools
    ]
    if (schema := request.output_schema) is not None:
        parts.append(json.dumps(with_report(schema) if request.reports_outcome else schema))
    return TokensIn(
        prefix=_most_tokens(parts),
        rest=ENVELOPE_TOKENS
        + _most_tokens(map(_text, request.messages))
        + IMAGE_TOKENS * sum(map(_images, request.messages)),
    )


def most_served(tools: Collection[ServerTool]) -> Usage:
    """Return what the tools that the provider calls itself add to a call, at most."""
    if not tools:
        return NO_USAGE
    uses: dict[ServerToolName, int] = {tool.name: tool.max_uses for tool in tools}
    return Usage(
        tokens_in=sum(FOUND_TOKENS[name] * count for name, count in uses.items()),
        searches=uses.get("web_search", 0),
        fetches=uses.get("web_fetch", 0),
        # Code that runs beside a web tool costs nothing.
        containers=int(set(uses) == {"code_execution"}),
    )


def _most_tokens(texts: Iterable[str]) -> int:
    return most_tokens(sum(map(size, texts)))


def _images(message: Message) -> int:
    if not isinstance(message, ToolMessage):
        return 0
    return sum(len(outcome.images) for outcome in message.outcomes)


def _text(message: Message) -> str:
    match message:
        case AssistantMessage(native=native) if native:
            return json.dumps(native, ensure_ascii=False)
        case AssistantMessage():
            calls = [call.model_dump() for call in message.tool_calls]
            return message.text + (json.dumps(calls, ensure_ascii=False) if calls else "")
        case ToolMessage():
            return "".join(outcome.text for outcome in message.outcomes)
        case _:
            return message.text
