"""Durations of a run during which the clock of the machine is set."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from building import setup, worker
from concertmaster.engine.events import ToolCalled
from concertmaster.runs.intake import RunPolicy
from concertmaster.runs.orders import RunOrder
from concertmaster.runs.service import open_service
from concertmaster.runs.trace import Span
from concertmaster.store.sqlite.store import open_sqlite
from fakes import FakeLLM, FakeTool, in_turn, plan_json, subtask, wants

pytestmark = pytest.mark.anyio

DAY = 86_400.0
HOUR = 3_600.0


class Clock:
    """The clock of the machine, which can be set."""

    def __init__(self) -> None:
        self._time = time.time
        self.moved = 0.0

    def __call__(self) -> float:
        return self._time() + self.moved


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "time", clock)
    return clock


def spans_of(span: Span) -> Iterator[Span]:
    yield span
    for inner in span.spans:
        yield from spans_of(inner)


@pytest.mark.parametrize("moved", [DAY, -DAY])
async def test_setting_the_clock_during_a_run_changes_no_duration(
    moved: float, clock: Clock, tmp_path: Path
) -> None:
    def set_clock(*_: object) -> str:
        clock.moved = moved
        return "the clock was set"

    scripts = {
        "planner": plan_json(subtask("s1", "clerk")),
        "worker:clerk": in_turn(wants(("change", {})), "done"),
    }
    clerk = worker("clerk", tools=("change",))
    tool = FakeTool("change", set_clock)
    async with (
        open_sqlite(tmp_path) as journal,
        open_service(
            journal=journal,
            setup=setup(FakeLLM(scripts), workers=[clerk], tools=[tool]),
            policy=RunPolicy(),
        ) as service,
    ):
        run_id = (await service.start(RunOrder(task="Do it."))).run_id
        state = await service.wait(run_id, seconds=60)
        trace = await service.trace(run_id)
        events = await journal.events(run_id)
    assert state.status == "succeeded"
    assert state.ended_at is not None
    assert 0 <= state.ended_at - state.started_at < HOUR
    (item,) = state.subtasks.values()
    assert item.result is not None
    assert item.started_at is not None
    assert item.ended_at is not None
    assert 0 <= item.result.seconds < HOUR
    assert 0 <= item.ended_at - item.started_at < HOUR
    (called,) = (event for event in events if isinstance(event, ToolCalled))
    assert 0 <= called.seconds < HOUR
    for span in spans_of(trace):
        assert span.ended_at is not None
        assert 0 <= span.ended_at - span.started_at < HOUR, span
    # Points in time are those of the clock as it was.
    assert abs(events[-1].at - events[0].at - moved) < HOUR


async def test_events_of_a_clock_that_was_not_set_say_nothing_of_it(tmp_path: Path) -> None:
    async with (
        open_sqlite(tmp_path) as journal,
        open_service(journal=journal, setup=setup(FakeLLM()), policy=RunPolicy()) as service,
    ):
        run_id = (await service.start(RunOrder(task="Do it."))).run_id
        await service.wait(run_id, seconds=60)
        events = await journal.events(run_id)
    assert all("clock_moved" not in event.model_dump() for event in events)
