"""Worker tools: what one is, and the set that a server offers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydantic import JsonValue

from concertmaster.errors import ToolCallError
from concertmaster.llm.protocol import Document, ToolSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolScope:
    """What one subtask's tool calls may reach: its own inputs, and files under the roots."""

    inputs: tuple[Document, ...] = ()
    roots: tuple[Path, ...] = ()


class WorkerTool(Protocol):
    """Something a worker may call. Safe to call several times at once."""

    @property
    def spec(self) -> ToolSpec:
        """Return the name, description and arguments of the tool."""
        ...

    async def call(self, arguments: Mapping[str, JsonValue], scope: ToolScope, /) -> str:
        """Return the outcome as text for the model.

        Raises:
            ToolCallError: it cannot be done; the message tells the model why.
        """
        ...


class ToolRegistry:
    """The worker tools of a server, by name."""

    def __init__(
        self, tools: Iterable[WorkerTool] = (), *, missing: Mapping[str, str] | None = None
    ) -> None:
        self._tools = {tool.spec.name: tool for tool in tools}
        self.missing = dict(missing or {})
        """Why the server goes without a tool that others have, by its name."""

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of all tools, sorted."""
        return tuple(sorted(self._tools))

    def specs(self, names: Sequence[str]) -> tuple[ToolSpec, ...]:
        """Return the specs of those tools among `names` that this server has."""
        return tuple(self._tools[name].spec for name in names if name in self._tools)

    def get(self, name: str, allowed: Sequence[str]) -> WorkerTool:
        """Return the tool `name`.

        Raises:
            ToolCallError: there is no such tool, or it is not one of `allowed`.
        """
        if name not in allowed or name not in self._tools:
            offered = ", ".join(tool for tool in allowed if tool in self._tools) or "none"
            raise ToolCallError(f"There is no tool {name!r} for you. Your tools: {offered}.")
        return self._tools[name]
