"""The worker tools that every server has."""

from collections.abc import Mapping

from concertmaster.tools.files import ListFiles, ReadFile
from concertmaster.tools.lint import Lint
from concertmaster.tools.policy import ToolPolicy
from concertmaster.tools.registry import ToolRegistry, ToolSource


def default_tools(
    *, sources: Mapping[str, ToolSource] | None = None, policy: ToolPolicy | None = None
) -> ToolRegistry:
    """Return `lint`, `list_files` and `read_file`, and what the `sources` have."""
    return ToolRegistry([Lint(), ListFiles(), ReadFile()], sources=sources, policy=policy)
