"""The worker tools that every server has."""

from concertmaster.tools.files import ListFiles, ReadFile
from concertmaster.tools.lint import Lint
from concertmaster.tools.registry import ToolRegistry


def default_tools() -> ToolRegistry:
    """Return `lint`, `list_files` and `read_file`."""
    return ToolRegistry([Lint(), ListFiles(), ReadFile()])
