"""Questions answered at a terminal: with a key, or from another process.

This file is the test, and the program of a process that has a terminal of its own.
"""

import re
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from io import BufferedReader
from pathlib import Path
from typing import IO, cast

import anyio
import pytest
from anyio import to_thread

from building import setup, worker
from concertmaster.cli.view.interactive import follow
from concertmaster.cli.view.terminal import stderr
from concertmaster.engine.request import Limits
from concertmaster.runs.intake import RunPolicy
from concertmaster.runs.orders import WorkerOrder
from concertmaster.runs.service import RunService, open_service
from concertmaster.store.sqlite.store import open_sqlite
from fakes import FakeLLM, FakeTool, in_turn, wants
from processes import environment, running

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).resolve().parents[2]
ORDER = WorkerOrder(worker="analyst", task="Commit it.")


@asynccontextmanager
async def runs_with_questions(folder: Path, *numbers: int) -> AsyncGenerator[RunService]:
    """Open runs whose worker wants to commit once for each number, one after another."""
    calls = (wants(("commit", {"n": number})) for number in numbers)
    tool = FakeTool("commit", lambda given, _: f"committed {given['n']}", effects=True)
    made = setup(
        FakeLLM({"worker:analyst": in_turn(*calls, "whole")}),
        workers=[worker("analyst", tools=("commit",))],
        tools=[tool],
        policy={"commit": "ask"},
    )
    policy = RunPolicy(limits=Limits(ask_seconds=100))
    async with (
        open_sqlite(folder) as journal,
        open_service(journal=journal, setup=made, policy=policy) as service,
    ):
        yield service


async def watched(folder: Path) -> None:
    """Follow a run at the terminal, and print what it has asked and how its calls ended."""
    async with runs_with_questions(folder, 1, 2, 3) as service:
        begun = await service.start(ORDER)
        await follow(service, begun, stderr())
        trace = await service.trace(begun.run_id)
        said = [span.status for span in trace.spans[-1].spans if span.kind == "question"]
        sys.stdout.write(f"said: {' '.join(said)}.\n")


@pytest.fixture
def terminal(tmp_path: Path) -> "Generator[Terminal]":
    program = [sys.executable, "-m", "tests.process.test_answers", str(tmp_path)]
    with running(
        [sys.executable, "-c", "import pty, sys; pty.spawn(sys.argv[1:])", *program],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment(tmp_path, {"TERM": "xterm", "PYTHONPATH": "tests/support"}),
        text=False,
    ) as process:
        yield Terminal(process)


class Terminal:
    """A terminal with `watched` in the foreground."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process
        self.shown = ""

    def until(self, pattern: str) -> str:
        """Return what a pattern finds in what is shown from here on."""
        screen = cast("BufferedReader", self.process.stdout)
        while not (found := re.search(pattern, self.shown)):
            new = screen.read1(65_536)
            assert new, self.shown
            self.shown += new.decode()
        self.shown = self.shown[found.end() :]
        return found.group()

    def type(self, keys: str) -> None:
        keyboard = cast("IO[bytes]", self.process.stdin)
        keyboard.write(keys.encode())
        keyboard.flush()


def test_who_watches_a_run_answers_with_a_key(terminal: Terminal) -> None:
    terminal.until(r'call commit with {"n": 1}\s+Allow this one call\? y/n')
    terminal.type("xy")
    terminal.until("Allowed")
    terminal.until(r'call commit with {"n": 2}\s+Allow this one call\? y/n')
    terminal.type("n")
    terminal.until("Denied")
    # The third is not asked about any more, since the no stands.
    assert terminal.until(r"said: .*\.") == "said: allowed denied."


async def question_of(service: RunService, run_id: str) -> str:
    with anyio.fail_after(100):
        state = await service.get(run_id)
        while not state.questions:
            state = await service.wait_for_change(run_id, seen=state.events, seconds=60)
    return next(iter(state.questions))


@pytest.mark.parametrize(("said", "outcome"), [("yes", "allowed"), ("no", "denied")])
async def test_a_run_of_another_process_is_answered_by_command(
    said: str, outcome: str, tmp_path: Path
) -> None:
    async with runs_with_questions(tmp_path, 1) as service:
        run_id = (await service.start(ORDER)).run_id
        question_id = await question_of(service, run_id)
        shown = await command(tmp_path, "show", run_id)
        assert f"concertmaster answer {run_id} {question_id} yes|no" in shown.stdout
        answered = await command(tmp_path, "answer", run_id, question_id, said)
        assert (answered.returncode, answered.stderr) == (0, f"{question_id}: {outcome}\n")
        with anyio.fail_after(100):
            await service.wait(run_id, seconds=60)
        (span,) = (
            span
            for span in (await service.trace(run_id)).spans[-1].spans
            if span.kind == "question"
        )
        assert (span.status, span.attributes["by"]) == (outcome, "the operator")
        late = await command(tmp_path, "answer", run_id, question_id, said)
    assert late.returncode == 2
    assert "no open question" in late.stderr


async def command(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    def run() -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "concertmaster", *arguments],
            env=environment(folder),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return await to_thread.run_sync(run, abandon_on_cancel=True)


if __name__ == "__main__":
    anyio.run(watched, Path(sys.argv[1]))
