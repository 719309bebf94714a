"""The worker tools that every server has."""

from concertmaster.tools.bounds import Bounded
from concertmaster.tools.files import ListFiles, ReadFile
from concertmaster.tools.lint import Lint
from concertmaster.tools.python import Python
from concertmaster.tools.registry import ToolRegistry
from concertmaster.tools.search import SearchFiles


def default_tools() -> ToolRegistry:
    """Return the built-in worker tools, each with bounds on its time and its outcome."""
    return ToolRegistry(
        [
            Bounded(Lint(), seconds=60, max_chars=60_000),
            Bounded(ListFiles(), seconds=20, max_chars=60_000),
            Bounded(Python(), seconds=30, max_chars=20_000),
            Bounded(ReadFile(), seconds=20, max_chars=70_000),
            Bounded(SearchFiles(), seconds=20, max_chars=60_000),
        ]
    )
