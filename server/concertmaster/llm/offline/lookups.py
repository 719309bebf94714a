"""What rules look for beside the inputs: a search in the roots, and the files that it finds."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from concertmaster.llm.messages import Document, ToolCall, ToolOutcome, ToolSpec
from concertmaster.llm.offline.sources import Source, parse

SEARCH, READ = "search_files", "read_file"
"""The worker tools that it takes."""

MOST_READ = 10
"""How many files are read of those that are found."""

_MOST_CHARS = 800

_LINE = re.compile(r"(.+?):([0-9]+): (.*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A line that a search has found."""

    file: str
    line: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """A search for lines, in files whose names match."""

    pattern: str
    files: str
    fits: Callable[[Hit], bool] = lambda _hit: True
    """Tells whether a line that is found is one of those looked for."""


Wish = Callable[[Sequence[Source]], Lookup | None]
"""Tells what would help to judge some sources, if anything would."""


def any_of(names: Iterable[str]) -> str:
    """Return a pattern for as many of the names as one search takes."""
    pattern = ""
    for name in sorted(set(names)):
        longer = f"{pattern}|{re.escape(name)}" if pattern else re.escape(name)
        if len(longer) > _MOST_CHARS:
            break
        pattern = longer
    return rf"\b(?:{pattern})\b"


def can_look_up(tools: Iterable[ToolSpec]) -> bool:
    """Tell whether these tools are enough."""
    return {SEARCH, READ} <= {tool.name for tool in tools}


def search_call(number: int, lookup: Lookup) -> ToolCall:
    """Return the call that searches."""
    return ToolCall(
        id=f"search-{number}",
        name=SEARCH,
        arguments={"pattern": lookup.pattern, "files": lookup.files},
    )


def hits(outcome: ToolOutcome | None) -> list[Hit]:
    """Return what a search has found."""
    if outcome is None or outcome.failed:
        return []
    found = map(_LINE.fullmatch, outcome.text.splitlines())
    return [Hit(file=line[1], line=int(line[2]), text=line[3]) for line in found if line]


class SourcesBeside:
    """Python files that are no inputs, found by searches and then read."""

    def __init__(
        self,
        lookups: Sequence[Lookup],
        *,
        inputs: Sequence[Document],
        done: Mapping[str, ToolOutcome],
    ) -> None:
        """Begin with the calls that are `done`, which may be none."""
        self._done = done
        self._searches = [search_call(*numbered) for numbered in enumerate(lookups, start=1)]
        given = {document.name for document in inputs}
        found = [
            hit.file
            for call, lookup in zip(self._searches, lookups, strict=True)
            for hit in hits(done.get(call.id))
            if hit.file not in given and lookup.fits(hit)
        ]
        self._files = list(dict.fromkeys(found))[:MOST_READ]

    @property
    def calls(self) -> list[ToolCall]:
        """Return the calls that it takes, as far as is known."""
        reads = [
            ToolCall(id=f"read-{number}", name=READ, arguments={"path": file})
            for number, file in enumerate(self._files, start=1)
        ]
        return [*self._searches, *reads]

    def sources(self) -> list[Source]:
        """Return those that could be read."""
        read = [self._done.get(f"read-{number}") for number in range(1, len(self._files) + 1)]
        return parse(
            [
                Document(name=file, text=outcome.text)
                for file, outcome in zip(self._files, read, strict=True)
                if outcome is not None and not outcome.failed
            ]
        )
