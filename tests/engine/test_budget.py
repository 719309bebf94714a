"""Accounts: what is reserved, what is refused, and that no order of things passes the limit."""

import math
import random

import pytest

from concertmaster.engine.budget import NOTHING, Account, Amount, Bound, amount_of
from concertmaster.llm.usage import Usage

CENT_A_TOKEN = 0.01


def bound(most: int = 100, *, least: int = 10, prompt: float = 1.0) -> Bound:
    return Bound(
        prompt=Amount(tokens=50, usd=prompt), usd_per_token=CENT_A_TOKEN, most=most, least=least
    )


def account(usd: float = 10.0, tokens: float = 10_000) -> Account:
    return Account(Amount(tokens=tokens, usd=usd))


def test_a_call_is_reserved_at_its_dearest() -> None:
    one = account(10)
    reservation = one.reserve(bound(100))
    assert reservation is not None
    assert reservation.max_tokens == 100
    assert one.room.usd == pytest.approx(8)
    assert one.room.tokens == 10_000 - 150
    assert one.left.usd == 10


def test_what_a_call_has_cost_takes_the_place_of_its_reservation() -> None:
    one = account(10)
    reservation = one.reserve(bound())
    assert reservation is not None
    one.settle(reservation, Amount(tokens=60, usd=1.1))
    assert one.room == one.left == Amount(tokens=10_000 - 60, usd=10 - 1.1)


def test_a_reply_is_bounded_by_what_there_is_room_for() -> None:
    reservation = account(1.5).reserve(bound(100))
    assert reservation is not None
    assert reservation.max_tokens == 50


def test_a_call_that_would_be_too_short_is_refused() -> None:
    assert account(1.05).reserve(bound(100)) is None
    assert account(0.5).reserve(bound(100)) is None


def test_a_reply_that_is_to_be_short_needs_no_more_than_it_may_have() -> None:
    assert account(1.05).reserve(bound(5)) is not None


@pytest.mark.parametrize(("tokens", "granted"), [(150, 100), (100, 50), (59, None)])
def test_tokens_bind_as_well_as_money(tokens: int, granted: int | None) -> None:
    reservation = account(10, tokens=tokens).reserve(bound(100))
    assert (reservation and reservation.max_tokens) == granted


def test_where_there_is_no_price_the_tokens_alone_bind() -> None:
    free = Bound(prompt=Amount(tokens=50), most=100, least=10)
    spent = account(1)
    spent.charge(Amount(usd=2))
    reservation = spent.reserve(free)
    assert reservation is not None
    assert reservation.max_tokens == 100


def test_a_prompt_alone_may_have_a_price() -> None:
    reservation = account(1.5).reserve(Bound(prompt=Amount(usd=1), most=100, least=10))
    assert reservation is not None
    assert reservation.max_tokens == 100


def test_what_is_held_back_cannot_be_reserved_until_it_is_released() -> None:
    one = account(4)
    one.hold_back(Amount(usd=3))
    assert one.reserve(bound(100)) is None
    assert not one.fits_at_all(bound(100))
    one.hold_back(NOTHING)
    assert one.reserve(bound(100)) is not None


def test_a_call_that_others_are_in_the_way_of_fits_at_all() -> None:
    one = account(2.05)
    assert one.reserve(bound(100)) is not None
    assert one.reserve(bound(100)) is None
    assert one.fits_at_all(bound(100))


def test_another_attempt_is_paid_for_in_addition_to_the_first() -> None:
    one = account(4)
    reservation = one.reserve(bound(100))
    assert reservation is not None
    assert one.extend(reservation, Amount(usd=1.5))
    assert one.room.usd == pytest.approx(0.5)
    assert not one.extend(reservation, Amount(usd=2.5))
    assert one.room.usd == pytest.approx(0.5)
    one.settle(reservation, Amount(usd=3))
    assert one.room.usd == pytest.approx(1)


def test_an_attempt_that_cost_nothing_is_repeated_for_nothing() -> None:
    one = account(2)
    reservation = one.reserve(bound(100))
    assert reservation is not None
    assert one.extend(reservation, NOTHING)


def test_a_part_is_bound_by_its_own_limit_and_by_the_whole() -> None:
    whole = account(3)
    part = Account(Amount(tokens=math.inf, usd=2), within=whole)
    assert part.room.usd == 2
    reservation = part.reserve(bound(100))
    assert reservation is not None
    assert (part.room.usd, whole.room.usd) == (0, 1)
    part.settle(reservation, Amount(usd=0.5))
    assert (part.room.usd, whole.room.usd) == (1.5, 2.5)
    whole.charge(Amount(usd=2))
    assert part.left.usd == part.room.usd == 0.5


def test_money_that_nobody_knows_is_left_out() -> None:
    usage = Usage(tokens_in=1, tokens_out=2, cache_read=4, cache_write=8, usd=None)
    assert amount_of(usage).usd == 0


def test_what_is_read_from_a_cache_does_not_count_as_tokens_but_as_money() -> None:
    usage = Usage(tokens_in=1, tokens_out=2, cache_read=4, cache_write=8, usd=0.5)
    assert amount_of(usage) == Amount(tokens=11, usd=0.5)


@pytest.mark.parametrize("seed", range(300))
def test_no_order_of_calls_passes_the_limit(seed: int) -> None:
    """Calls start, are repeated and end in any order, and each takes up to what it may."""
    numbers = random.Random(seed)
    limit = Amount(tokens=numbers.randint(100, 20_000), usd=numbers.uniform(0.1, 50))
    whole = Account(limit)
    parts = [Account(Amount(tokens=math.inf, usd=numbers.uniform(0, 60)), within=whole), whole]
    reserved = [
        (part, reservation)
        for part in (numbers.choice(parts) for _ in range(20))
        if (reservation := part.reserve(any_bound(numbers))) is not None
    ]
    for _ in range(200):
        action = numbers.random()
        if action < 0.4 and reserved:
            part, reservation = reserved.pop(numbers.randrange(len(reserved)))
            share = numbers.choice([0, numbers.random(), 1])
            part.settle(reservation, reservation.amount.share(share))
        elif action < 0.5 and reserved:
            part, reservation = numbers.choice(reserved)
            part.extend(reservation, reservation.amount.share(numbers.random()))
        elif action < 0.6:
            whole.hold_back(limit.share(numbers.random() / 2))
        else:
            part = numbers.choice(parts)
            if (made := part.reserve(any_bound(numbers))) is not None:
                reserved.append((part, made))
                assert made.bound.least <= made.max_tokens or made.max_tokens == made.bound.most
        worst = sum((item.amount for _, item in reserved), start=whole.spent)
        assert worst.usd <= limit.usd * (1 + 1e-9)
        assert worst.tokens <= limit.tokens * (1 + 1e-9)
        own = sum((item.amount for part, item in reserved if part is parts[0]), parts[0].spent)
        assert own.usd <= parts[0].limit.usd + 1e-9


def any_bound(numbers: random.Random) -> Bound:
    return Bound(
        prompt=Amount(tokens=numbers.randint(0, 2000), usd=numbers.uniform(0, 2)),
        usd_per_token=numbers.choice([0, numbers.uniform(0, 0.01)]),
        most=numbers.randint(1, 2000),
        least=numbers.randint(1, 500),
    )
