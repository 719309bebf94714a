"""Tools that workers may have the model's provider call, and why others are missing."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from concertmaster.llm.server_tools import SERVER_TOOLS, ServerTool
from concertmaster.tools.policy import ToolPolicy


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
