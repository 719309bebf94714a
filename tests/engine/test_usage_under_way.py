"""Usage that is recorded while a call is under way, in virtual time."""

import itertools

import anyio
import pytest
from trio.testing import MockClock

from building import RecordedRun, setup
from concertmaster.engine.events import CallFinished, CallProgressed
from concertmaster.engine.plan.plan import Plan
from concertmaster.engine.request import RunRequest
from concertmaster.engine.steps import LONGEST_USAGE_SECONDS, USAGE_SECONDS
from concertmaster.llm.messages import Draft, Reply, Request
from concertmaster.llm.usage import Usage
from fakes import FakeLLM, reply_with, subtask

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return ("trio", {"clock": MockClock(autojump_threshold=0)})


class SlowLLM(FakeLLM):
    """Begins to reply after a while, and then writes a token each tenth of a second."""

    def __init__(self, *, first: float, seconds: float) -> None:
        super().__init__()
        self._first = first
        self._seconds = seconds

    async def complete(self, request: Request, draft: Draft, /) -> Reply:
        self.requests.append(request)
        estimate = Usage(model="m", calls=1, attempts=1, tokens_in=90, estimated_in=90)
        draft.update(usage=estimate)
        await anyio.sleep(self._first)
        began = anyio.current_time()

        def measure() -> Usage:
            written = 1 + int(10 * (anyio.current_time() - began))
            return Usage(model="m", calls=1, attempts=1, tokens_in=100, tokens_out=written)

        draft.measure = measure
        draft.update(usage=measure())
        await anyio.sleep(self._seconds)
        return reply_with("done", usage=measure())


async def records(llm: SlowLLM) -> tuple[list[CallProgressed], list[float], RecordedRun]:
    """Return what was recorded of the only call of a run, and when, by the virtual clock."""
    times: list[float] = []

    async def note(event: object) -> None:
        if isinstance(event, CallProgressed):
            times.append(anyio.current_time())

    plan = Plan(subtasks=(subtask("s1"),))
    run = RecordedRun(RunRequest(kind="worker", task="t", plan=plan), before=note)
    began = anyio.current_time()
    await run.drive(setup(llm))
    found = [event for event in run.events if isinstance(event, CallProgressed)]
    return found, [time - began for time in times], run


async def test_usage_is_recorded_when_a_reply_begins_and_then_at_growing_pauses() -> None:
    found, times, run = await records(SlowLLM(first=0.5, seconds=100))
    assert times[0] == pytest.approx(0.5)
    assert (found[0].usage.tokens_in, found[0].usage.tokens_out) == (100, 1)
    pauses = [after - before for before, after in itertools.pairwise([*times, 100.5])]
    assert min(pauses[:-1]) >= USAGE_SECONDS
    assert max(pauses) <= LONGEST_USAGE_SECONDS + USAGE_SECONDS
    assert len(found) < 30
    written = [event.usage.tokens_out for event in found]
    assert written == sorted(set(written))
    assert len({event.name for event in run.events}) == len(run.events)
    assert isinstance(run.events[run.events.index(found[-1]) + 1], CallFinished)


async def test_a_call_whose_reply_does_not_begin_is_recorded_with_its_estimate_and_once() -> None:
    found, times, _ = await records(SlowLLM(first=60, seconds=0))
    assert times[0] <= 2 * USAGE_SECONDS
    assert found[0].usage.estimated_in == 90
    assert len(found) <= 2


async def test_a_short_call_is_recorded_once_at_most() -> None:
    found, _, _ = await records(SlowLLM(first=0.1, seconds=0.5))
    assert [event.usage.tokens_out for event in found] == [1]
