"""Tools of other MCP servers, which are real processes with every fault that one may have."""

import json
import os
import re
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import SecretStr

import foreign_server
from concertmaster.errors import ToolCallError
from concertmaster.tools.mcp import pool
from concertmaster.tools.mcp.config import StdioEntry
from concertmaster.tools.mcp.pool import Server, ServerTool, open_servers
from concertmaster.tools.scope import ToolScope

pytestmark = pytest.mark.anyio

SCOPE = ToolScope()
PRIVATE = "sk-a-secret-that-must-not-show"


def entry(*arguments: str, env: Mapping[str, str] | None = None) -> StdioEntry:
    return StdioEntry(
        command=sys.executable,
        args=(foreign_server.__file__, *arguments),
        env={name: SecretStr(value) for name, value in (env or {}).items()},
    )


@asynccontextmanager
async def server(*arguments: str, seconds: float = 20, **env: str) -> AsyncGenerator[Server]:
    with anyio.fail_after(60):
        async with open_servers(
            {"foreign": entry(*arguments, env=env)}, call_seconds=seconds
        ) as servers:
            yield servers["foreign"]


async def tools_of(server: Server) -> dict[str, ServerTool]:
    return {tool.spec.name.partition(".")[2]: tool for tool in await server.tools()}


async def call(server: Server, name: str, **arguments: Any) -> str:
    """Return what a tool says, out of its fence."""
    said = (await (await tools_of(server))[name].call(arguments, SCOPE)).text
    fenced = re.fullmatch(rf'<(tool-result-\w+) name="foreign.{name}">\n(.*)\n</\1>', said, re.S)
    assert fenced is not None
    return fenced[2]


def pids(file: Path) -> list[int]:
    return [int(line) for line in file.read_text(encoding="utf-8").split()]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_tools_are_what_the_server_says_under_its_name() -> None:
    async with server() as foreign:
        tools = await tools_of(foreign)
    spec = tools["echo"].spec
    assert spec.name == "foreign.echo"
    assert spec.description == "the tool echo"
    assert spec.input_schema == foreign_server.TOOLS["echo"]["inputSchema"]
    assert (spec.effects, spec.parallel) == (False, True)
    spec = tools["commit"].spec
    assert (spec.effects, spec.parallel) == (True, False)


async def test_a_tool_with_an_endless_description_is_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with server() as foreign:
        tools = await tools_of(foreign)
    assert set(foreign_server.TOOLS) - set(tools) == {"endless"}
    assert "foreign.endless left out" in caplog.text


async def test_a_list_of_tools_that_is_no_mcp_is_told() -> None:
    async with server("--bad-list") as foreign:
        assert await failures(foreign) == (
            "The MCP server 'foreign' cannot be used: what it answers is not what MCP says."
        )


async def test_a_server_tells_what_it_is() -> None:
    async with server() as foreign:
        about = await foreign.about()
    assert (about.name, about.version, about.protocol) == ("foreign", "1.2", "2025-06-18")


async def test_what_a_tool_says_is_data_with_its_name() -> None:
    async with server() as foreign:
        assert await call(foreign, "echo", text="Ignore that.") == "Ignore that."


async def test_what_is_no_text_is_named_in_a_sentence() -> None:
    async with server() as foreign:
        said = await call(foreign, "picture")
    assert said.split("\n\n") == [
        "[image of type image/png, 12 bytes, which cannot be shown here: it is not of that type]",
        "[audio of type audio/wav, 12 bytes, which cannot be shown here]",
        '[resource "a": file:///a.txt]',
        '[resource "b": file:///b.txt (text/plain, the second)]',
        "[resource file:///a.txt]\nas it says",
        "[resource file:///b.bin, 12 bytes, which cannot be shown here]",
    ]


async def test_images_are_given_beside_the_text_that_names_them() -> None:
    async with server() as foreign:
        said = await (await tools_of(foreign))["draw"].call({}, ToolScope())
    assert "[image 1 of type image/png, 68 bytes, shown with this result]" in said.text
    assert "[image 2 file:///b.gif of type image/gif, 12 bytes, shown with this" in said.text
    assert [image.media_type for image in said.images] == ["image/png", "image/gif"]
    assert said.images[0].data == foreign_server.PNG
    assert foreign_server.PNG not in said.text


async def test_a_failure_has_no_images() -> None:
    async with server() as foreign:
        with pytest.raises(ToolCallError, match="cannot be shown here: the call has failed"):
            await call(foreign, "draw", text="wrong")


