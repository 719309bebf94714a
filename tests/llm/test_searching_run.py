"""A run whose workers have the provider search, over HTTP and the real SDK."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from building import setup, worker
from concertmaster.engine.plan.plan import Plan
from concertmaster.fake_api import Behaviour, ServedApi, serve_fake_api
from concertmaster.fake_api.replies import ADDRESS, CITED, TITLE
from concertmaster.llm.anthropic import Connection, open_anthropic
from concertmaster.llm.messages import Models, ServerTool, Source
from concertmaster.llm.pricing import load_prices
from concertmaster.llm.retry import Gate
from concertmaster.runs.intake import RunPolicy
from concertmaster.runs.orders import RunOrder
from concertmaster.runs.service import RunService, open_service
from concertmaster.store.sqlite.store import open_sqlite
from concertmaster.tools.registry import ServedTools
from fakes import subtask

pytestmark = pytest.mark.anyio

SERVED = ServedTools(there={"web_search": ServerTool(name="web_search", max_uses=2)})
PLAN = Plan(subtasks=(subtask("s1"), subtask("s2")))


@asynccontextmanager
async def runs_against(api: ServedApi, folder: Path) -> AsyncGenerator[RunService]:
    connection = Connection(api_key="none", base_url=api.address)
    async with (
        open_anthropic(connection, prices=load_prices()) as llm,
        open_sqlite(folder) as journal,
    ):
        workers = [worker("analyst", tools=("web_search",))]
        given = replace(setup(Gate(llm), workers=workers, served=SERVED), models=Models())
        async with open_service(journal=journal, setup=given, policy=RunPolicy()) as service:
            yield service


@pytest.mark.parametrize("pause", [False, True])
async def test_searches_are_paid_for_as_charged_and_cited_also_after_a_pause(
    pause: bool, tmp_path: Path
) -> None:
    async with (
        serve_fake_api(Behaviour(pause=pause, reply_tokens=20)) as api,
        runs_against(api, tmp_path) as service,
    ):
        started = await service.start(RunOrder(task="Why?", plan=PLAN))
        with anyio.fail_after(60):
            state = await service.wait(started.run_id, seconds=60)
        trace = await service.trace(started.run_id)
    assert state.status == "succeeded"
    totals = api.ledger.totals
    assert state.usage.searches == totals.searches == 2
    assert state.usage.tokens_in == totals.tokens_in
    assert state.usage.usd is not None
    assert state.usage.usd > 2 * 0.01
    results = [item.result for item in state.subtasks.values()]
    assert [result and result.sources for result in results] == [
        (Source(url=ADDRESS, title=TITLE, cited=CITED),)
    ] * 2
    calls = [call for span in trace.spans for call in span.spans]
    by_workers = [call for call in calls if call.attributes["caller"] == "worker:analyst"]
    assert len(by_workers) == (4 if pause else 2)
    assert sum(len(call.spans) for call in by_workers) == 2
