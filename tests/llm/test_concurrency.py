"""The limit on concurrent calls, as a state machine, over random and scripted sequences."""

import math
import random
from collections import deque

import pytest

from concertmaster.llm.rate_limit import (
    FIRST,
    MOST,
    ROUND_SECONDS,
    ConcurrencyLimit,
    Learned,
    Outcome,
)


def begin(limit: ConcurrencyLimit, *, now: float = 0.0) -> int:
    """Begin a call whose request is sent at once."""
    episode = limit.begin()
    limit.sent(now=now)
    return episode


def begin_all(limit: ConcurrencyLimit, *, now: float = 0.0) -> list[int]:
    """Begin as many calls as there is room for."""
    episodes: list[int] = []
    while limit.has_room:
        episodes.append(begin(limit, now=now))
    return episodes


def additive(*, first: int, most: int = MOST, share: float = 1.0) -> ConcurrencyLimit:
    """Return a limit that is past slow start and remembers no refusal."""
    return ConcurrencyLimit(first=first, most=most, share=share, slow_start=False)


def grown(*, to: int) -> ConcurrencyLimit:
    """Return a limit, not in use, that grew without a refusal."""
    limit = additive(first=1)
    while limit.width < to:
        serve(limit, 1)
    return limit


def serve(limit: ConcurrencyLimit, calls: int) -> None:
    """Serve so many calls while others wait, so that there is never a place left."""
    under_way = deque(begin_all(limit))
    for _ in range(calls):
        limit.end(under_way.popleft(), "served")
        under_way.extend(begin_all(limit))
    for episode in under_way:
        limit.end(episode, "neither")


def refuse(limit: ConcurrencyLimit) -> None:
    """Refuse all calls of a limit that is used up."""
    for episode in begin_all(limit):
        limit.end(episode, "refused")


