"""Which faults happen to which requests."""

from collections import Counter

import pytest

from concertmaster.errors import SettingsError
from concertmaster.fake_api import FAULTS, Behaviour, parse_faults, parse_values
from concertmaster.fake_api.behaviour import FaultMix, Lengths

BODIES = [f"request {number}".encode() for number in range(4000)]


def test_faults_happen_as_often_as_asked_for() -> None:
    mix = FaultMix(Behaviour(faults={"reset": 0.2, "empty": 0.05}))
    counts = Counter(mix.next(body) for body in BODIES)
    assert 700 < counts["reset"] < 900
    assert 150 < counts["empty"] < 250
    assert counts["reset"] + counts["empty"] + counts[None] == 4000


def test_the_same_requests_meet_the_same_faults_in_whatever_order_they_come() -> None:
    behaviour = Behaviour(faults=parse_faults("all=0.5"), seed=7)
    there, back = FaultMix(behaviour), FaultMix(behaviour)
    forwards = {body: there.next(body) for body in BODIES}
    backwards = {body: back.next(body) for body in reversed(BODIES)}
    assert forwards == backwards


def test_a_repeated_request_is_drawn_for_again() -> None:
    mix = FaultMix(Behaviour(faults={"reset": 0.5}))
    assert {mix.next(b"the same") for _ in range(20)} == {"reset", None}


def test_another_seed_means_other_faults() -> None:
    drawn = [
        [FaultMix(Behaviour(faults={"reset": 0.5}, seed=seed)).next(body) for body in BODIES[:50]]
        for seed in (1, 2)
    ]
    assert drawn[0] != drawn[1]


def test_a_mix_is_written_as_shares() -> None:
    assert parse_faults("reset=0.1, silence=0.25") == {"reset": 0.1, "silence": 0.25}
    assert set(parse_faults("all=0.16").values()) == {0.01}
    assert tuple(parse_faults("all=0.16")) == FAULTS
    assert parse_faults("") == {}


@pytest.mark.parametrize(
    ("mix", "problem"),
    [
        ("resset=0.1", "no fault 'resset'. Did you mean 'reset'?"),
        ("reset", "'reset' is no share"),
        ("reset=often", "'reset=often' is no share"),
    ],
)
def test_a_mix_that_makes_no_sense_is_an_error(mix: str, problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        parse_faults(mix)


@pytest.mark.parametrize("mix", ["reset=0.7,empty=0.7", "reset=-0.1", "reset=1.1"])
def test_shares_that_are_none_are_an_error(mix: str) -> None:
    with pytest.raises(SettingsError, match="add up to at most 1"):
        Behaviour(faults=parse_faults(mix))


def test_replies_are_as_long_as_asked_for_give_or_take_the_spread() -> None:
    even = Lengths(Behaviour(reply_tokens=100))
    assert {even.next(body) for body in BODIES[:50]} == {100}
    behaviour = Behaviour(reply_tokens=100, spread=0.5)
    uneven = Lengths(behaviour)
    drawn = [uneven.next(body) for body in BODIES[:1000]]
    assert 50 <= min(drawn) < 60 < 140 < max(drawn) <= 150
    again = Lengths(behaviour)
    assert [again.next(body) for body in BODIES[:1000]] == drawn


def test_even_the_shortest_reply_has_a_token() -> None:
    lengths = Lengths(Behaviour(reply_tokens=1, spread=1))
    assert min(lengths.next(body) for body in BODIES[:50]) == 1


def test_a_spread_of_more_than_everything_is_an_error() -> None:
    with pytest.raises(SettingsError, match="from 0 to 1"):
        Behaviour(spread=1.5)


def test_values_are_written_as_json_behind_names() -> None:
    assert parse_values(["allowed=true", 'a="x=y"', "b=[1]"]) == {
        "allowed": True,
        "a": "x=y",
        "b": [1],
    }


@pytest.mark.parametrize("text", ["allowed", "allowed=", "allowed=yes", "=true"])
def test_a_value_that_makes_no_sense_is_an_error(text: str) -> None:
    with pytest.raises(SettingsError, match="allowed=true"):
        parse_values([text])
