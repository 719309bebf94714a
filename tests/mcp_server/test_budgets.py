"""Budgets, estimates and usage as MCP clients ask for them and see them."""

from pathlib import Path
from typing import Any

import anyio
import pytest

from clients import connected, hang, text_of
from concertmaster.engine.request import RunRequest
from concertmaster.llm.messages import Reply
from concertmaster.llm.pricing import Rates
from concertmaster.llm.usage import Usage
from concertmaster.replies.build import budget, usage_lines, usd_of
from concertmaster.runs.state import RunState
from fakes import Script, plan_json, reply_with, subtask

pytestmark = pytest.mark.anyio

DEAR_REPLIES = Rates(input=0, output=1000)
PLAN = plan_json(subtask("s1"), subtask("s2", depends_on=["s1"]), subtask("s3", depends_on=["s2"]))


def dear(tokens: int, text: str = "done", **kinds: Any) -> Reply:
    """Return a reply of so many tokens, a tenth of a cent each."""
    usage = Usage(model="fake", calls=1, attempts=1, tokens_out=tokens, usd=tokens / 1000)
    return reply_with(text, usage=usage.model_copy(update=kinds))


SPENDING: dict[str, Script] = {
    "planner": PLAN,
    "worker:analyst": dear(2000),
    "synthesizer": "half an answer",
}


async def test_a_run_that_its_budget_cuts_says_what_is_missing_and_what_that_takes(
    tmp_path: Path,
) -> None:
    async with connected(tmp_path, SPENDING) as connection:
        connection.llm.rates = DEAR_REPLIES
        result = await connection.client.call_tool(
            "run_orchestration", {"task": "check it", "budget_usd": 4}
        )
    reply, text = dict[str, Any](result.structured_content or {}), text_of(result)
    assert (reply["status"], reply["answer"]) == ("partial", "half an answer")
    assert [line["status"] for line in reply["subtasks"]] == ["succeeded", "skipped", "skipped"]
    assert reply["subtasks"][1]["error"] == "Too little is left of the run's budget of 4 USD."
    assert reply["budget"] == {
        "usd": 4.0,
        "spent_usd": 2.02,
        "tokens": 2_000_000,
        "spent_tokens": 2220,
    }
    rest = reply["rest"]
    assert rest["calls"] == {"low": 3, "high": 3}
    assert rest["usd"] == {"low": 0.15, "high": 12.0}
    assert "To do the rest would take 3 calls" in reply["reasons"][-1]
    assert "Spent of the budget: 2.02 of 4 USD, 2220 of 2000000 tokens" in text
    assert reply["reasons"][-1] in text


async def test_a_run_that_its_budget_cuts_says_which_call_has_the_rest_done(
    tmp_path: Path,
) -> None:
    async with connected(tmp_path, SPENDING) as connection:
        connection.llm.rates = DEAR_REPLIES
        reply = await connection.ask("run_orchestration", task="check it", budget_usd=4)
        run_id = reply["run_id"]
        assert f'resume_run with run_id "{run_id}" and budget_usd 14.02 ' in reply["next"]
        too_little = await connection.refusal("resume_run", run_id=run_id, budget_usd=1)
        whole = await connection.ask("resume_run", run_id=run_id, budget_usd=14.02)
    assert "has spent 2.02 USD already" in too_little
    assert (whole["run_id"], whole["status"]) == (run_id, "succeeded")
    assert whole["budget"]["usd"] == 14.02


async def test_a_run_made_anew_can_have_another_budget(tmp_path: Path) -> None:
    async with connected(tmp_path, SPENDING) as connection:
        connection.llm.rates = DEAR_REPLIES
        first = await connection.ask("run_orchestration", task="check it", budget_usd=4)
        again = await connection.ask(
            "resume_run", run_id=first["run_id"], from_subtask="s2", budget_usd=13
        )
    assert again["run_id"] != first["run_id"]
    assert (again["status"], again["budget"]["usd"]) == ("succeeded", 13.0)


