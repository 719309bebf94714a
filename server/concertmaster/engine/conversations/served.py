"""What the provider calls itself in a conversation: how much more of it, and what came of it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from concertmaster.llm.protocol import Reply, Request
from concertmaster.llm.server_tools import ServerTool, Source, distinct


class Served:
    """The tools that the provider calls itself in one conversation.

    Their bounds are on all replies together, while the provider knows of one at a time.
    """

    def __init__(self) -> None:
        self._tools: Sequence[ServerTool] = ()
        self._uses: Counter[str] = Counter()
        self._errors: Counter[tuple[str, str]] = Counter()
        self._pending: set[str] = set()
        """The tools that the last reply had called and not heard of yet."""
        self._container = ""
        self.sources: tuple[Source, ...] = ()
        """What the replies so far have cited."""

    def offer(self, tools: Sequence[ServerTool]) -> None:
        """Have these tools from now on, and no others."""
        self._tools = tools

    def added_to(self, request: Request, *, paused: bool) -> Request:
        """Return a request with the tools that may still be used.

        A tool whose outcome is pending has to stay, and all of them where a reply has `paused`.
        """
        if not (self._tools or self._container):
            return request
        left = [(tool, tool.max_uses - self._uses[tool.name]) for tool in self._tools]
        tools = tuple(
            replace(tool, max_uses=max(uses, 1))
            for tool, uses in left
            if uses > 0 or paused or tool.name in self._pending
        )
        return replace(request, server_tools=tools, container=self._container)

    def take(self, reply: Reply) -> None:
        """Take in what a reply tells of the tools."""
        for use in reply.server_tool_uses:
            # A use that began in an earlier reply has no arguments in this one, and counts once.
            self._uses[use.name] += bool(use.arguments)
            self._errors[use.name, use.error] += bool(use.error)
        self._pending = {use.name for use in reply.server_tool_uses if use.pending}
        self._container = reply.container or self._container
        self.sources = distinct(self.sources, reply.sources)

    @property
    def notes(self) -> tuple[str, ...]:
        """Return a sentence for each thing that went wrong with a tool."""
        return tuple(
            f"{name} failed with {error}{f' ({count} times)' if count > 1 else ''}."
            for (name, error), count in self._errors.items()
            if count
        )
