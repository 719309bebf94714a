"""What results cite, as MCP clients see it."""

from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp.types import TextResourceContents

from clients import Connection, connected, hang, structured, text_of
from concertmaster.llm.messages import MOST_SOURCES, Source
from fakes import USAGE, Script, plan_json, reply_with, subtask

pytestmark = pytest.mark.anyio

HERE = Source(url="https://here.example", title="Here", cited="It is so.")
AGAIN = Source(url="https://here.example", title="Here", cited="And so on.")
THERE = Source(url="https://there.example")
LOOKED_UP = USAGE.model_copy(update={"searches": 2, "fetches": 1, "containers": 3})

PLAN = plan_json(subtask("s1"), subtask("s2", "critic"))
SCRIPTS = {
    "planner": PLAN,
    "worker:analyst": reply_with("one", sources=(HERE, AGAIN), usage=LOOKED_UP),
    "worker:critic": reply_with("two", sources=(THERE,)),
    "synthesizer": "both",
}


async def read(connection: Connection, uri: str) -> str:
    (content,) = (await connection.client.read_resource(uri)).contents
    assert isinstance(content, TextResourceContents)
    return content.text


async def test_an_answer_comes_with_what_its_results_cite(tmp_path: Path) -> None:
    async with connected(tmp_path, SCRIPTS) as connection:
        result = await connection.client.call_tool("run_orchestration", {"task": "t"})
        reply = structured(result)
        answer = await read(connection, f"runs://{reply['run_id']}/answer")
    assert reply["sources"] == [
        {"url": "https://here.example", "title": "Here", "cited": "It is so."},
        {"url": "https://there.example"},
    ]
    lines = "- Here, https://here.example: “It is so.”\n- https://there.example"
    assert f"Sources:\n{lines}" in text_of(result)
    assert answer == f"both\n\nSources:\n\n{lines}"


async def test_a_subtask_has_every_passage_that_it_cites(tmp_path: Path) -> None:
    async with connected(tmp_path, SCRIPTS) as connection:
        run_id = (await connection.ask("run_orchestration", task="t"))["run_id"]
        result = await connection.client.call_tool(
            "get_run", {"run_id": run_id, "subtask_id": "s1"}
        )
    reply = structured(result)
    assert [source["cited"] for source in reply["sources"]] == ["It is so.", "And so on."]
    assert "- Here, https://here.example: “And so on.”" in text_of(result)


async def test_the_usage_tells_what_the_provider_looked_up(tmp_path: Path) -> None:
    async with connected(tmp_path, SCRIPTS) as connection:
        result = await connection.client.call_tool("run_orchestration", {"task": "t"})
    (usage,) = structured(result)["usage"]
    assert (usage["searches"], usage["fetches"], usage["containers"]) == (2, 1, 3)
    assert "; 2 web searches; 1 pages fetched; 3 containers" in text_of(result)


async def test_more_sources_than_fit_are_counted(tmp_path: Path) -> None:
    many = tuple(
        Source(url=f"https://{number}.example/{'x' * 400}", title="T" * 400, cited="c" * 300)
        for number in range(MOST_SOURCES)
    )
    scripts = SCRIPTS | {"worker:analyst": reply_with("one", sources=many)}
    async with connected(tmp_path, scripts) as connection:
        result = await connection.client.call_tool("run_orchestration", {"task": "t"})
    reply = structured(result)
    shown = len(reply["sources"])
    assert 0 < shown < MOST_SOURCES
    assert reply["more_sources"] == MOST_SOURCES + 1 - shown
    assert f"- and {reply['more_sources']} more" in text_of(result)


async def test_an_answer_of_a_schema_stays_json(tmp_path: Path) -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "integer"}}}
    scripts = SCRIPTS | {"synthesizer": '{"a": 1}'}
    async with connected(tmp_path, scripts) as connection:
        reply = await connection.ask("run_orchestration", task="t", output_schema=schema)
        assert await read(connection, f"runs://{reply['run_id']}/answer") == '{"a": 1}'
    assert len(reply["sources"]) == 2


async def test_an_answer_that_cites_nothing_says_nothing_of_sources(tmp_path: Path) -> None:
    async with connected(tmp_path, {"planner": PLAN}) as connection:
        result = await connection.client.call_tool("run_orchestration", {"task": "t"})
    assert "sources" not in structured(result)
    assert "Sources" not in text_of(result)


async def test_a_subtask_that_has_not_ended_cites_nothing_yet(tmp_path: Path) -> None:
    plan = plan_json(subtask("s1"), subtask("s2", "critic", depends_on=["s1"]))
    scripts: dict[str, Script] = {**SCRIPTS, "planner": plan, "worker:critic": hang}
    async with connected(tmp_path, scripts) as connection:
        reply = await connection.ask("run_orchestration", task="t", wait_seconds=0)
        with anyio.fail_after(60):
            while "sources" not in reply:
                reply = await connection.ask("get_run", run_id=reply["run_id"], wait_seconds=1)
    assert [source["url"] for source in reply["sources"]] == ["https://here.example"]
