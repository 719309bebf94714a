"""Worker tools: what one is, the set that there is, and those that one worker has."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import anyio
from pydantic import JsonValue

from concertmaster.errors import ToolCallError, ToolDeniedError
from concertmaster.llm.fencing import spelled
from concertmaster.llm.protocol import ToolSpec
from concertmaster.llm.server_tools import ServerTool
from concertmaster.tools.arguments import shown
from concertmaster.tools.images import Illustrated
from concertmaster.tools.policy import ToolPolicy
from concertmaster.tools.read_result import ReadResult
from concertmaster.tools.scope import ToolScope
from concertmaster.tools.served import NOTHING_SERVED, ServedTools
from concertmaster.tools.servers.masking import NO_MASKING, Masking


class WorkerTool(Protocol):
    """Something a worker may call. Safe to call for several workers at once."""

    @property
    def spec(self) -> ToolSpec:
        """Return the name, description and arguments of the tool."""
        ...

    async def call(
        self, arguments: Mapping[str, JsonValue], scope: ToolScope, /
    ) -> str | Illustrated:
        """Return the outcome as text for the model, which may have images.

        Raises:
            ToolCallError: it cannot be done; the message tells the model why.
        """
        ...


class TextTool(WorkerTool, Protocol):
    """A worker tool that says nothing but text."""

    async def call(self, arguments: Mapping[str, JsonValue], scope: ToolScope, /) -> str:
        """Return the outcome as text for the model.

        Raises:
            ToolCallError: it cannot be done; the message tells the model why.
        """
        ...


class ToolSource(Protocol):
    """Where tools come from that are known only once somebody asks, such as an MCP server."""

    async def tools(self) -> Sequence[WorkerTool]:
        """Return the tools that there are now, each with the name of the source before its own.

        Raises:
            ToolCallError: it cannot be reached.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolbox:
    """The tools that one worker may call."""

    tools: Mapping[str, WorkerTool] = field(default_factory=dict[str, WorkerTool])
    """By name."""
    served: tuple[ServerTool, ...] = ()
    """What the provider calls itself."""
    missing: tuple[str, ...] = ()
    """A sentence for each reason why the worker lacks tools that it names."""
    policy: ToolPolicy = field(default_factory=ToolPolicy)
    masking: Masking = NO_MASKING
    """Keeps the operator's secrets out of what is shown."""

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        """Return the specs of the tools."""
        return tuple(tool.spec for tool in self.tools.values())

    def get(self, name: str) -> WorkerTool:
        """Return the tool `name`.

        Raises:
            ToolCallError: the worker has no such tool.
            ToolDeniedError: the operator does not allow workers to call it.
        """
        if name not in self.tools:
            raise ToolCallError(
                f"There is no tool {name!r} for you. Your tools: "
                f"{', '.join(map(spelled, self.tools)) or 'none'}."
            )
        tool = self.tools[name]
        if refusal := self.policy.refusal(tool.spec):
            raise ToolDeniedError(refusal)
        return tool

    def asks(self, name: str) -> bool:
        """Tell whether somebody has to agree to a call of the tool `name`."""
        return name in self.tools and self.policy.decision(self.tools[name].spec) == "ask"

    def shown(self, arguments: Mapping[str, JsonValue]) -> str:
        """Return what a tool is to be called with, as a person is shown it."""
        return shown(arguments, self.masking)

    def may_change(self, name: str) -> bool:
        """Tell whether a call of the tool `name` can be made and may change something."""
        if name not in self.tools:
            return False
        spec = self.tools[name].spec
        return spec.effects and not self.policy.refusal(spec)


class ToolRegistry:
    """All worker tools: those that are here, and sources of others."""

    def __init__(
        self,
        tools: Iterable[WorkerTool] = (),
        *,
        missing: Mapping[str, str] | None = None,
        sources: Mapping[str, ToolSource] | None = None,
        policy: ToolPolicy | None = None,
        masking: Masking = NO_MASKING,
        served: ServedTools = NOTHING_SERVED,
    ) -> None:
        self._tools = {tool.spec.name: tool for tool in tools}
        self.missing = dict(missing or {})
        """Why there is none of the tools that others have, by its name."""
        self._sources = dict(sources or {})
        self._policy = policy or ToolPolicy()
        self._masking = masking
        self._served = served
        self._known: dict[tuple[str, ...], Toolbox] = {}
        """What is here of what workers name, each of which asks more than once."""

    def joined(
        self,
        sources: Mapping[str, ToolSource],
        policy: ToolPolicy,
        *,
        masking: Masking = NO_MASKING,
        served: ServedTools = NOTHING_SERVED,
    ) -> "ToolRegistry":
        """Return a registry of these tools, of `sources` and of what is served, under a policy."""
        return ToolRegistry(
            self._tools.values(),
            missing=self.missing,
            sources=sources,
            policy=policy,
            masking=masking,
            served=served,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the tools that are here, and `SOURCE.*` for each source, sorted."""
        return tuple(sorted([*self._tools, *(f"{source}.*" for source in self._sources)]))

    def here(self, names: Iterable[str]) -> Toolbox:
        """Return those tools among `names` that are here, or that the provider has."""
        names = tuple(names)
        if names not in self._known:
            self._known[names] = self._toolbox(names)
        return self._known[names]

    def _toolbox(self, names: Sequence[str]) -> Toolbox:
        return Toolbox(
            tools={name: self._tools[name] for name in names if name in self._tools},
            served=self._served.among(names, self._policy),
            missing=self._served.problems(names, self._policy),
            policy=self._policy,
            masking=self._masking,
        )

    async def toolbox(self, names: Iterable[str], *, refused: Collection[str] = ()) -> Toolbox:
        """Return the tools that `names` stand for but not those `refused`, asking their sources.

        A name is that of a tool; `SOURCE.TOOL`; or `SOURCE.*`, for all that a source has.
        """
        names = tuple(names)
        wanted = {
            source: [name for name in names if name.partition(".")[0] == source]
            for source in dict.fromkeys(name.partition(".")[0] for name in names)
            if source in self._sources
        }
        if not wanted:
            return self.here(names)
        asked = await anyio.amap(lambda source: self._ask(source, wanted[source]), wanted)
        here = self.here(names)
        tools = dict(here.tools) | {ReadResult.spec.name: ReadResult()}
        for answer in asked:
            tools |= {name: tool for name, tool in answer.tools.items() if name not in refused}
        missing = tuple(sentence for answer in asked for sentence in answer.missing)
        return replace(here, tools=tools, missing=(*here.missing, *missing))

    async def _ask(self, source: str, names: Sequence[str]) -> Toolbox:
        """Return those tools among `names` that a source has."""
        try:
            there = {tool.spec.name: tool for tool in await self._sources[source].tools()}
        except ToolCallError as exc:
            return Toolbox(missing=(str(exc),))
        if f"{source}.*" in names:
            return Toolbox(tools=there)
        return Toolbox(
            tools={name: there[name] for name in names if name in there},
            missing=tuple(f"There is no tool {name!r}." for name in names if name not in there),
        )
