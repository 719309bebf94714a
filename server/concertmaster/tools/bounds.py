"""Bounds on what one call of a worker tool takes and says, and a fence around that."""

from collections.abc import Mapping

import anyio
from pydantic import JsonValue

from concertmaster.errors import ToolCallError
from concertmaster.llm.fencing import fence
from concertmaster.llm.protocol import ToolSpec, whole_characters
from concertmaster.tools.arguments import shown
from concertmaster.tools.registry import WorkerTool
from concertmaster.tools.scope import ToolScope
from concertmaster.tools.servers.masking import NO_MASKING

MAX_ERROR_CHARS = 4_000
"""How much a tool says of why it failed."""


class Bounded:
    """A worker tool that ends in time, and says no more than `max_chars`, as data."""

    def __init__(self, tool: WorkerTool, *, seconds: float, max_chars: int) -> None:
        self._tool = tool
        self.seconds = seconds
        self.max_chars = max_chars

    @property
    def spec(self) -> ToolSpec:
        """Return the name, description and arguments of the tool."""
        return self._tool.spec

    async def call(self, arguments: Mapping[str, JsonValue], scope: ToolScope, /) -> str:
        """Return the outcome as data, cut where it is too long.

        Raises:
            ToolCallError: the tool cannot do it, or takes too long.
        """
        source = f"{self.spec.name} {shown(arguments, NO_MASKING)}"
        with anyio.move_on_after(self.seconds):
            try:
                said = await self._tool.call(arguments, scope)
            except ToolCallError as exc:
                # Why something failed is often told in the words of what was read.
                raise ToolCallError(_fenced(source, str(exc), MAX_ERROR_CHARS)) from None
            return _fenced(source, said, self.max_chars)
        raise ToolCallError(f"{self.spec.name} took longer than {self.seconds:g} s. Ask for less.")


def _fenced(source: str, text: str, most: int) -> str:
    whole = whole_characters(text)
    note = f"\n[cut after {most:,} characters]" if len(whole) > most else ""
    return fence("tool-result", whole_characters(source), whole[:most]) + note
