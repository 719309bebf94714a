"""Worker tools: what one is, the set that there is, and those that one worker has."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import anyio
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from concertmaster.errors import ToolCallError, ToolDeniedError
from concertmaster.llm.fencing import fence, spelled
from concertmaster.llm.messages import SERVER_TOOLS, ServerTool, ToolSpec
from concertmaster.llm.usage import whole_characters
from concertmaster.tools.arguments import parse_arguments, shown
from concertmaster.tools.images import Illustrated
from concertmaster.tools.redaction import NO_MASKING, Masking
from concertmaster.tools.scope import READ_RESULT, ToolScope

Decision = Literal["allow", "ask", "deny"]
"""Let workers call a tool, only if somebody agrees to the call, or never."""


class ToolPolicy:
    """Rules by name: `git.git_log`, `git.*` for all tools of a server, or `*` for all there are.

    Of several that fit, the one that fits fewest tools counts. Without any, a tool may be
    called if it changes nothing.
    """

    def __init__(self, rules: Mapping[str, Decision] | None = None) -> None:
        self._rules: dict[str, Decision] = dict(rules or {})

    def decision(self, spec: ToolSpec) -> Decision:
        """Return what is to be done with calls of a tool."""
        return self._rule(spec.name) or ("deny" if spec.effects else "allow")

    def refusal(self, spec: ToolSpec) -> str:
        """Return why a tool is never called, for the model; nothing if it may be."""
        if self.decision(spec) != "deny":
            return ""
        if self._rule(spec.name):
            return not_called(spec.name, "may not be called by workers")
        return not_called(spec.name, "may change something, and the operator has not allowed that")

    def rules_out(self, name: str) -> bool:
        """Tell whether a tool is not even offered whose calls the provider makes, unasked."""
        return self._rule(name) in ("ask", "deny")

    def _rule(self, name: str) -> Decision | None:
        server, dot, _ = name.partition(".")
        fitting = (name, f"{server}.*" if dot else "", "*")
        return next((self._rules[each] for each in fitting if each in self._rules), None)


def not_called(tool: str, why: str) -> str:
    """Return what a model is told of a call that is not made."""
    return (
        f"Not called: {tool} {why}. Do without it; if the objective cannot be met like that, "
        "say so. Another try changes nothing."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedTools:
    """What the provider calls itself."""

    there: Mapping[str, ServerTool] = field(default_factory=dict[str, ServerTool])
    """By name."""
    missing: Mapping[str, str] = field(default_factory=dict[str, str])
    """Why others are not there, by name."""
    left_out: Mapping[str, str] = field(default_factory=dict[str, str])
    """Why the operator leaves out others, by name; that is not news in each run."""

    def among(self, names: Iterable[str], policy: ToolPolicy) -> tuple[ServerTool, ...]:
        """Return those among `names` that there are and that a policy does not rule out."""
        wanted = set(names)
        return tuple(
            tool
            for name, tool in self.there.items()
            if name in wanted and not policy.rules_out(name)
        )

    def problems(self, names: Iterable[str], policy: ToolPolicy) -> tuple[str, ...]:
        """Return a sentence for each reason why there are none of some tools among `names`."""
        wanted = set(names)
        reasons: dict[str, list[str]] = {}
        for name in SERVER_TOOLS:
            if name in wanted - set(self.left_out) and (reason := self.reason(name, policy)):
                reasons.setdefault(reason, []).append(name)
        return tuple(f"{', '.join(names)}: {reason}." for reason, names in reasons.items())

    def reason(self, name: str, policy: ToolPolicy) -> str:
        """Return why workers go without a tool; nothing if they need not."""
        if name in self.there and policy.rules_out(name):
            return "not allowed by tool_policy"
        return self.missing.get(name) or self.left_out.get(name, "")


NOTHING_SERVED = ServedTools()


class ReadResultArguments(BaseModel):
    """What `read_result` is called with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    result: str = Field(min_length=1, description="Which result, as told where it was cut.")
    offset: int = Field(ge=0, description="The first character to return, from 0.")


class ReadResult:
    """Returns the next part of a result that was cut."""

    spec = ToolSpec(
        name=READ_RESULT,
        description="Returns the next part of a tool's result that was too long to return whole.",
        input_schema=ReadResultArguments.model_json_schema(),
    )

    async def call(self, arguments: Mapping[str, JsonValue], scope: ToolScope, /) -> str:
        """Return the part, and how to read on if there is more."""
        asked = parse_arguments(ReadResultArguments, arguments)
        return scope.long_results.part(asked.result, asked.offset)


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


MAX_ERROR_CHARS = 4_000
"""How much a tool says of why it failed."""


class Bounded:
    """A worker tool that ends in time, and says no more than `max_chars`, as data."""

    def __init__(self, tool: TextTool, *, seconds: float, max_chars: int) -> None:
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
