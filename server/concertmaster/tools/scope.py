"""What one worker's tool calls may reach."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from concertmaster.errors import ToolCallError
from concertmaster.llm.fencing import fence
from concertmaster.llm.messages import Document
from concertmaster.tools.images import Images

READ_RESULT = "read_result"
"""The name of the tool that reads on in a long result."""

PART_CHARS = 40_000
"""How much of a result is read at once."""

KEPT_CHARS = 20_000_000
"""How much of one worker's long results is kept."""


@dataclass(frozen=True, slots=True)
class _Kept:
    source: str
    text: str
    lost: int
    """How many characters more there were."""


class LongResults:
    """What tools of others have said to one worker, fenced, and kept where it is long."""

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}
        self._chars = 0

    def fenced(self, source: str, text: str) -> str:
        """Return what `source` says as data for a model: all of it, or the beginning."""
        if len(text) <= PART_CHARS:
            return fence("tool-result", source, text)
        reference = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:12]
        if reference not in self._kept:
            kept = text[: KEPT_CHARS - self._chars]
            self._kept[reference] = _Kept(source, kept, lost=len(text) - len(kept))
            self._chars += len(kept)
        return self.part(reference, 0)

    def part(self, reference: str, offset: int) -> str:
        """Return what a long result says from `offset` on, as data, and how to read on.

        Raises:
            ToolCallError: there is no such result, or it ends before.
        """
        if reference not in self._kept:
            raise ToolCallError(
                f"There is no result {reference!r} any more. Call the tool again that it was of."
            )
        kept = self._kept[reference]
        chars = len(kept.text)
        if offset > chars:
            raise ToolCallError(f"The result {reference!r} has only {chars:,} characters.")
        end = offset + PART_CHARS
        part = fence("tool-result", kept.source, kept.text[offset:end])
        if end < chars:
            return (
                f"{part}\n[cut after {end:,} of {chars:,} characters; to read on, call "
                f'{READ_RESULT} with result "{reference}" and offset {end}]'
            )
        return f"{part}\n[{kept.lost:,} more characters were not kept]" if kept.lost else part


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolScope:
    """What one subtask's tool calls may reach: its own inputs, and files under the roots."""

    inputs: tuple[Document, ...] = ()
    roots: tuple[Path, ...] = ()
    long_results: LongResults = field(default_factory=LongResults)
    """Results of which the worker got only the beginning yet."""
    images: Images = field(default_factory=Images)
    """The images that the worker has been given."""