async def test_a_run_that_has_enough_has_nothing_to_say_of_a_rest(tmp_path: Path) -> None:
    async with connected(tmp_path, SPENDING) as connection:
        reply = await connection.ask("run_orchestration", task="check it")
    assert reply["status"] == "succeeded"
    assert "rest" not in reply
    assert "estimate" not in reply


async def test_a_run_under_way_says_what_it_is_likely_to_take(tmp_path: Path) -> None:
    async with connected(tmp_path, {**SPENDING, "worker:analyst": hang}) as connection:
        reply = await connection.ask("run_orchestration", task="check it", wait_seconds=0)
        state = await connection.service.get(reply["run_id"])
        with anyio.fail_after(60):
            while state.estimate is None:
                state = await connection.service.wait_for_change(
                    state.run_id, seen=state.events, seconds=5
                )
        reply = await connection.ask("get_run", run_id=reply["run_id"])
    assert reply["estimate"]["calls"] == {"low": 4, "high": 4}


async def test_a_plan_says_what_it_takes_to_run_it(tmp_path: Path) -> None:
    async with connected(tmp_path, SPENDING) as connection:
        connection.llm.rates = DEAR_REPLIES
        result = await connection.client.call_tool(
            "plan_task", {"task": "check it", "budget_usd": 4}
        )
        plan_id = dict[str, Any](result.structured_content or {})["plan_id"]
        found = await connection.ask("get_run", run_id=plan_id)
    reply = dict[str, Any](result.structured_content or {})
    assert reply["estimate"]["calls"] == {"low": 4, "high": 4}
    assert reply["estimate"]["usd"] == {"low": 0.2, "high": 16.0}
    assert found["estimate"] == reply["estimate"]
    assert "To run the plan takes about 4 calls, " in text_of(result)
    assert "$0.20 to $16.00" in text_of(result)


async def test_a_plan_of_unknown_price_has_an_estimate_without_one(tmp_path: Path) -> None:
    async with connected(tmp_path, SPENDING) as connection:
        connection.llm.rates = Rates()
        result = await connection.client.call_tool("plan_task", {"task": "check it"})
    reply = dict[str, Any](result.structured_content or {})
    assert set(reply["estimate"]) == {"calls", "tokens", "seconds"}
    assert "an unknown price" in text_of(result)


@pytest.mark.parametrize(("budget", "warned"), [(1.2, True), (3, False)])
async def test_a_plan_that_is_too_dear_for_its_budget_has_a_warning(
    budget: float, warned: bool, tmp_path: Path
) -> None:
    wide = plan_json(*(subtask(f"s{number}") for number in range(8)))
    async with connected(tmp_path, {"planner": wide}) as connection:
        connection.llm.rates = Rates(input=100, output=0)
        plan = await connection.ask("plan_task", task="check it", budget_usd=budget)
    assert plan["estimate"]["usd"]["low"] == 1.0
    assert any("not likely to suffice" in text for text in plan.get("warnings", ())) is warned


async def test_a_plan_is_run_with_the_budget_that_it_was_made_for(tmp_path: Path) -> None:
    async with connected(tmp_path, SPENDING) as connection:
        plan = await connection.ask("plan_task", task="check it", budget_usd=0.75)
        run = await connection.ask("run_orchestration", plan_id=plan["plan_id"])
    assert run["budget"]["usd"] == 0.75


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("plan_task", {"task": "x"}),
        ("run_orchestration", {"task": "x"}),
        ("run_worker", {"task": "x", "worker": "analyst"}),
    ],
)
async def test_no_call_can_ask_for_more_than_the_operator_allows(
    tool: str, arguments: dict[str, Any], tmp_path: Path
) -> None:
    async with connected(tmp_path) as connection:
        sentence = await connection.refusal(tool, **arguments, budget_usd=21)
    assert sentence == (
        "budget_usd is 21; it must be over 0 and at most 20. The setting most_usd allows more."
    )


