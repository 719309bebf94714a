"""The worker tools that every server has."""

from concertmaster.tools.files import ListFiles, ReadFile
from concertmaster.tools.lint import Lint
from concertmaster.tools.registry import ToolRegistry
from concertmaster.tools.search import SearchFiles


def default_tools() -> ToolRegistry:
    """Return `lint`, `list_files`, `read_file` and `search_files`."""
    return ToolRegistry([Lint(), ListFiles(), ReadFile(), SearchFiles()])
