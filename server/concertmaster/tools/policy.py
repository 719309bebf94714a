"""What the operator lets workers do with their tools."""

from collections.abc import Mapping
from typing import Literal

from concertmaster.llm.protocol import ToolSpec

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
