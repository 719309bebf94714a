"""Results that are too long to be read at once: their beginning, and the rest on demand."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from concertmaster.errors import ToolCallError
from concertmaster.llm.fencing import fence
from concertmaster.llm.protocol import ToolSpec
from concertmaster.tools.arguments import parse_arguments

if TYPE_CHECKING:
    from concertmaster.tools.registry import ToolScope

PART_CHARS = 40_000
"""How much of a result is read at once."""

KEPT_CHARS = 20_000_000
"""How much of one worker's long results is kept."""


@dataclass(frozen=True, slots=True)
class _Kept:
    source: str
    text: str
    lost: int
    """How many characters more there were."""


class LongResults:
    """What tools of others have said to one worker, fenced, and kept where it is long."""

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}
        self._chars = 0

    def fenced(self, source: str, text: str) -> str:
        """Return what `source` says as data for a model: all of it, or the beginning."""
        if len(text) <= PART_CHARS:
            return fence("tool-result", source, text)
        reference = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:12]
        if reference not in self._kept:
            kept = text[: KEPT_CHARS - self._chars]
            self._kept[reference] = _Kept(source, kept, lost=len(text) - len(kept))
            self._chars += len(kept)
        return self.part(reference, 0)

    def part(self, reference: str, offset: int) -> str:
        """Return what a long result says from `offset` on, as data, and how to read on.

        Raises:
            ToolCallError: there is no such result, or it ends before.
        """
        if reference not in self._kept:
            raise ToolCallError(
                f"There is no result {reference!r} any more. Call the tool again that it was of."
            )
        kept = self._kept[reference]
        chars = len(kept.text)
        if offset > chars:
            raise ToolCallError(f"The result {reference!r} has only {chars:,} characters.")
        end = offset + PART_CHARS
        part = fence("tool-result", kept.source, kept.text[offset:end])
        if end < chars:
            return (
                f"{part}\n[cut after {end:,} of {chars:,} characters; to read on, call "
                f'{ReadResult.spec.name} with result "{reference}" and offset {end}]'
            )
        return f"{part}\n[{kept.lost:,} more characters were not kept]" if kept.lost else part


class ReadResultArguments(BaseModel):
    """What `read_result` is called with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    result: str = Field(min_length=1, description="Which result, as told where it was cut.")
    offset: int = Field(ge=0, description="The first character to return, from 0.")


class ReadResult:
    """Returns the next part of a result that was cut."""

    spec = ToolSpec(
        name="read_result",
        description="Returns the next part of a tool's result that was too long to return whole.",
        input_schema=ReadResultArguments.model_json_schema(),
    )

    async def call(self, arguments: Mapping[str, JsonValue], scope: "ToolScope", /) -> str:
        """Return the part, and how to read on if there is more."""
        asked = parse_arguments(ReadResultArguments, arguments)
        return scope.long_results.part(asked.result, asked.offset)
