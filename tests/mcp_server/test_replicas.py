"""Several servers behind one address, each of which may get any request of a client."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client import ClientRequestContext
from mcp.client.streamable_http import streamable_http_client
from mcp.types import ElicitRequestParams, ElicitResult, TextResourceContents

from clients import hang, structured
from fakes import Script, plan_json, subtask
from postgres import Postgres
from serving import Served, served
from stores import Store, a_store
from taking_tasks import TakesTasks, ask, handed_out

pytestmark = pytest.mark.anyio

OLD, NEW = "the old key, which is long enough for one", "the new key, which is long enough too"
DONE: dict[str, Script] = {"planner": plan_json(subtask("s1"))}


class Alternating(httpx2.AsyncBaseTransport):
    """A proxy that sends each request to another server than the one before."""

    def __init__(self, servers: Sequence[Served]) -> None:
        self._ports = [httpx2.URL(server.address).port for server in servers]
        self._transport = httpx2.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        request.url = request.url.copy_with(port=self._ports[0])
        self._ports.append(self._ports.pop(0))
        return await self._transport.handle_async_request(request)

    async def aclose(self) -> None:
        await self._transport.aclose()


@asynccontextmanager
async def behind_one_address(*servers: Served, **options: Any) -> AsyncGenerator[Client]:
    """Connect a client to a proxy in front of servers."""
    async with httpx2.AsyncClient(transport=Alternating(servers), timeout=30) as http:
        transport = streamable_http_client(servers[0].address, http_client=http)
        async with Client(transport, mode="2026-07-28", **options) as client:
            yield client


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path, postgres: Postgres) -> Store:
    return a_store(request.param, tmp_path / "data", postgres)


async def agree(_: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
    del params
    return ElicitResult(action="accept")


async def approved(*servers: Served) -> str:
    """Return the status of a run whose plan a person approves, or why the answer is refused."""
    order = {"task": "why?", "approve": "always"}
    async with behind_one_address(*servers, elicitation_callback=agree) as client:
        try:
            return structured(await client.call_tool("run_orchestration", order))["status"]
        except MCPError as exc:
            return exc.error.message


async def test_a_run_is_followed_at_another_replica_than_the_one_that_began_it(
    store: Store, tmp_path: Path
) -> None:
    async with (
        served(tmp_path, DONE, store=store) as first,
        served(tmp_path, DONE, store=store) as second,
        behind_one_address(first, second) as client,
    ):
        planned = structured(await client.call_tool("plan_task", {"task": "why?"}))
        begun = await client.call_tool(
            "run_orchestration", {"plan_id": planned["plan_id"], "wait_seconds": 0}
        )
        run_id = structured(begun)["run_id"]
        followed = await client.call_tool("get_run", {"run_id": run_id, "wait_seconds": 30})
        read = await client.read_resource(f"runs://{run_id}/answer")
    assert structured(followed)["status"] == "succeeded"
    (content,) = read.contents
    assert isinstance(content, TextResourceContents)
    assert content.text == "done"


async def test_a_task_is_stopped_at_another_replica_than_the_one_that_gave_it_out(
    store: Store, tmp_path: Path
) -> None:
    async with (
        served(tmp_path, {"planner": hang}, store=store) as first,
        served(tmp_path, {"planner": hang}, store=store) as second,
        behind_one_address(first, second, extensions=[TakesTasks()]) as client,
    ):
        task = await handed_out(client, "run_orchestration", task="why?")
        await ask(client, "tasks/cancel", task.task_id)
        told = [await ask(client, "tasks/get", task.task_id) for _ in range(2)]
    assert [item["status"] for item in told] == ["cancelled", "cancelled"]


@pytest.mark.parametrize(
    ("keys", "outcome"),
    [([NEW, OLD], "succeeded"), ([NEW], "Invalid or expired requestState"), ([], "Invalid")],
)
async def test_only_a_replica_that_has_the_key_takes_what_a_person_has_answered(
    keys: list[str], outcome: str, store: Store, tmp_path: Path
) -> None:
    async with (
        served(tmp_path, DONE, store=store, state_keys=[OLD, NEW]) as first,
        served(tmp_path, DONE, store=store, state_keys=keys) as second,
    ):
        assert outcome in await approved(first, second)
