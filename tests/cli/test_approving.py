"""Plans that are approved on the command line: at a terminal, or with a command of its own."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from concertmaster.cli.app import cli
from concertmaster.cli.view import interactive as approval
from fakes import FakeLLM, plan_json, subtask

Invoke = Callable[..., Result]
AnswerWith = Callable[[FakeLLM], None]

PLAN = plan_json(subtask("s1"), subtask("s2", "writer"))
ORDER = ("run", "Do it", "--approve", "always", "--json")


@pytest.fixture
def llm(answer_with: AnswerWith) -> FakeLLM:
    llm = FakeLLM({"planner": PLAN, "synthesizer": "because"})
    answer_with(llm)
    return llm


@pytest.fixture
def at_terminal(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Return what calls a command at a terminal, where somebody writes these lines."""
    del invoke  # It sets up where runs are kept.
    monkeypatch.setattr(approval, "at_terminal", lambda: True)

    def call(*arguments: str, lines: str) -> Result:
        return CliRunner().invoke(cli, arguments, input=lines)

    return call


def run_id_of(result: Result) -> str:
    return str(json.loads(result.stdout[result.stdout.index("{") :])["run_id"])


def test_without_a_terminal_the_plan_is_shown_and_how_to_go_on(
    invoke: Invoke, llm: FakeLLM
) -> None:
    result = invoke(*ORDER)
    assert result.exit_code == 3
    assert json.loads(result.stdout)["status"] == "needs_approval"
    run_id = run_id_of(result)
    assert "**s1 analyst**: do s1" in result.stderr
    assert "Likely: " in result.stderr
    command = f"concertmaster resume {run_id} --approve"
    assert f"To go on: {command}" in result.stderr
    assert llm.callers() == ["planner"]
    shown = invoke("show", run_id).stdout
    assert "needs_approval" in shown
    assert command in shown
    assert "needs_approval" in invoke("runs").stdout
    # Gone on with as it is, it still waits.
    assert invoke("resume", run_id).exit_code == 3
    done = invoke("resume", run_id, "--approve", "--budget", "3")
    assert (done.exit_code, done.stdout) == (0, "because\n")
    assert sorted(llm.callers()) == ["planner", "synthesizer", "worker:analyst", "worker:writer"]
    again = invoke("resume", run_id, "--approve")
    assert again.exit_code == 2
    assert "does not wait for approval: it is succeeded" in again.stderr


@pytest.mark.parametrize(
    ("lines", "status", "budget_usd"),
    [
        ("y\n", "succeeded", 2),
        ("Yes\n", "succeeded", 2),
        ("maybe\nnan\n-1\ninf\n3.5\n", "succeeded", 3.5),
        ("n\n", "cancelled", 2),
        ("", "needs_approval", 2),
    ],
)
def test_at_a_terminal_somebody_is_asked(
    lines: str,
    status: str,
    budget_usd: float,
    at_terminal: Callable[..., Result],
    llm: FakeLLM,
) -> None:
    result = at_terminal(*ORDER, lines=lines)
    data = json.loads(result.stdout)
    assert (data["status"], data["budget"]["usd"]) == (status, budget_usd)
    assert "Carry out this plan, for 2 USD at most?" in result.stderr
    assert (llm.callers() == ["planner"]) is (status != "succeeded")


def test_a_budget_that_is_given_without_approval_is_the_limit_that_is_asked_about(
    invoke: Invoke, at_terminal: Callable[..., Result], llm: FakeLLM
) -> None:
    run_id = run_id_of(invoke(*ORDER))
    dearer = invoke("resume", run_id, "--budget", "3", "--json")
    assert dearer.exit_code == 3
    assert json.loads(dearer.stdout)["budget"]["usd"] == 3
    assert llm.callers() == ["planner"]
    result = at_terminal("resume", run_id, "--budget", "4", "--json", lines="y\n")
    assert "Carry out this plan, for 4 USD at most?" in result.stderr
    data = json.loads(result.stdout)
    assert (data["status"], data["budget"]["usd"]) == ("succeeded", 4)


def test_a_limit_that_cannot_be_is_told_and_the_plan_goes_on_waiting(
    at_terminal: Callable[..., Result], invoke: Invoke, llm: FakeLLM
) -> None:
    result = at_terminal("run", "Do it", "--approve", "always", lines="99\n")
    assert result.exit_code == 2
    assert "at most 20" in result.stderr
    assert "needs_approval" in invoke("runs").stdout
    assert llm.callers() == ["planner"]


def test_a_plan_that_waits_can_be_cancelled(invoke: Invoke, llm: FakeLLM) -> None:
    run_id = run_id_of(invoke(*ORDER))
    result = invoke("cancel", run_id)
    assert result.exit_code == 0
    assert f"{run_id}: cancelled. To go on: concertmaster resume {run_id}" in result.stderr
    assert llm.callers() == ["planner"]
    assert "cancelled" in invoke("runs").stdout


def test_a_plan_that_was_declined_at_the_terminal_is_final(
    invoke: Invoke, at_terminal: Callable[..., Result], llm: FakeLLM
) -> None:
    run_id = run_id_of(at_terminal(*ORDER, lines="n\n"))
    refused = invoke("resume", run_id)
    assert refused.exit_code == 2
    assert "was declined, which is final" in refused.stderr
    shown = invoke("show", run_id).stdout
    assert f"concertmaster resume {run_id} --plan FILE" in shown
    assert llm.callers() == ["planner"]


def test_another_plan_is_not_approved_unseen(invoke: Invoke) -> None:
    result = invoke("resume", "r-any", "--approve", "--from", "s1")
    assert result.exit_code == 2
    assert "not with --plan or --from" in result.stderr


def test_the_setting_holds_for_workers_and_jobs_too(
    invoke: Invoke, llm: FakeLLM, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CONCERTMASTER_APPROVE", "always")
    assert invoke("worker", "analyst", "Think").exit_code == 3
    (tmp_path / "a.py").write_text("x = 1\n")
    job = invoke("job", "review_code", str(tmp_path / "a.py"), "--reviewers", "analyst")
    assert job.exit_code == 3, job.stderr
    assert llm.requests == []


def test_nobody_is_asked_where_standard_input_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Terminal:
        def __init__(self, here: bool) -> None:
            self.isatty = lambda: here

    for stdin, stderr in ((True, True), (False, True), (True, False)):
        monkeypatch.setattr(sys, "stdin", Terminal(stdin))
        monkeypatch.setattr(sys, "stderr", Terminal(stderr))
        assert approval.at_terminal() is (stdin and stderr)
