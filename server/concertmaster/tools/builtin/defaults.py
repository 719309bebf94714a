"""The built-in worker tools."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from concertmaster.tools.builtin.arxiv import ArxivSearch
from concertmaster.tools.builtin.files import ListFiles, ReadFile, SearchFiles
from concertmaster.tools.builtin.lint import Lint
from concertmaster.tools.builtin.python import Python
from concertmaster.tools.builtin.run_tests import RunTests
from concertmaster.tools.builtin.web import FetchUrl
from concertmaster.tools.registry import Bounded, ToolRegistry

WEB_TOOLS = ("arxiv_search", "fetch_url")
_WEB_PACKAGES = ("arxiv", "httpx2", "trafilatura")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolOptions:
    """What an operator allows worker tools to do."""

    web: bool = True
    test_command: tuple[str, ...] = ()
    """What runs tests; empty where nothing may."""
    environment: Mapping[str, str] | None = None
    """The variables that tests get; None gives them all there are."""


DEFAULT_OPTIONS = ToolOptions()


def default_tools(options: ToolOptions = DEFAULT_OPTIONS) -> ToolRegistry:
    """Return the built-in tools, each with bounds on its time and its outcome."""
    missing = dict(_missing(options))
    tools = [tool for tool in _tools(options) if tool.spec.name not in missing]
    return ToolRegistry(tools, missing=missing)


def _tools(options: ToolOptions) -> Iterator[Bounded]:
    yield Bounded(ArxivSearch(), seconds=60, max_chars=40_000)
    yield Bounded(FetchUrl(), seconds=40, max_chars=40_000)
    yield Bounded(Lint(), seconds=60, max_chars=60_000)
    yield Bounded(ListFiles(), seconds=20, max_chars=60_000)
    yield Bounded(Python(), seconds=30, max_chars=20_000)
    yield Bounded(ReadFile(), seconds=20, max_chars=70_000)
    tests = RunTests(options.test_command, environment=options.environment)
    yield Bounded(tests, seconds=240, max_chars=20_000)
    yield Bounded(SearchFiles(), seconds=20, max_chars=60_000)


def _missing(options: ToolOptions) -> Iterator[tuple[str, str]]:
    if not options.test_command:
        yield "run_tests", "not allowed: no test_command is set"
    if not options.web:
        yield from ((name, "not allowed: web is false") for name in WEB_TOOLS)
    elif not all(find_spec(package) for package in _WEB_PACKAGES):
        yield from ((name, "not installed: concertmaster[web] has it") for name in WEB_TOOLS)
