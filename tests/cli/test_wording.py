import pytest

from concertmaster.cli.view.formatting import (
    cached,
    count,
    estimated,
    harmless,
    joined,
    likely,
    looked_up,
    money,
    one_line,
    seconds,
    spent,
    times,
    tokens,
)
from concertmaster.engine.events import Amounts, Counts, Estimate
from concertmaster.llm.usage import NO_USAGE, Usage


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (-1, "0.0s"),
        (0, "0.0s"),
        (59.94, "59.9s"),
        (60, "1m00s"),
        (125, "2m05s"),
        (3661, "1h01m01s"),
    ],
)
def test_a_span_of_time_is_short_to_read(value: float, expected: str) -> None:
    assert seconds(value) == expected


@pytest.mark.parametrize(
    ("number", "expected"), [(0, "0"), (999, "999"), (1000, "1.0k"), (2_500_000, "2.5M")]
)
def test_tokens_are_told_in_three_digits_or_so(number: int, expected: str) -> None:
    assert tokens(Usage(tokens_in=number)) == expected


def test_tokens_from_a_cache_count_too() -> None:
    assert tokens(Usage(tokens_in=1, tokens_out=2, cache_read=4, cache_write=8)) == "15"


@pytest.mark.parametrize(
    ("usd", "expected"), [(None, "$?"), (0.0, "$0.00"), (0.00123, "$0.0012"), (1.5, "$1.50")]
)
def test_small_amounts_keep_their_digits_and_unknown_ones_are_no_zero(
    usd: float | None, expected: str
) -> None:
    assert money(usd) == expected


def test_nothing_is_said_of_what_no_call_was_made_for() -> None:
    assert spent(NO_USAGE) == ""
    assert spent(Usage(calls=1, tokens_in=5, usd=None)) == "5 tokens · $?"


def test_of_replies_that_were_broken_off_it_is_said_that_their_length_is_an_estimate() -> None:
    assert estimated(Usage(calls=1)) == ""
    assert estimated(Usage(calls=1, estimated_in=1000, estimated_out=2)) == "1,002 tokens estimated"
    assert (
        estimated(Usage(calls=1, tokens_out=5000, estimated_out=1200)) == "1,200 tokens estimated"
    )


def test_the_cache_is_told_of_where_something_was_read_from_it() -> None:
    assert cached(Usage(calls=1, tokens_in=5, cache_write=9, saved_usd=-1)) == ""
    read = Usage(calls=1, tokens_in=5, cache_read=15, saved_usd=0.5)
    assert cached(read) == "75% cached, saved $0.5000"
    unknown = read.model_copy(update={"saved_usd": None})
    assert cached(unknown) == "75% cached, saved $?"


def test_what_is_likely_fits_half_a_line() -> None:
    estimate = Estimate(
        calls=Counts(low=7, high=28),
        tokens=Counts(low=24_000, high=1_300_000),
        usd=Amounts(low=0.09, high=1.25),
        seconds=Amounts(low=12.0, high=270.0),
    )
    assert likely(estimate) == "7-28 calls · 24k-1.3M tokens · $0.09-$1.25 · 12s-4m30s"


def test_what_is_certain_is_one_figure_and_an_unknown_price_is_no_zero() -> None:
    estimate = Estimate(
        calls=Counts(low=1, high=1),
        tokens=Counts(low=0, high=0),
        usd=Amounts(low=0, high=0),
        seconds=Amounts(low=0, high=0),
    )
    assert likely(estimate) == "1 call · 0 tokens · $0.00 · 0s"
    unknown = estimate.model_copy(update={"usd": None})
    assert likely(unknown) == "1 call · 0 tokens · $? · 0s"


def test_time_runs_until_the_end_and_not_before_the_beginning() -> None:
    assert times(None, None, 9) == ""
    assert times(1, None, 9) == "8.0s"
    assert times(1, 3, 9) == "2.0s"


def test_one_thing_is_no_plural() -> None:
    assert [count(number, "run") for number in (0, 1, 2)] == ["0 runs", "1 run", "2 runs"]


def test_empty_parts_leave_no_gap() -> None:
    assert joined(("a", "", "b")) == "a · b"


def test_text_from_elsewhere_cannot_move_the_cursor_or_turn_the_line() -> None:
    assert harmless("a\x1b]0;title\x07\tb\r\nc\u202ed\x9b31m") == "a]0;title\tb\ncd31m"


def test_lines_are_joined_into_one() -> None:
    assert one_line("  a\n\n b\t\x00c ") == "a b c"


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (NO_USAGE, ""),
        (Usage(searches=1), "1 web search"),
        (Usage(searches=2, fetches=1), "2 web searches · 1 page fetched"),
        (Usage(fetches=3), "3 pages fetched"),
    ],
)
def test_what_the_provider_looked_up_is_told_if_it_is_anything(usage: Usage, expected: str) -> None:
    assert looked_up(usage) == expected
