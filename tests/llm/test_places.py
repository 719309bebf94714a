"""Who may call when: turns between runs, the provider's pace and its pauses, in virtual time."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import anyio.lowlevel
import pytest
from anyio.abc import TaskGroup
from trio.testing import MockClock

from concertmaster.llm.rate_limit import (
    FIRST,
    MOST,
    ROUND_SECONDS,
    Allowance,
    Learned,
    Place,
    Places,
)

pytestmark = pytest.mark.anyio

JITTER = 1.0

WIDTH = 8
KNOWN = Learned(width=WIDTH, refused_at=WIDTH + 1)
"""A limit that an earlier process has learned, and that hardly moves."""


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return ("trio", {"clock": MockClock(autojump_threshold=0)})


class Calls:
    """Calls that take a second each, and note when they began and for which run."""

    def __init__(self, tasks: TaskGroup, *, share: float, learned: Learned | None) -> None:
        self.places = Places(jitter=JITTER, share=share, learned=learned)
        self.began: list[tuple[float, str]] = []
        self._tasks = tasks
        self._start = anyio.current_time()

    def start(
        self, run_id: str = "a", *, count: int = 1, use: Callable[[Place], None] = Place.served
    ) -> None:
        """Have calls of a run wait for their places."""
        for _ in range(count):
            self._tasks.start_soon(self._call, run_id, use)

    async def _call(self, run_id: str, use: Callable[[Place], None]) -> None:
        async with self.places.place(run_id) as place:
            self.began.append((anyio.current_time() - self._start, run_id))
            place.sent()
            use(place)
            await anyio.sleep(1)

    @property
    def times(self) -> list[float]:
        return [at for at, _ in self.began]


@asynccontextmanager
async def calls(*, share: float = 1.0, learned: Learned | None = KNOWN) -> AsyncGenerator[Calls]:
    """Yield calls, and wait until all have ended."""
    async with anyio.create_task_group() as tasks:
        yield Calls(tasks, share=share, learned=learned)


async def settled(seconds: float = 0.5) -> None:
    """Let everything happen that is to happen by then."""
    await anyio.sleep(seconds)


def told(calls: int, interval: float) -> Callable[[Place], None]:
    """Return a use of a place in which the provider says what it will still take."""
    return lambda place: place.heed(Allowance(calls, interval))


def refused(wait: float | None) -> Callable[[Place], None]:
    return lambda place: place.refused(wait=wait)


async def test_as_many_calls_begin_as_there_are_places_and_others_when_one_is_free() -> None:
    async with calls() as made:
        made.start(count=WIDTH + 3)
    assert made.times == [0.0] * WIDTH + [1.0] * 3


async def test_a_run_with_many_calls_does_not_hold_up_one_with_few() -> None:
    async with calls() as made:
        made.start("wide", count=50)
        await settled()
        made.start("small", count=2)
        made.start("other", count=2)
    assert [at for at, run in made.began if run != "wide"] == [1.0] * 4


async def test_the_calls_of_one_run_begin_in_their_order() -> None:
    places = Places(jitter=JITTER, learned=KNOWN)
    order: list[int] = []

    async def call(number: int) -> None:
        async with places.place("a"):
            order.append(number)
            await anyio.sleep(1)

    async with anyio.create_task_group() as tasks:
        for number in range(30):
            tasks.start_soon(call, number)
            await anyio.sleep(0.01)
    assert order == list(range(30))


async def test_a_refusal_with_a_wait_holds_up_all_calls_for_that_long() -> None:
    async with calls() as made:
        made.start(use=refused(20))
        await settled()
        made.start("b", count=3)
    assert all(20 <= at <= 20 + JITTER for at in made.times[1:])


async def test_a_refusal_without_a_wait_only_leaves_fewer_places() -> None:
    async with calls() as made:
        made.start(count=WIDTH - 1)
        await settled()
        async with made.places.place("b") as place:
            place.refused(wait=None)
        made.start(count=WIDTH)
    assert made.times[WIDTH - 1 :].count(1.0) == WIDTH // 2


async def test_what_the_provider_will_still_take_begins_and_the_rest_waits_its_interval() -> None:
    async with calls() as made:
        made.start(use=told(3, 10))
        await settled(2)
        made.start(count=5)
    assert made.times == pytest.approx([0, 2, 2, 2, 10, 20])


async def test_a_process_with_a_share_uses_that_part_of_what_the_provider_will_still_take() -> None:
    async with calls(share=0.5) as made:
        made.start(use=told(4, 10))
        await settled(2)
        made.start(count=4)
    assert made.times == pytest.approx([0, 2, 2, 20, 40])


async def test_calls_on_their_way_count_as_not_yet_seen_by_the_provider() -> None:
    async with calls() as made:
        made.start(count=4, use=lambda _: None)
        made.start(use=told(6, 10))
        await settled(0.5)
        made.start(count=3)
    assert made.times[5:] == pytest.approx([0.5, 0.5, 10.0])


async def test_an_allowance_that_is_better_than_feared_wakes_those_who_wait() -> None:
    async with calls() as made:
        made.start(use=told(0, 60))
        await settled(2)
        made.start(count=2)
        await settled(2)
        async with made.places.place("b") as place:
            place.heed(Allowance(0, 5))
        made.start()
    assert made.times[1] < 120


async def test_an_allowance_is_heeded_once() -> None:
    places = Places(jitter=JITTER, learned=KNOWN)
    allowance = Allowance(1, 10)
    async with places.place("a") as place:
        place.heed(allowance)
        await anyio.sleep(5)
        place.heed(allowance)
    started = anyio.current_time()
    async with places.place("a"), places.place("a"):
        assert anyio.current_time() - started == pytest.approx(5 - 0.0)


@pytest.mark.parametrize("others", [0, WIDTH])
async def test_a_call_cancelled_in_the_queue_gives_up_its_turn(others: int) -> None:
    async with calls() as made:
        made.start(count=WIDTH)
        await settled()
        made.start("b", count=others)
        with anyio.move_on_after(0.25) as scope:
            async with made.places.place("b"):
                raise AssertionError("unreachable")
        assert scope.cancelled_caught
        made.start("c", count=WIDTH)
    assert made.times[WIDTH : 2 * WIDTH] == [1.0] * WIDTH
    assert len(made.times) == 2 * WIDTH + others


async def test_a_call_cancelled_as_it_is_admitted_gives_up_its_place() -> None:
    places = Places(jitter=JITTER, learned=KNOWN)
    waiting = anyio.CancelScope()
    began: list[str] = []

    async def hold() -> None:
        async with places.place("a"):
            await anyio.sleep(1)
        waiting.cancel()

    async def wait() -> None:
        with waiting:
            async with places.place("b"):
                await anyio.lowlevel.checkpoint()
                raise AssertionError("unreachable")

    async def follow(name: str) -> None:
        async with places.place(name):
            began.append(name)
            await anyio.sleep(10)

    async with anyio.create_task_group() as tasks:
        for number in range(WIDTH - 1):
            tasks.start_soon(follow, f"long-{number}")
        tasks.start_soon(hold)
        await anyio.sleep(0.5)
        tasks.start_soon(wait)
        await anyio.sleep(1)
        tasks.start_soon(follow, "next")
        await anyio.sleep(1)
        assert began[-1] == "next"


async def test_calls_that_wait_begin_in_rounds_that_double_until_one_is_refused() -> None:
    async with calls(learned=None) as made:
        made.start(count=200)
    rounds = [made.times.count(at) for at in sorted(set(made.times))]
    assert rounds == [FIRST, FIRST, 2 * FIRST, 4 * FIRST, 200 - 8 * FIRST]
    assert max(made.times) == pytest.approx(4 * ROUND_SECONDS)
    assert made.places.learned == Learned(width=MOST, refused_at=None)


async def test_a_refusal_ends_the_doubling_and_the_rest_waits_for_calls_to_end() -> None:
    async with calls(learned=None) as made:
        made.start(count=FIRST - 1)
        await settled(0.01)
        async with made.places.place("a") as place:
            place.refused(wait=None)
        made.start(count=100)
    assert made.times.count(0.0) == FIRST - 1
    assert made.times[FIRST - 1] == 1.0
