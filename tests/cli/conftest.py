"""A run with a subtask in every status, to look at; the command, to call."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from concertmaster.cli.app import cli
from concertmaster.engine.events import (
    CallFinished,
    CallStarted,
    Event,
    PlanAccepted,
    RunEnded,
    RunStarted,
    SubtaskFinished,
    SubtaskResult,
    SubtaskStarted,
    SubtaskStatus,
    SynthesisStarted,
)
from concertmaster.engine.plan.plan import Plan, Subtask
from concertmaster.engine.request import RunRequest
from concertmaster.llm.messages import Reply
from concertmaster.llm.usage import NO_USAGE, Usage
from concertmaster.runs.state import RunState, fold
from fakes import FakeLLM

FAULTY = """\
import sqlite3


def find(name):
    connection = sqlite3.connect("shop.db")
    return connection.execute(f"SELECT * FROM goods WHERE name = '{name}'").fetchall()
"""

START = 1_700_000_000.0

PAID = Usage(model="some-model", calls=1, attempts=1, tokens_in=12_000, tokens_out=900, usd=0.0495)


def _finished(
    subtask_id: str, worker: str, status: SubtaskStatus, at: float, *errors: str
) -> SubtaskFinished:
    return SubtaskFinished(
        name=f"subtask/{subtask_id}/result",
        at=START + at,
        result=SubtaskResult(
            subtask_id=subtask_id,
            worker=worker,
            status=status,
            text=f"What {worker} found.",
            errors=errors,
            usage=PAID if subtask_id == "s1" else NO_USAGE,
        ),
    )


def _events() -> list[Event]:
    plan = Plan(
        analysis="Four things to do.",
        subtasks=(
            Subtask(
                id="s1",
                worker="security-reviewer",
                objective="Find injection faults in app.py; leave style alone, others see to it.",
                inputs=("app.py",),
            ),
            Subtask(id="s2", worker="researcher", objective="Look up known faults."),
            Subtask(id="s3", worker="analyst", objective="Estimate.", depends_on=("s2",)),
            Subtask(id="s4", worker="writer", objective="Write.", depends_on=("s1", "s2")),
        ),
    )
    started = [
        SubtaskStarted(name=f"subtask/{name}/start", at=START + 2, subtask_id=name)
        for name in ("s1", "s2")
    ]
    call = CallStarted(
        name="subtask/s1/call/1/start",
        at=START + 2,
        step="subtask/s1/call/1",
        caller="worker:security-reviewer",
        model="some-model",
        subtask_id="s1",
    )
    reply = CallFinished(
        name="subtask/s1/call/1",
        at=START + 5,
        caller="worker:security-reviewer",
        subtask_id="s1",
        reply=Reply(text="x", stop_reason="end", usage=PAID),
    )
    return [
        RunStarted(
            name="run/start",
            at=START,
            request=RunRequest(task="Review this code\nfor \x1b[31mproblems"),
            notice="No language model.",
        ),
        PlanAccepted(name="plan", at=START + 1, plan=plan, warnings=("s9 was left out.",)),
        *started,
        call,
        reply,
        _finished("s1", "security-reviewer", "succeeded", 5),
        _finished("s2", "researcher", "failed", 6, "The provider did not answer."),
        _finished("s3", "analyst", "skipped", 6, "s2 failed."),
        SubtaskStarted(name="subtask/s4/start", at=START + 6, subtask_id="s4"),
        _finished("s4", "writer", "partial", 8, "The reply was cut."),
        SynthesisStarted(name="synthesis/start", at=START + 8),
        RunEnded(
            name="run/end",
            at=START + 70,
            status="partial",
            answer="# Findings\n\nOne \x1b[31mfault.",
            reasons=("s2 failed.",),
        ),
    ]


@pytest.fixture
def run_at() -> Callable[[str], RunState]:
    """Return a function that gives the run as it was after the event of that name."""
    events = _events()

    def state(name: str) -> RunState:
        names = [event.name for event in events]
        return fold("r-1", events[: names.index(name) + 1], alive=True)

    return state


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Return a function that runs the command in a folder with one faulty file."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "app.py").write_text(FAULTY)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("CONCERTMASTER_DATA_FOLDER", str(tmp_path / "data"))

    def run(*arguments: str, text: str | None = None) -> Result:
        return CliRunner().invoke(cli, arguments, input=text, prog_name="concertmaster")

    return run


@pytest.fixture
def answer_with(monkeypatch: pytest.MonkeyPatch) -> Callable[[FakeLLM], None]:
    """Return a function that puts a scripted model in place of the offline one."""
    return lambda llm: monkeypatch.setattr("concertmaster.cli.bootstrap.OfflineLLM", lambda: llm)
