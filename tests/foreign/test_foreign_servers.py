"""What a client of ours gets when workers use servers that others made and maintain."""

import json
import re
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from pydantic import SecretStr

from building import worker
from clients import ERAS, Connection, connected
from concertmaster.llm.messages import Reply, Request, ToolMessage, ToolOutcome
from concertmaster.tools.mcp.config import HttpEntry, StdioEntry
from concertmaster.tools.mcp.pool import open_servers
from fakes import in_turn, wants
from foreign import everything

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(400)]

CLOCK = StdioEntry(command=sys.executable, args=("-m", "mcp_server_time"))
ENTRIES = ["stdio", "http"]


@pytest.fixture(autouse=True)
def installed() -> None:
    everything.ready()


@asynccontextmanager
async def at_work(
    folder: Path,
    *answers: Reply | str,
    over: str = "stdio",
    tools: tuple[str, ...] = ("everything.*",),
    mode: str = "auto",
) -> AsyncGenerator[Connection]:
    """Connect a client to a server that has a clerk, whose model gives these answers."""
    with anyio.fail_after(90):
        async with (
            entry_for(over) as entry,
            open_servers({"everything": entry, "clock": CLOCK}, call_seconds=30) as servers,
            connected(
                folder,
                {"worker:clerk": in_turn(*answers)},
                mode=mode,
                workers=[worker("clerk", tools=tools)],
                sources=servers,
            ) as connection,
        ):
            yield connection


@asynccontextmanager
async def entry_for(over: str) -> AsyncGenerator[StdioEntry | HttpEntry]:
    if over == "stdio":
        yield everything.STDIO.model_copy(update={"env": {"OWN": SecretStr("yes")}})
    else:
        async with everything.over_http() as entry:
            yield entry


async def work(connection: Connection) -> dict[str, object]:
    reply = await connection.ask("run_worker", worker="clerk", task="Do it.")
    assert reply["status"] == "succeeded", reply
    return reply


def outcomes(request: Request) -> tuple[ToolOutcome, ...]:
    message = request.messages[-1]
    assert isinstance(message, ToolMessage)
    return message.outcomes


def said(outcome: ToolOutcome) -> str:
    """Return what a tool said, out of its fence."""
    fenced = re.match(r'<(tool-result-\w+) name="[\w.-]+">\n(.*)\n</\1>', outcome.text, re.S)
    assert fenced is not None, outcome.text
    return fenced[2]


@pytest.mark.parametrize("over", ENTRIES)
async def test_names_descriptions_and_schemas_reach_the_model_as_the_server_has_them(
    over: str, tmp_path: Path
) -> None:
    async with at_work(tmp_path, "Done.", over=over) as connection:
        await work(connection)
    (request,) = connection.llm.requests
    async with entry_for(over) as entry:
        if isinstance(entry, HttpEntry):
            transport = streamable_http_client(entry.url)
        else:
            parameters = StdioServerParameters(command=entry.command, args=list(entry.args))
            transport = stdio_client(parameters)
        async with Client(transport) as client:
            tools = (await client.list_tools()).tools
    given = {spec.name: (spec.description, spec.input_schema) for spec in request.tools}
    del given["read_result"]
    assert len(given) > 10
    assert given == {
        f"everything.{tool.name}": (tool.description, tool.input_schema) for tool in tools
    }


@pytest.mark.parametrize("mode", ERAS)
@pytest.mark.parametrize("over", ENTRIES)
async def test_a_worker_calls_the_tools_it_names_and_no_others(
    over: str, mode: str, tmp_path: Path
) -> None:
    calls = wants(
        ("everything.get-sum", {"a": 40, "b": 2}), ("everything.echo", {"message": "hello"})
    )
    tools = ("everything.get-sum",)
    async with at_work(tmp_path, calls, "42.", over=over, tools=tools, mode=mode) as connection:
        reply = await work(connection)
    assert reply["answer"] == "42."
    assert [spec.name for spec in connection.llm.requests[0].tools] == [
        "read_result",
        "everything.get-sum",
    ]
    sum_, echo = outcomes(connection.llm.requests[-1])
    assert (sum_.failed, said(sum_)) == (False, "The sum of 40 and 2 is 42.")
    assert echo.failed
    assert "There is no tool 'everything.echo' for you" in echo.text


