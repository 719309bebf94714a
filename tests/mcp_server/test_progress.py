from pathlib import Path

import anyio
import pytest

from clients import ERAS, connected, hang
from concertmaster.engine.plan.plan import Plan
from concertmaster.engine.request import RunRequest
from concertmaster.mcp_server.follow import ProgressCount
from concertmaster.replies.build import progress_line
from concertmaster.runs.state import RunState, SubtaskState
from fakes import plan_json, subtask

pytestmark = pytest.mark.anyio

PLAN = plan_json(subtask("s1"), subtask("s2", "critic"))


class Heard:
    """What a client was told while it waited, and whether it was told what it waits for."""

    def __init__(self, message: str, *, times: int = 1) -> None:
        self.values: list[float] = []
        self.totals: list[float | None] = []
        self.messages: list[str] = []
        self.reached = anyio.Event()
        self._expected = [message] * times

    async def __call__(self, progress: float, total: float | None, message: str | None) -> None:
        self.values.append(progress)
        self.totals.append(total)
        self.messages.append(message or "")
        if self.messages[-len(self._expected) :] == self._expected:
            self.reached.set()


@pytest.mark.parametrize("mode", ERAS)
async def test_a_waiting_client_hears_of_every_change(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("concertmaster.mcp_server.follow.PAUSE_SECONDS", 0)
    heard = Heard("1 of 2 subtasks ended; critic is running")

    async def wait(_: object) -> str:
        await heard.reached.wait()
        return "done"

    async with connected(
        tmp_path, {"planner": PLAN, "worker:critic": wait}, mode=mode
    ) as connection:
        with anyio.fail_after(60):
            await connection.client.call_tool(
                "run_orchestration", {"task": "x"}, progress_callback=heard
            )
    assert heard.messages[0] == "planning"
    assert "0 of 2 subtasks ended; analyst and critic are running" in heard.messages
    assert heard.messages[-1] == "all 2 subtasks ended; writing the answer"
    assert sorted(set(heard.values)) == heard.values
    assert all(value == int(value) for value in heard.values)
    assert heard.totals[0] is None
    assert heard.totals[-1] == 300
    assert 200 <= heard.values[-1] < 300


async def test_a_waiting_client_hears_something_even_when_nothing_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("concertmaster.mcp_server.follow.HEARTBEAT_SECONDS", 0.01)
    monkeypatch.setattr("concertmaster.mcp_server.follow.PAUSE_SECONDS", 0)
    heard = Heard("0 of 1 subtasks ended; analyst is running", times=10)
    async with connected(tmp_path, default=hang) as connection:

        async def ask() -> None:
            await connection.client.call_tool(
                "run_worker", {"worker": "analyst", "task": "x"}, progress_callback=heard
            )

        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask)
                await heard.reached.wait()
                tasks.cancel_scope.cancel()
    assert sorted(set(heard.values)) == heard.values


async def test_many_changes_in_a_moment_are_one_notification(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("concertmaster.mcp_server.follow.PAUSE_SECONDS", 600)
    heard = Heard("planning")
    plan = plan_json(*(subtask(f"s{number}") for number in range(8)))
    async with connected(tmp_path, {"planner": plan}) as connection:
        # The end of the run is not delayed by the pause.
        with anyio.fail_after(60):
            await connection.client.call_tool(
                "run_orchestration", {"task": "x"}, progress_callback=heard
            )
    assert heard.messages == ["planning"]


async def test_what_changed_during_a_pause_is_in_the_next_notification(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("concertmaster.mcp_server.follow.PAUSE_SECONDS", 0.05)
    heard = Heard("1 of 2 subtasks ended; critic is running")

    async def wait(_: object) -> str:
        await heard.reached.wait()
        return "done"

    async with connected(tmp_path, {"planner": PLAN, "worker:critic": wait}) as connection:
        with anyio.fail_after(60):
            await connection.client.call_tool(
                "run_orchestration", {"task": "x"}, progress_callback=heard
            )
    assert heard.reached.is_set()


def test_progress_rises_in_whole_steps_within_the_part_that_is_due_however_long_it_takes() -> None:
    count = ProgressCount()
    assert [count.next(ended=0, parts=None) for _ in range(2)] == [(0, None), (1, None)]
    assert count.next(ended=0, parts=4) == (2, 400)
    assert count.next(ended=1, parts=4) == (100, 400)
    last = 100
    # A part that is done again, and one that was added, have ended and parts go back and forth.
    for ended, parts in ((1, 4), (2, 4), (0, 4), (2, 6), (3, 4), (4, 4)):
        for _ in range(1_000):
            progress, total = count.next(ended=ended, parts=parts)
            assert total is not None
            assert last < progress < total
            due = min(ended, parts - 1)
            assert due <= progress * parts / total < due + 1
            last = progress


def state(*statuses: str) -> RunState:
    subtasks = [subtask(f"s{n}", f"{'w' * 60}-{n}") for n, _ in enumerate(statuses)]
    states = {
        item.id: SubtaskState(subtask=item, status=status)  # pyright: ignore[reportArgumentType]
        for item, status in zip(subtasks, statuses, strict=True)
    }
    return RunState(
        run_id="r-1",
        request=RunRequest(task="x"),
        started_at=0,
        status="running",
        plan=Plan(subtasks=tuple(subtasks)),
        subtasks=states,
    )


def test_the_line_names_three_workers_at_most_and_is_short() -> None:
    line = progress_line(state(*["running"] * 5))
    assert len(line) == 200
    few = state("running", "running", "running", "running")
    for number, item in enumerate(few.subtasks.values()):
        item.subtask = subtask(item.subtask.id, f"w{number}")
    assert progress_line(few) == "0 of 4 subtasks ended; w0, w1, w2 and 1 more are running"


def test_the_line_of_a_run_without_subtasks_is_its_status() -> None:
    assert progress_line(state()) == "running"
