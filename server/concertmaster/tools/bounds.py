"""Bounds on what one call of a worker tool takes and says."""

from collections.abc import Mapping

import anyio
from pydantic import JsonValue

from concertmaster.errors import ToolCallError
from concertmaster.llm.protocol import ToolSpec, whole_characters
from concertmaster.tools.registry import ToolScope, WorkerTool

MAX_ERROR_CHARS = 4_000
"""How much a tool says of why it failed."""


class Bounded:
    """A worker tool that ends in time, and says no more than `max_chars`."""

    def __init__(self, tool: WorkerTool, *, seconds: float, max_chars: int) -> None:
        self._tool = tool
        self.seconds = seconds
        self.max_chars = max_chars

    @property
    def spec(self) -> ToolSpec:
        """Return the name, description and arguments of the tool."""
        return self._tool.spec

    async def call(self, arguments: Mapping[str, JsonValue], scope: ToolScope, /) -> str:
        """Return the outcome, cut where it is too long.

        Raises:
            ToolCallError: the tool cannot do it, or takes too long.
        """
        with anyio.move_on_after(self.seconds):
            try:
                return _cut(await self._tool.call(arguments, scope), self.max_chars)
            except ToolCallError as exc:
                raise ToolCallError(_cut(str(exc), MAX_ERROR_CHARS)) from None
        raise ToolCallError(f"{self.spec.name} took longer than {self.seconds:g} s. Ask for less.")


def _cut(text: str, most: int) -> str:
    whole = whole_characters(text)
    return whole if len(whole) <= most else f"{whole[:most]}\n[cut after {most:,} characters]"