async def test_servers_of_both_eras_are_used_by_one_worker(tmp_path: Path) -> None:
    noon = {"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"}
    calls = wants(("clock.convert_time", noon), ("everything.echo", {"message": "hello"}))
    tools = ("clock.*", "everything.echo")
    async with at_work(tmp_path, calls, "Evening.", tools=tools) as connection:
        reply = await work(connection)
    assert "warnings" not in reply
    time, echo = outcomes(connection.llm.requests[-1])
    assert json.loads(said(time))["time_difference"] == "+9.0h"
    assert said(echo) == "Echo: hello"


@pytest.mark.parametrize("over", ENTRIES)
async def test_links_resources_and_structured_content_pass(over: str, tmp_path: Path) -> None:
    calls = wants(
        ("everything.get-resource-links", {"count": 2}),
        ("everything.get-resource-reference", {"resourceType": "Text", "resourceId": 1}),
        ("everything.get-structured-content", {"location": "Chicago"}),
    )
    async with at_work(tmp_path, calls, "Seen.", over=over) as connection:
        await work(connection)
    links, resource, structured = map(said, outcomes(connection.llm.requests[-1]))
    assert re.findall(r'\[resource "(.+?)": (\S+) \((\S+),', links) == [
        ("Blob Resource 1", "demo://resource/dynamic/blob/1", "text/plain"),
        ("Text Resource 2", "demo://resource/dynamic/text/2", "text/plain"),
    ]
    assert "[resource demo://resource/dynamic/text/1]\nResource 1: " in resource
    assert json.loads(structured)["conditions"] == "Light rain / drizzle"


@pytest.mark.parametrize("over", ENTRIES)
async def test_an_image_passes_beside_its_name(over: str, tmp_path: Path) -> None:
    calls = wants(("everything.get-tiny-image", {}))
    async with at_work(tmp_path, calls, "Seen.", over=over) as connection:
        reply = await work(connection)
    (outcome,) = outcomes(connection.llm.requests[-1])
    (image,) = outcome.images
    assert image.media_type == "image/png"
    assert f"[image 1 of type {image}, shown with this" in said(outcome)
    assert image.data[:100] not in json.dumps(reply)


@pytest.mark.parametrize("over", ENTRIES)
async def test_a_long_result_is_cut_and_the_rest_is_read_by_reference(
    over: str, tmp_path: Path
) -> None:
    message = "".join(f"{number:09}," for number in range(5_000))

    def read_all(request: Request) -> Reply | str:
        if len(request.messages) == 1:
            return wants(("everything.echo", {"message": message}))
        (outcome,) = outcomes(request)
        cut = re.search(r'result "(\w+)" and offset (\d+)', outcome.text)
        if cut is None:
            return "Read."
        return wants(("read_result", {"result": cut[1], "offset": int(cut[2])}))

    async with at_work(tmp_path, over=over) as connection:
        connection.llm.scripts["worker:clerk"] = read_all
        await work(connection)
    parts = [said(*outcomes(request)) for request in connection.llm.requests[1:]]
    assert "".join(parts) == f"Echo: {message}"
    assert len(parts[0]) == 40_000


async def test_what_may_change_something_is_denied_and_the_reply_says_so(tmp_path: Path) -> None:
    calls = wants(("everything.toggle-simulated-logging", {}))
    async with at_work(tmp_path, calls, "I may not.") as connection:
        reply = await work(connection)
    assert "everything.toggle-simulated-logging may change something" in str(reply["warnings"])
    assert outcomes(connection.llm.requests[-1])[0].failed


async def test_arguments_that_the_server_refuses_are_told_in_its_words(tmp_path: Path) -> None:
    calls = wants(("everything.get-sum", {"a": "many"}))
    async with at_work(tmp_path, calls, "It cannot be done.") as connection:
        await work(connection)
    (outcome,) = outcomes(connection.llm.requests[-1])
    assert outcome.failed
    assert "expected number" in said(outcome)


async def test_a_server_has_the_environment_of_its_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOMEBODY_S_KEY", "a key that is not meant for it")
    async with at_work(tmp_path, wants(("everything.get-env", {})), "Seen.") as connection:
        await work(connection)
    environment = json.loads(said(*outcomes(connection.llm.requests[-1])))
    assert environment["OWN"] == "yes"
    assert "SOMEBODY_S_KEY" not in environment
