import pytest

from concertmaster.errors import ToolCallError, ToolDeniedError
from concertmaster.tools.registry import ToolPolicy, ToolRegistry
from fakes import FakeSource, FakeTool

pytestmark = pytest.mark.anyio


def tool(name: str, **traits: bool) -> FakeTool:
    return FakeTool(name, lambda _arguments, _scope: name, **traits)


def registry(policy: ToolPolicy | None = None) -> ToolRegistry:
    git = FakeSource(tool("git.log"), tool("git.commit", effects=True))
    return ToolRegistry([tool("look")], sources={"git": git}, policy=policy)


def test_a_source_is_named_by_all_that_it_has() -> None:
    assert registry().names == ("git.*", "look")


async def test_a_worker_gets_the_tools_that_it_names_and_no_others() -> None:
    toolbox = await registry().toolbox(["look", "git.log"])
    assert set(toolbox.tools) == {"look", "read_result", "git.log"}
    assert toolbox.missing == ()


async def test_a_worker_gets_all_tools_of_a_source_that_it_names() -> None:
    toolbox = await registry().toolbox(["git.*"])
    assert set(toolbox.tools) == {"read_result", "git.log", "git.commit"}


async def test_a_worker_that_names_no_source_gets_no_tool_for_long_results() -> None:
    assert set((await registry().toolbox(["look", "hidden"])).tools) == {"look"}


async def test_a_tool_that_is_not_in_the_toolbox_is_not_given() -> None:
    toolbox = await registry().toolbox(["look"])
    with pytest.raises(ToolCallError, match="Your tools: look"):
        toolbox.get("git.log")
    assert not toolbox.may_change("git.log")


async def test_only_tools_that_are_allowed_and_not_read_only_may_change_something() -> None:
    denying = await registry().toolbox(["git.*"])
    allowing = await registry(ToolPolicy({"git.*": "allow"})).toolbox(["git.*"])
    assert not denying.may_change("git.commit")
    assert allowing.may_change("git.commit")
    assert not allowing.may_change("git.log")
    with pytest.raises(ToolDeniedError):
        denying.get("git.commit")
    assert allowing.get("git.commit").spec.name == "git.commit"