async def test_structured_content_stands_in_where_there_is_no_other() -> None:
    async with server() as foreign:
        assert json.loads(await call(foreign, "structured")) == {"n": 1}


async def test_a_flood_is_cut_and_can_be_read_on() -> None:
    async with server() as foreign:
        said = (await (await tools_of(foreign))["flood"].call({}, SCOPE)).text
    assert len(said) < 41_000
    assert "[cut after 40,000 of 10,000,000 characters; to read on, call read_result" in said


@pytest.mark.parametrize(
    ("tool", "reason"),
    [("refuse", "It cannot be done: no"), ("break", "there is no 'break'")],
)
async def test_a_failure_is_told_in_the_server_s_words_as_data(tool: str, reason: str) -> None:
    async with server() as foreign:
        with pytest.raises(ToolCallError, match=r"^<tool-result-") as failure:
            await call(foreign, tool, text="no")
    assert reason in str(failure.value)


async def test_an_answer_that_is_no_mcp_is_told_and_the_server_stays() -> None:
    async with server() as foreign:
        with pytest.raises(ToolCallError, match=r"foreign\.rubbish answered makes no sense"):
            await call(foreign, "rubbish")
        assert await call(foreign, "echo", text="still here") == "still here"


async def test_what_is_no_utf_8_is_passed_over_and_the_server_stays(tmp_path: Path) -> None:
    async with server(PIDS=str(tmp_path / "pids")) as foreign:
        assert await call(foreign, "mumble", text="still here") == "still here"
    assert len(pids(tmp_path / "pids")) == 1


async def test_a_server_whose_line_does_not_end_is_ended_and_started_again(tmp_path: Path) -> None:
    async with server(PIDS=str(tmp_path / "pids")) as foreign:
        tool = (await tools_of(foreign))["pour"]
        with pytest.raises(ToolCallError) as failure:
            await tool.call({}, SCOPE)
        assert str(failure.value).startswith(
            "The connection to the MCP server 'foreign' ended while pour was called, because it "
            "wrote a line of more than 20,000,000 characters."
        )
        assert await call(foreign, "echo", text="back") == "back"
    first, second = pids(tmp_path / "pids")
    assert not is_alive(first)
    assert not is_alive(second)


async def test_a_server_that_begins_with_a_line_without_end_cannot_be_used() -> None:
    async with server("--pour") as foreign:
        assert await failures(foreign) == (
            "The MCP server 'foreign' cannot be used: it wrote a line of more than 20,000,000 "
            "characters."
        )


async def test_a_tool_that_never_answers_is_given_up_and_the_server_stays(tmp_path: Path) -> None:
    async with server(seconds=0.1, PIDS=str(tmp_path / "pids")) as foreign:
        tool = (await tools_of(foreign))["hang"]
        with pytest.raises(ToolCallError, match=r"foreign\.hang did not answer in 0\.1 s"):
            await tool.call({}, SCOPE)
        await foreign.tools()
    assert len(pids(tmp_path / "pids")) == 1


async def test_a_server_that_dies_is_started_again_with_the_next_call(tmp_path: Path) -> None:
    async with server(PIDS=str(tmp_path / "pids")) as foreign:
        with pytest.raises(ToolCallError, match="ended while die was called"):
            await call(foreign, "die")
        assert await call(foreign, "echo", text="back") == "back"
    assert len(pids(tmp_path / "pids")) == 2


async def test_a_server_that_was_killed_is_started_again(tmp_path: Path) -> None:
    async with server(PIDS=str(tmp_path / "pids")) as foreign:
        await foreign.tools()
        os.kill(pids(tmp_path / "pids")[0], 9)
        while len(pids(tmp_path / "pids")) == 1:
            # Until its death is known, calls find the connection closed.
            try:
                await foreign.tools()
            except ToolCallError:
                await anyio.lowlevel.checkpoint()
        assert await call(foreign, "echo", text="back") == "back"


async def test_workers_that_come_at_the_same_time_share_one_server(tmp_path: Path) -> None:
    async with server(PIDS=str(tmp_path / "pids")) as foreign:
        await anyio.amap(lambda text: call(foreign, "echo", text=text), ["a", "b", "c"])
    assert len(pids(tmp_path / "pids")) == 1


async def test_no_server_is_started_before_it_is_needed(tmp_path: Path) -> None:
    async with server(PIDS=str(tmp_path / "pids")):
        pass
    assert not (tmp_path / "pids").exists()


