"""How many requests the scripted endpoint takes, and what it says of that."""

from concertmaster.fake_api.usage import Limits, Refusal

NOON = 1_795_262_400.0


def test_without_limits_everything_is_let_in_and_nothing_said() -> None:
    limits = Limits(concurrent=None, per_minute=None)
    assert all(limits.admit(now=0) is None for _ in range(1000))
    assert limits.headers(now=0, clock=NOON) == {}


def test_a_request_beyond_those_at_once_is_let_in_when_another_has_ended() -> None:
    limits = Limits(concurrent=2, per_minute=None)
    assert [limits.admit(now=0) for _ in range(2)] == [None, None]
    assert limits.admit(now=0) == Refusal("More than 2 requests at once.")
    limits.leave()
    assert limits.admit(now=0) is None


def test_a_minute_s_requests_may_come_together_and_others_as_the_bucket_refills() -> None:
    limits = Limits(concurrent=None, per_minute=30)
    assert all(limits.admit(now=0) is None for _ in range(30))
    refusal = limits.admit(now=0)
    assert refusal is not None
    assert refusal.retry_after == 2
    assert limits.admit(now=2) is None
    assert limits.admit(now=2) is not None


def test_the_headers_tell_what_is_left_and_when_all_is() -> None:
    limits = Limits(concurrent=None, per_minute=30)
    for _ in range(10):
        limits.admit(now=0)
    assert limits.headers(now=4, clock=NOON) == {
        "anthropic-ratelimit-requests-limit": "30",
        "anthropic-ratelimit-requests-remaining": "22",
        "anthropic-ratelimit-requests-reset": "2026-11-21T12:00:16Z",
    }
