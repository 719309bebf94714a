"""What one worker's tool calls may reach."""

from dataclasses import dataclass, field
from pathlib import Path

from concertmaster.llm.protocol import Document
from concertmaster.tools.images import Images
from concertmaster.tools.long_results import LongResults


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolScope:
    """What one subtask's tool calls may reach: its own inputs, and files under the roots."""

    inputs: tuple[Document, ...] = ()
    roots: tuple[Path, ...] = ()
    long_results: LongResults = field(default_factory=LongResults)
    """Results of which the worker got only the beginning yet."""
    images: Images = field(default_factory=Images)
    """The images that the worker has been given."""