async def test_a_list_of_tools_that_changes_is_read_anew() -> None:
    async with server() as foreign:
        assert "learned" not in await tools_of(foreign)
        await call(foreign, "learn")
        assert await call(foreign, "learned", text="new") == "new"


@pytest.mark.parametrize("arguments", [(), ("--stubborn",)], ids=["usual", "stubborn"])
async def test_servers_end_with_those_who_use_them(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    async with server(*arguments, PIDS=str(tmp_path / "pids")) as foreign:
        await foreign.tools()
        assert is_alive(pids(tmp_path / "pids")[0])
    assert not is_alive(pids(tmp_path / "pids")[0])


async def test_a_server_that_ends_at_once_tells_why_without_its_secrets() -> None:
    async with server("--die", KEY=PRIVATE) as foreign:
        with pytest.raises(ToolCallError) as failure:
            await foreign.tools()
        again = await failures(foreign)
    assert str(failure.value) == (
        "The MCP server 'foreign' cannot be used: it ended; it last wrote: no licence for ***."
    )
    assert again == str(failure.value)


async def failures(foreign: Server) -> str:
    with pytest.raises(ToolCallError) as failure:
        await foreign.tools()
    return str(failure.value)


async def test_a_server_that_could_not_be_used_is_not_tried_again_at_once(tmp_path: Path) -> None:
    async with server("--die", KEY=PRIVATE, PIDS=str(tmp_path / "pids")) as foreign:
        assert await failures(foreign) == await failures(foreign)
    assert len(pids(tmp_path / "pids")) == 1


async def test_a_server_that_could_not_be_used_is_tried_again_later(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(pool, "AGAIN_SECONDS", 0)
    async with server("--die", KEY=PRIVATE, PIDS=str(tmp_path / "pids")) as foreign:
        assert await failures(foreign) == await failures(foreign)
    assert len(pids(tmp_path / "pids")) == 2


async def test_a_server_that_never_answers_is_given_up_and_ended(tmp_path: Path) -> None:
    silent = entry("--silent", env={"PIDS": str(tmp_path / "pids")})
    with anyio.fail_after(60):
        async with open_servers({"silent": silent}, call_seconds=1, connect_seconds=0.5) as servers:
            assert "it did not answer in 0.5 s" in await failures(servers["silent"])
    assert [pid for pid in pids(tmp_path / "pids") if is_alive(pid)] == []


async def test_a_server_that_never_lists_its_tools_is_given_up() -> None:
    async with server("--no-list", seconds=0.1) as foreign:
        assert "no list of its tools came in 0.1 s" in await failures(foreign)


async def test_a_list_of_tools_without_end_is_read_no_further_than_it_makes_sense() -> None:
    async with server("--endless-list") as foreign:
        assert set(await tools_of(foreign)) == {"echo"}


async def test_a_server_that_cannot_be_started_is_named_with_its_command() -> None:
    missing = StdioEntry(command="no-such-command-here")
    with anyio.fail_after(60):
        async with open_servers({"missing": missing}, call_seconds=1) as servers:
            said = await failures(servers["missing"])
    assert "'no-such-command-here' cannot be started (No such file or directory)" in said


async def test_a_server_never_has_the_environment_of_this_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SOMEBODY_S_KEY", "a key that is not meant for it")
    async with server(OWN="yes") as foreign:
        environment = json.loads(await call(foreign, "environment"))
    assert environment["OWN"] == "yes"
    assert "PATH" in environment
    assert set(environment) <= {
        *("OWN", "PATH", "HOME", "LOGNAME", "SHELL", "TERM", "USER"),
        *("LC_CTYPE", "COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"),
    }


async def test_secrets_are_in_no_answer() -> None:
    async with server(KEY=PRIVATE) as foreign:
        assert json.loads(await call(foreign, "environment"))["KEY"] == "***"
        with pytest.raises(ToolCallError) as failure:
            await call(foreign, "refuse", text=PRIVATE)
    assert PRIVATE not in str(failure.value)


async def test_concertmaster_is_never_one_of_its_own_servers() -> None:
    async with server("--ours") as foreign:
        assert "it is Concertmaster itself" in await failures(foreign)
    ours = StdioEntry(command="uvx", args=("concertmaster", "serve"))
    async with open_servers({"ours": ours}, call_seconds=1) as servers:
        assert "it is Concertmaster itself" in await failures(servers["ours"])
