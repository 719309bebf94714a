"""Tools of an MCP server that is reached over HTTP."""

import anyio
import pytest
from pydantic import SecretStr

from concertmaster.errors import ToolCallError
from concertmaster.tools.mcp.config import HttpEntry
from concertmaster.tools.mcp.pool import Server, open_servers
from concertmaster.tools.scope import ToolScope
from http_server import serve

pytestmark = pytest.mark.anyio

KEY = "a-key-that-must-not-show"


def entry(port: int, key: str = KEY) -> HttpEntry:
    headers = {"Authorization": SecretStr(f"Bearer {key}")}
    return HttpEntry(url=f"http://127.0.0.1:{port}/mcp", headers=headers)


async def add(server: Server, first: int, second: int) -> str:
    (tool,) = await server.tools()
    return (await tool.call({"first": first, "second": second}, ToolScope())).text


async def test_a_server_over_http_is_called_with_its_headers() -> None:
    with anyio.fail_after(60):
        async with (
            serve(key=KEY) as port,
            open_servers({"calculator": entry(port)}, call_seconds=10) as servers,
        ):
            server = servers["calculator"]
            assert "\n42\n" in await add(server, 40, 2)
            about = await server.about()
    assert (about.name, about.version) == ("calculator", "3")


async def test_a_wrong_key_is_told_without_it() -> None:
    with anyio.fail_after(60):
        async with (
            serve(key=KEY) as port,
            open_servers({"calculator": entry(port, "another-key")}, call_seconds=10) as servers,
        ):
            with pytest.raises(ToolCallError) as failure:
                await servers["calculator"].tools()
    assert "The MCP server 'calculator' cannot be used" in str(failure.value)
    assert "another-key" not in str(failure.value)


async def test_arguments_that_a_tool_does_not_take_are_refused_by_it() -> None:
    with anyio.fail_after(60):
        async with (
            serve(key=KEY) as port,
            open_servers({"calculator": entry(port)}, call_seconds=10) as servers,
        ):
            (tool,) = await servers["calculator"].tools()
            with pytest.raises(ToolCallError, match="first"):
                await tool.call({"second": 2}, ToolScope())


async def test_a_server_that_goes_away_and_comes_back_is_connected_to_anew() -> None:
    with anyio.fail_after(60):
        async with serve(key=KEY) as port:
            pass
        async with open_servers({"calculator": entry(port)}, call_seconds=10) as servers:
            server = servers["calculator"]
            async with serve(key=KEY, port=port):
                (tool,) = await server.tools()
            with pytest.raises(ToolCallError):
                await tool.call({"first": 1, "second": 2}, ToolScope())
            async with serve(key=KEY, port=port):
                said = await tool.call({"first": 1, "second": 2}, ToolScope())
                assert "\n3\n" in said.text
