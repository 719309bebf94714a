"""A trace is read in pages that clients can take, and none of it is lost."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp import MCPError
from mcp.types import INVALID_PARAMS, TextResourceContents

from clients import ERAS, Connection, connected
from concertmaster.engine.record.request import Limits
from concertmaster.protocol.trace_pages import TRACE_CHARS
from concertmaster.runs.intake import RunPolicy
from fakes import plan_json, subtask

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("mode", ERAS)]


async def read(connection: Connection, uri: str) -> dict[str, Any]:
    (content,) = (await connection.client.read_resource(uri)).contents
    assert isinstance(content, TextResourceContents)
    return json.loads(content.text)


def spans(tree: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield all spans of a page that are told of, and not merely named, in their order."""
    if "started_at" in tree:
        yield tree
    for part in tree["spans"]:
        yield from spans(part)


async def test_a_short_trace_is_one_page(mode: str, tmp_path: Path) -> None:
    async with connected(tmp_path, mode=mode) as connection:
        run = await connection.ask("run_worker", worker="analyst", task="x")
        trace = await read(connection, f"runs://{run['run_id']}/trace")
    assert "next" not in trace
    assert [span["kind"] for span in spans(trace)] == ["run", "plan", "subtask", "call"]


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
    names = [span["name"] for page in pages for span in spans(page)]
    assert len(pages) > 1
    assert names == [span["name"] for span in spans(whole.model_dump(mode="json"))]
    assert pages[0]["total"] == len(names)
    assert all(len(json.dumps(page)) < TRACE_CHARS * 1.5 for page in pages)
    assert [page["name"] for page in pages] == ["invoke_workflow"] * len(pages)


@pytest.mark.parametrize("offset", ["99", "next", "", "9" * 5_000])
async def test_there_is_no_page_beyond_the_end(offset: str, mode: str, tmp_path: Path) -> None:
    async with connected(tmp_path, mode=mode) as connection:
        run = await connection.ask("run_worker", worker="analyst", task="x")
        with pytest.raises(MCPError, match="offset") as caught:
            await read(connection, f"runs://{run['run_id']}/trace?offset={offset}")
    assert caught.value.error.code == INVALID_PARAMS
