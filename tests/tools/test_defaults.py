import pytest

from concertmaster.catalog.definitions import BUILT_IN_TOOLS
from concertmaster.llm.messages import SERVER_TOOLS
from concertmaster.tools.builtin import defaults
from concertmaster.tools.builtin.defaults import WEB_TOOLS, ToolOptions, default_tools
from concertmaster.tools.registry import Bounded

HERE = BUILT_IN_TOOLS - set(SERVER_TOOLS)
"""Those that the provider does not call itself."""


def test_a_server_whose_operator_allows_all_has_every_built_in_tool() -> None:
    tools = default_tools(ToolOptions(test_command=("pytest",)))
    assert set(tools.names) == HERE
    assert tools.missing == {}


def test_no_tests_are_run_unless_the_operator_allows_it() -> None:
    tools = default_tools()
    assert set(tools.names) == HERE - {"run_tests"}
    assert tools.missing == {"run_tests": "not allowed: no test_command is set"}


def test_an_operator_can_keep_workers_off_the_web() -> None:
    tools = default_tools(ToolOptions(web=False))
    assert set(tools.names) == HERE - {"run_tests", *WEB_TOOLS}
    assert {tools.missing[name] for name in WEB_TOOLS} == {"not allowed: web is false"}


def test_a_server_without_the_extra_goes_without_the_web(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_name: str) -> None:
        return None

    monkeypatch.setattr(defaults, "find_spec", absent)
    tools = default_tools()
    assert set(tools.names) == HERE - {"run_tests", *WEB_TOOLS}
    assert all("concertmaster[web]" in tools.missing[name] for name in WEB_TOOLS)


def test_every_built_in_tool_is_bounded() -> None:
    tools = default_tools(ToolOptions(test_command=("pytest",)))
    assert all(isinstance(tool, Bounded) for tool in tools.here(tools.names).tools.values())
