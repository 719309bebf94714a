"""A trace is read in pages that clients can take, and none of it is lost."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp import MCPError
from mcp.types import INVALID_PARAMS, TextResourceContents
from pydantic import JsonValue

from clients import ERAS, Connection, connected
from concertmaster.engine.request import Limits
from concertmaster.mcp_server.resources import trace_page
from concertmaster.runs.intake import RunPolicy
from concertmaster.runs.trace import Span
from fakes import plan_json, subtask

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("mode", ERAS)]


async def read(connection: Connection, uri: str) -> dict[str, Any]:
    (content,) = (await connection.client.read_resource(uri)).contents
    assert isinstance(content, TextResourceContents)
    return json.loads(content.text)


def spans_of(tree: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield all spans of a page that are told of, and not merely named, in their order."""
    if "started_at" in tree:
        yield tree
    for part in tree["spans"]:
        yield from spans_of(part)


async def test_a_short_trace_is_one_page(mode: str, tmp_path: Path) -> None:
    async with connected(tmp_path, mode=mode) as connection:
        run = await connection.ask("run_worker", worker="analyst", task="x")
        trace = await read(connection, f"runs://{run['run_id']}/trace")
    assert "next" not in trace
    assert [span["kind"] for span in spans_of(trace)] == ["run", "plan", "subtask", "call"]


async def test_a_long_trace_is_read_on_from_page_to_page(mode: str, tmp_path: Path) -> None:
    plan = plan_json(*(subtask(f"s{number}") for number in range(50)))
    policy = RunPolicy(limits=Limits(max_subtasks=50))
    async with connected(tmp_path, {"planner": plan}, mode=mode, policy=policy) as connection:
        run = await connection.ask("run_orchestration", task="x")
        whole = await connection.service.trace(run["run_id"])
        page = await read(connection, f"runs://{run['run_id']}/trace")
        pages = [page]
        while "next" in page:
            page = await read(connection, page["next"])
            pages.append(page)
    names = [span["name"] for page in pages for span in spans_of(page)]
    assert len(pages) > 1
    assert names == [span["name"] for span in spans_of(whole.model_dump(mode="json"))]
    assert pages[0]["total"] == len(names)
    assert all(len(json.dumps(page, ensure_ascii=False)) < 10_000 for page in pages)
    assert [page["name"] for page in pages] == ["invoke_workflow"] * len(pages)


async def test_a_span_with_long_texts_is_cut_to_fit_on_a_page(mode: str) -> None:
    del mode
    texts: list[JsonValue] = ["what was found " * 100] * 500
    spans = [span("s0", objective="x" * 20_000), span("s1"), span("s2", objective="y" * 20_000)]
    root = span("r", findings=texts).model_copy(update={"spans": tuple(spans)})
    pages, offset = list[dict[str, Any]](), 0
    while True:
        text = trace_page(root, uri="runs://r/trace", offset=offset)
        assert len(text) < 10_000
        pages.append(json.loads(text))
        if "next_offset" not in pages[-1]:
            break
        offset = pages[-1]["next_offset"]
    assert [item["name"] for page in pages for item in spans_of(page)] == ["r", "s0", "s1", "s2"]


def span(name: str, **attributes: JsonValue) -> Span:
    return Span(
        name=name,
        kind="subtask",
        started_at=1,
        ended_at=2,
        status="succeeded",
        attributes=attributes,
    )


@pytest.mark.parametrize("offset", ["99", "next", "", "9" * 5_000])
async def test_there_is_no_page_beyond_the_end(offset: str, mode: str, tmp_path: Path) -> None:
    async with connected(tmp_path, mode=mode) as connection:
        run = await connection.ask("run_worker", worker="analyst", task="x")
        with pytest.raises(MCPError, match="offset") as caught:
            await read(connection, f"runs://{run['run_id']}/trace?offset={offset}")
    assert caught.value.error.code == INVALID_PARAMS
