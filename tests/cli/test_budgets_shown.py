"""What a person sees of estimates and budgets, and of what a budget has cut."""

import io
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result
from rich.console import Console

from concertmaster.cli.view.live import lines, render
from concertmaster.engine.events import Amounts, Counts, Estimate, PlanAccepted, RunStarted
from concertmaster.engine.plan.plan import Plan
from concertmaster.engine.request import RunRequest
from concertmaster.llm.messages import Reply
from concertmaster.llm.pricing import Rates
from concertmaster.llm.usage import Usage
from concertmaster.runs.state import RunState, fold
from fakes import FakeLLM, plan_json, reply_with, subtask

Invoke = Callable[..., Result]
AnswerWith = Callable[[FakeLLM], None]

ESTIMATE = Estimate(
    calls=Counts(low=3, high=24),
    tokens=Counts(low=9000, high=120_000),
    usd=Amounts(low=0.04, high=0.61),
    seconds=Amounts(low=6.0, high=130.0),
)
LIKELY = "likely: 3-24 calls · 9k-120k tokens · $0.04-$0.61 · 6s-2m10s"


def planned() -> RunState:
    accepted = PlanAccepted(
        name="plan/1", at=1.0, plan=Plan(subtasks=(subtask("s1"),)), estimate=ESTIMATE
    )
    started = RunStarted(name="run/start", at=0.0, request=RunRequest(task="x"))
    return fold("r-1", [started, accepted], alive=True)


def dear(tokens: int, text: str = "done", **kinds: Any) -> Reply:
    """Return a reply of so many tokens, a tenth of a cent each."""
    usage = Usage(model="fake", calls=1, attempts=1, tokens_out=tokens, usd=tokens / 1000, **kinds)
    return reply_with(text, usage=usage)


@pytest.fixture
def spender(answer_with: AnswerWith) -> FakeLLM:
    """Return a model whose workers cost two dollars each."""
    chain = [subtask("s1"), subtask("s2", depends_on=["s1"]), subtask("s3", depends_on=["s2"])]
    cached: dict[str, Any] = {"tokens_in": 100, "cache_read": 300, "saved_usd": 0.25}
    llm = FakeLLM(
        {
            "planner": plan_json(*chain).replace("analyst", "writer"),
            "worker:writer": dear(2000, **cached),
            "synthesizer": "Half an answer.",
        }
    )
    llm.rates = Rates(input=0, output=1000)
    answer_with(llm)
    return llm


def test_the_moving_view_says_above_the_workers_what_is_likely() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    console.print(render(planned(), 2.0))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue().splitlines()
    assert shown[2].rstrip() == LIKELY
    assert max(map(len, shown)) <= 80


def test_without_a_terminal_it_is_a_line_below_the_plan() -> None:
    shown = lines(planned(), 2.0)
    assert shown[-1] == LIKELY


def test_a_printed_plan_ends_with_what_it_is_likely_to_take(
    invoke: Invoke, spender: FakeLLM
) -> None:
    spender.rates = Rates(input=4, output=20)
    printed = invoke("plan", "Do it").stdout
    last = printed.strip().splitlines()[-1]
    assert re.fullmatch(r"Likely: 4 calls · \S+ tokens · \$0\.\d+-\$0\.\d+ · 6s-\S+", last)


def test_a_plan_of_unknown_price_says_so(invoke: Invoke, spender: FakeLLM) -> None:
    spender.rates = Rates()
    assert " · $? · " in invoke("plan", "Do it").stdout


def test_a_plan_without_a_language_model_costs_nothing(invoke: Invoke) -> None:
    printed = invoke("plan", "Review this code", "app.py").stdout
    assert not re.search(r"likely:|tokens|\$", printed, re.I)
    plan = json.loads(invoke("plan", "Review this code", "app.py", "--json").stdout)
    assert plan.get("estimate") is None


def test_a_run_without_a_language_model_shows_no_tokens_and_no_money(invoke: Invoke) -> None:
    result = invoke("run", "Review this code", "app.py")
    run_id = json.loads(invoke("runs", "--json").stdout)[0]["run_id"]
    shown = invoke("show", run_id).stdout
    for text in (result.stderr, shown):
        assert not re.search(r"likely|tokens|\$\d", text, re.I)


def test_a_run_that_the_budget_cuts_ends_with_3_and_says_what_the_rest_would_take(
    invoke: Invoke, spender: FakeLLM
) -> None:
    result = invoke("run", "Do it", "--budget", "4")
    assert (result.exit_code, result.stdout) == (3, "Half an answer.\n")
    assert spender.callers() == ["planner", "worker:writer", "synthesizer"]
    assert "s2 writer: skipped · " in result.stderr
    assert "Too little is left of the run's budget of 4 USD." in result.stderr
    assert "The budget did not suffice. To do the rest would take 3 calls," in result.stderr
    assert re.search(
        r"^partial · .* · \$2\.02 of \$4\.00 · 50% cached, saved \$0\.2500 · ", result.stderr, re.M
    )


def test_what_was_spent_and_what_is_missing_are_in_the_data_and_can_be_shown_again(
    invoke: Invoke, spender: FakeLLM
) -> None:
    del spender
    run = json.loads(invoke("run", "Do it", "--budget", "4", "--json").stdout)
    assert run["budget"]["usd"] == 4
    assert run["budget"]["spent_usd"] == pytest.approx(2.02)
    assert run["rest"]["calls"] == {"low": 3, "high": 3}
    assert run["usage"][0]["cache_hit_rate"] == 0.5
    assert run["usage"][0]["saved_usd"] == 0.25
    shown = invoke("show", run["run_id"]).stdout
    assert "50% cached, saved $0.2500" in shown
    assert "The budget did not suffice." in shown
    assert "likely" in shown


def test_tokens_can_be_bounded_too(invoke: Invoke, spender: FakeLLM) -> None:
    spender.rates = Rates()
    result = invoke("worker", "writer", "Do it", "--budget-tokens", "100")
    assert result.exit_code == 1
    assert "budget of 100 tokens" in result.stderr


def test_a_budget_of_nothing_is_wrong_use(invoke: Invoke) -> None:
    assert invoke("run", "Do it", "--budget", "0").exit_code == 2
