"""Names of worker tools as the provider takes them."""

import hashlib
import re
from collections.abc import Iterable

from concertmaster.llm.protocol import Reply, Request

MOST_CHARS = 64
_REFUSED = re.compile(r"[^A-Za-z0-9_-]")


class ToolNames:
    """The tools of a request, each with a name that the provider takes: its own where it can.

    `time.now` becomes `time__now`. What would be too long, or the name of another tool, ends
    with a hash of the name instead.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._ours: dict[str, str] = {}
        self._theirs: dict[str, str] = {}
        # Those that stay as they are come first, so that no other takes their name.
        for name in sorted(names, key=lambda name: _spelled(name) != name):
            spelled = _spelled(name)
            if spelled in self._ours:
                spelled = _hashed(name)
            self._ours[spelled] = name
            self._theirs[name] = spelled

    @classmethod
    def of(cls, request: Request) -> "ToolNames":
        """Return the names of the tools of a request."""
        return cls(spec.name for spec in request.tools)

    def theirs(self, name: str) -> str:
        """Return what the provider knows a tool as; also one that is not there any more."""
        return self._theirs.get(name) or _spelled(name)

    def in_ours(self, reply: Reply) -> Reply:
        """Return a reply with the tool calls under our own names."""
        calls = tuple(
            call.model_copy(update={"name": self._ours.get(call.name, call.name)})
            for call in reply.tool_calls
        )
        return reply.model_copy(update={"tool_calls": calls})


def _spelled(name: str) -> str:
    spelled = _REFUSED.sub("_", name.replace(".", "__", 1))
    return spelled if len(spelled) <= MOST_CHARS else _hashed(name)


def _hashed(name: str) -> str:
    digest = hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:8]
    start = _REFUSED.sub("_", name.replace(".", "__", 1))[: MOST_CHARS - len(digest) - 1]
    return f"{start}_{digest}"