async def test_a_worker_can_have_a_budget(tmp_path: Path) -> None:
    async with connected(tmp_path, SPENDING) as connection:
        connection.llm.rates = DEAR_REPLIES
        reply = await connection.ask("run_worker", task="x", worker="analyst", budget_usd=2.5)
    assert reply["budget"]["usd"] == 2.5
    assert connection.llm.requests[0].max_tokens == 2500


async def test_usage_tells_what_came_from_the_cache_and_what_that_saved(tmp_path: Path) -> None:
    cached = dear(10, tokens_in=100, cache_read=250, cache_write=150, saved_usd=0.125)
    async with connected(tmp_path, {"worker:analyst": cached}) as connection:
        result = await connection.client.call_tool("run_worker", {"task": "x", "worker": "analyst"})
    (line,) = dict[str, Any](result.structured_content or {})["usage"]
    assert line["cache_read"] == 250
    assert line["cache_write"] == 150
    assert line["cache_hit_rate"] == 0.5
    assert line["saved_usd"] == 0.125
    assert "50% of the input from the cache, 0.125 USD saved" in text_of(result)


async def test_usage_tells_how_much_of_it_is_an_estimate(tmp_path: Path) -> None:
    broken_off = dear(10, estimated_in=5, estimated_out=7)
    async with connected(tmp_path, {"worker:analyst": broken_off}) as connection:
        result = await connection.client.call_tool("run_worker", {"task": "x", "worker": "analyst"})
    (line,) = dict[str, Any](result.structured_content or {})["usage"]
    assert (line["tokens_out"], line["estimated_in"], line["estimated_out"]) == (10, 5, 7)
    assert "in (5 of them estimated), 10 out (7 of them estimated), 0 cache read" in text_of(result)


def test_calls_for_which_no_provider_was_asked_have_neither_tokens_nor_a_price() -> None:
    by_rules = Usage(model="offline", calls=2, usd=0.0)
    state = RunState(run_id="r-1", request=RunRequest(task="t"), started_at=0, usage=by_rules)
    assert (budget(state), usd_of(by_rules), usage_lines({"offline": by_rules})) == (None, None, ())
    refused = by_rules.model_copy(update={"attempts": 2})
    assert len(usage_lines({"m": refused})) == 1


async def test_where_nothing_was_cached_nothing_is_said_of_it(tmp_path: Path) -> None:
    async with connected(tmp_path) as connection:
        result = await connection.client.call_tool("run_worker", {"task": "x", "worker": "analyst"})
    (line,) = dict[str, Any](result.structured_content or {})["usage"]
    assert "cache_hit_rate" not in line
    assert "saved_usd" not in line
    assert "from the cache" not in text_of(result)


async def test_of_a_price_that_nobody_knows_nothing_is_made_up(tmp_path: Path) -> None:
    unknown = dear(10, usd=None, saved_usd=None, cache_read=5)
    async with connected(tmp_path, {"worker:analyst": unknown}) as connection:
        connection.llm.rates = Rates()
        result = await connection.client.call_tool("run_worker", {"task": "x", "worker": "analyst"})
    reply = dict[str, Any](result.structured_content or {})
    assert "usd" not in reply
    assert "spent_usd" not in reply["budget"]
    assert "Spent of the budget: unknown of 2 USD" in text_of(result)


async def test_a_guarded_run_shows_no_estimate_before_the_guard_has_let_it_pass(
    tmp_path: Path,
) -> None:
    objects: dict[str, Script] = {**SPENDING, "guard": '{"reason": "no", "allowed": false}'}
    async with connected(tmp_path, objects) as connection:
        connection.llm.rates = DEAR_REPLIES
        reply = await connection.ask(
            "run_orchestration", task="check it", guard="writer", budget_usd=7
        )
    assert reply["status"] == "failed"
    assert "rest" not in reply
