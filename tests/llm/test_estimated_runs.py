"""What plans were said to take, against what the real SDK and a scripted endpoint make of them."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from building import setup
from concertmaster.engine.events import CallFinished, PlanAccepted
from concertmaster.engine.plan.plan import Plan
from concertmaster.fake_api import Behaviour, serve_fake_api
from concertmaster.llm.anthropic import Connection, open_anthropic
from concertmaster.llm.messages import Models
from concertmaster.llm.pricing import load_prices
from concertmaster.llm.retry import Gate
from concertmaster.llm.usage import Usage
from concertmaster.runs.intake import RunPolicy
from concertmaster.runs.orders import RunOrder
from concertmaster.runs.service import open_service
from concertmaster.store.sqlite.store import open_sqlite
from concertmaster.tools.inputs import InlineInput
from fakes import subtask

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    # The endpoint runs on asyncio alone.
    return "asyncio"


STRATEGIES: Mapping[str, Mapping[str, Any]] = {
    "single": {"kind": "single"},
    "revise": {"kind": "revise"},
    "judge": {"kind": "vote"},
    "rubric": {"kind": "vote", "decide": "rubric", "criteria": [{"name": "true"}]},
    "consensus": {"kind": "vote", "decide": "consensus"},
    "map": {"kind": "map"},
}
INPUTS = tuple(InlineInput(name=name, text=f"All about {name}. " * 200) for name in "abc")


@pytest.mark.parametrize("reply_tokens", [50, 3000])
@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
async def test_a_run_takes_no_less_and_no_more_than_its_estimate(
    strategy: Mapping[str, Any], reply_tokens: int, tmp_path: Path
) -> None:
    plan = Plan(
        subtasks=(
            subtask("s1", strategy=strategy, inputs=list("abc")),
            subtask("s2", "writer", depends_on=["s1"]),
        )
    )
    behaviour = Behaviour(
        reply_tokens=reply_tokens, spread=0.2, values={"points": [], "satisfactory": True}
    )
    async with (
        serve_fake_api(behaviour) as api,
        open_anthropic(
            Connection(api_key="none", base_url=api.address), prices=load_prices()
        ) as llm,
        open_sqlite(tmp_path) as journal,
        open_service(
            journal=journal, setup=replace(setup(Gate(llm)), models=Models()), policy=RunPolicy()
        ) as service,
    ):
        with anyio.fail_after(60):
            state = await service.start(RunOrder(task="all of it", plan=plan, inputs=INPUTS))
            state = await service.wait(state.run_id, seconds=60)
        events = await journal.events(state.run_id)
    said = next(event.estimate for event in events if isinstance(event, PlanAccepted))
    taken = sum(
        (event.reply.usage for event in events if isinstance(event, CallFinished)), start=Usage()
    )
    assert said is not None
    assert said.usd is not None
    assert taken.usd is not None
    assert said.calls.low <= taken.calls <= said.calls.high
    assert said.tokens.low <= taken.tokens <= said.tokens.high
    assert said.usd.low <= taken.usd <= said.usd.high
