"""A request of the Messages API, as far as the scripted endpoint reads it."""

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from concertmaster.fake_api.usage import Block

Json = dict[str, Any]


class _Read(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Format(_Read):
    json_schema: Json | None = Field(default=None, alias="schema")


class _OutputConfig(_Read):
    format: _Format = _Format()


class _Message(_Read):
    role: str
    content: str | list[Json]


class MessagesRequest(_Read):
    """The body of POST /v1/messages."""

    model: str = Field(min_length=1)
    max_tokens: int = Field(ge=1)
    messages: list[_Message] = Field(min_length=1)
    system: str | list[Json] = ""
    tools: list[Json] = []
    stream: bool = False
    output_config: _OutputConfig = _OutputConfig()

    @property
    def output_schema(self) -> Json | None:
        """Return the schema that the reply must have."""
        return self.output_config.format.json_schema

    @property
    def blocks(self) -> list[Block]:
        """Return what the model reads, in the order in which it is cached."""
        parts: list[tuple[str, Json]] = [("tool", tool) for tool in self.tools]
        parts += [("system", part) for part in _parts(self.system)]
        for message in self.messages:
            parts += [(message.role, part) for part in _parts(message.content)]
        return [_block(place, part) for place, part in parts]


def _parts(content: str | list[Json]) -> list[Json]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return content


def _block(place: str, part: Json) -> Block:
    said = {name: value for name, value in part.items() if name != "cache_control"}
    text = said["text"] if said.get("type") == "text" else json.dumps(said, sort_keys=True)
    return Block(f"{place} {text}", tokens=count_tokens(str(text)), marked="cache_control" in part)


def count_tokens(text: str) -> int:
    """Return how many tokens a text has here: one for four characters."""
    return -(-len(text) // 4)