@pytest.mark.parametrize("seed", range(200))
def test_whatever_happens_the_limit_keeps_its_bounds_and_moves_only_as_it_should(seed: int) -> None:
    numbers = random.Random(seed)
    outcomes: list[Outcome] = ["served", "refused", "neither"]
    weights = [numbers.random() for _ in outcomes]
    slow = seed % 2 == 0
    limit = ConcurrencyLimit(first=numbers.randint(1, 40), most=40, slow_start=slow)
    under_way: list[int] = []
    for step in range(400):
        if numbers.random() < 0.1:
            before = limit.width
            limit.widen(now=step)
            assert limit.width in (before, min(2 * before, 40))
        before, calls = limit.width, len(under_way)
        if limit.has_room and (not under_way or numbers.random() < 0.6):
            under_way.append(begin(limit, now=step))
            assert limit.width == before
        else:
            outcome = numbers.choices(outcomes, weights)[0]
            full = not limit.has_room
            limit.end(under_way.pop(numbers.randrange(calls)), outcome)
            match outcome:
                case "served":
                    assert before <= limit.width <= before + (1 if full else 0)
                case "refused":
                    assert max(1, min(before // 2, calls - 1)) <= limit.width <= before
                case _:
                    assert limit.width == before
        assert 1 <= limit.width <= 40
        assert limit.in_flight == len(under_way)


def test_calls_refused_together_halve_the_limit_once() -> None:
    limit = additive(first=16)
    episodes = begin_all(limit)
    for episode in episodes[:12]:
        limit.end(episode, "refused")
    assert limit.width == 8


def test_a_call_that_began_after_the_halving_halves_it_again() -> None:
    limit = additive(first=16)
    refuse(limit)
    refuse(limit)
    assert limit.width == 4


def test_calls_that_began_before_the_halving_do_not_restore_the_limit() -> None:
    limit = additive(first=16)
    first, *others = begin_all(limit)
    limit.end(first, "refused")
    for episode in others:
        limit.end(episode, "served")
    assert limit.width == 8


def test_the_limit_grows_by_one_while_it_is_used_up_once() -> None:
    limit = additive(first=8)
    for width in range(8, 18):
        assert limit.width == width
        serve(limit, width + 1)


def test_calls_that_leave_room_say_nothing_about_more_room() -> None:
    limit = additive(first=8)
    for _ in range(1000):
        limit.end(begin(limit), "served")
    assert limit.width == 8


def test_the_way_back_is_quick_and_ends_below_the_refusal() -> None:
    limit = grown(to=17)
    refuse(limit)
    assert limit.width == 8
    serve(limit, 8)
    assert limit.width == 16
    serve(limit, 15 * 16)
    assert limit.width == 16


def test_beyond_the_refusal_is_tried_in_the_end() -> None:
    limit = grown(to=17)
    refuse(limit)
    serve(limit, 8 + 17 * 16)
    assert limit.width == 17


def test_without_a_new_refusal_the_old_one_is_forgotten() -> None:
    limit = grown(to=17)
    refuse(limit)
    while limit.width < 18:
        serve(limit, 1)
    serve(limit, 20)
    assert limit.width == 19


@pytest.mark.parametrize("served_between", [0, 2])
def test_refused_before_it_is_back_the_limit_grows_by_one_at_a_time(served_between: int) -> None:
    limit = grown(to=33)
    refuse(limit)
    serve(limit, served_between)
    refuse(limit)
    width = limit.width
    serve(limit, 2 * width + 3)
    assert limit.width == width + 2


def test_a_refusal_that_others_had_room_beside_is_no_fixed_limit() -> None:
    limit = grown(to=17)
    limit.end(begin(limit), "refused")
    serve(limit, 9)
    assert limit.width == 9


def ramp_up(limit: ConcurrencyLimit, *, allowed: int, rounds: int = 20) -> list[int]:
    """Begin calls for some rounds of slow start at a provider that takes `allowed` at once."""
    taken: list[int] = []
    for number in range(rounds):
        now = min(limit.widens_at, number * 1.0)
        limit.widen(now=now)
        begun = begin_all(limit, now=now)
        fits = max(0, allowed - len(taken))
        taken += begun[:fits]
        for episode in begun[fits:]:
            limit.end(episode, "refused")
    return taken


def test_slow_start_doubles_the_limit_each_round_in_which_it_is_used_up() -> None:
    limit = ConcurrencyLimit()
    now = 0.0
    for number in range(5):
        assert limit.width == FIRST * 2**number
        begin_all(limit, now=now)
        now = limit.widens_at
        limit.widen(now=now)
    assert limit.width == MOST


def test_slow_start_waits_for_a_round_after_the_last_request_has_been_sent() -> None:
    limit = ConcurrencyLimit()
    while limit.has_room:
        limit.begin()
    assert limit.widens_at == math.inf
    for number in range(FIRST):
        limit.sent(now=float(number))
    assert limit.widens_at == FIRST - 1 + ROUND_SECONDS


def test_slow_start_does_not_widen_a_limit_that_is_not_used_up() -> None:
    limit = ConcurrencyLimit()
    episodes = begin_all(limit)
    limit.end(episodes[0], "neither")
    limit.widen(now=10.0)
    assert limit.width == FIRST


@pytest.mark.parametrize("allowed", [1, 4, 10, 16, 20, 50, 200])
def test_the_first_refusal_sets_the_limit_to_what_the_provider_took(allowed: int) -> None:
    limit = ConcurrencyLimit()
    assert len(ramp_up(limit, allowed=allowed)) == limit.in_flight == limit.width == allowed


def test_a_provider_that_refuses_the_whole_first_burst_is_approached_again_quickly() -> None:
    limit = ConcurrencyLimit()
    ramp_up(limit, allowed=0, rounds=1)
    assert limit.width == 1
    serve(limit, FIRST // 2 - 1)
    assert limit.width == FIRST // 2


def test_slow_start_grows_by_one_for_each_call_served_while_it_is_used_up() -> None:
    limit = ConcurrencyLimit()
    serve(limit, FIRST)
    assert limit.width == 2 * FIRST


@pytest.mark.parametrize("allowed", [4, 10, 50])
def test_a_limit_continues_where_an_earlier_process_stopped(allowed: int) -> None:
    earlier = ConcurrencyLimit()
    ramp_up(earlier, allowed=allowed)
    limit = ConcurrencyLimit(learned=earlier.learned)
    assert len(ramp_up(limit, allowed=allowed)) == limit.width == allowed
    assert limit.learned == earlier.learned


def test_a_limit_that_was_never_refused_continues_with_slow_start() -> None:
    limit = ConcurrencyLimit(learned=Learned(width=64, refused_at=None))
    assert limit.width == 64
    begin_all(limit, now=0.0)
    limit.widen(now=ROUND_SECONDS)
    assert limit.width == 128


def test_a_limit_that_nothing_is_known_of_leaves_nothing_to_the_next_process() -> None:
    limit = ConcurrencyLimit()
    limit.end(begin(limit), "served")
    assert limit.learned is None


@pytest.mark.parametrize("allowed", [4, 8, 20, 50])
def test_a_provider_with_a_fixed_limit_is_used_to_nine_tenths_and_refuses_few(allowed: int) -> None:
    limit = ConcurrencyLimit()
    numbers = random.Random(allowed)
    ends: deque[tuple[float, int]] = deque()
    done: list[str] = []
    busy = now = 0.0
    while now < 400:
        while limit.has_room:
            episode = begin(limit, now=now)
            if len(ends) >= allowed:
                limit.end(episode, "refused")
                done += ["refused"] * (now > 100)
                continue
            ends.append((now + numbers.uniform(0.8, 1.2), episode))
        if limit.widens_at < min(ends)[0]:
            busy += (limit.widens_at - now) * len(ends) * (now > 100)
            now = limit.widens_at
            limit.widen(now=now)
            continue
        end, episode = min(ends)
        busy += (end - now) * len(ends) * (now > 100)
        now = end
        ends.remove((end, episode))
        limit.end(episode, "served")
        done += ["served"] * (now > 100)
    assert busy / (allowed * 300) > 0.9
    assert done.count("refused") / len(done) < 0.02


@pytest.mark.parametrize(("share", "first", "most"), [(1.0, 8, 40), (0.25, 2, 10), (0.01, 1, 1)])
def test_a_share_of_the_provider_is_that_part_of_what_is_begun_and_ended_with(
    share: float, first: int, most: int
) -> None:
    limit = additive(first=8, most=40, share=share)
    assert limit.width == first
    serve(limit, 2000)
    assert limit.width == most


def test_a_limit_with_half_of_the_provider_grows_by_half_as_much() -> None:
    limit = additive(first=16, share=0.5)
    serve(limit, 8)
    assert limit.width == 8
    serve(limit, 9)
    assert limit.width == 9
