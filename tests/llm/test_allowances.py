"""What the provider's rate-limit headers come to."""

from collections.abc import Mapping

import pytest

from concertmaster.errors import ModelUnavailableError
from concertmaster.llm.anthropic.response import read_allowance
from concertmaster.llm.messages import Draft
from concertmaster.llm.rate_limit import Allowance
from scripted_anthropic import Provider, ask, connected, failure, stream, whole

pytestmark = pytest.mark.anyio

DATE = {"date": "Sat, 21 Nov 2026 12:00:00 GMT"}


def headers(kind: str, *, remaining: int, reset: str, limit: int = 50) -> dict[str, str]:
    prefix = f"anthropic-ratelimit-{kind}"
    return {
        f"{prefix}-limit": str(limit),
        f"{prefix}-remaining": str(remaining),
        f"{prefix}-reset": reset,
    }


@pytest.mark.parametrize(
    ("given", "allowance"),
    [
        ({}, None),
        (headers("requests", remaining=0, reset="2026-11-21T12:00:50Z"), Allowance(0, 1.0)),
        (headers("requests", remaining=40, reset="2026-11-21T12:00:20Z"), Allowance(40, 2.0)),
        (headers("requests", remaining=50, reset="2026-11-21T12:00:00Z"), Allowance(50, 0.0)),
        (headers("requests", remaining=0, reset="soon"), Allowance(0, 0.0)),
        (headers("requests", remaining=0, reset="2027-11-21T12:00:00Z"), Allowance(0, 1.2)),
        ({"anthropic-ratelimit-requests-remaining": "many"}, None),
        (
            {
                "anthropic-ratelimit-requests-remaining": "0",
                "anthropic-ratelimit-requests-reset": "2026-11-21T12:00:07+00:00",
            },
            Allowance(0, 7.0),
        ),
        (
            headers("requests", remaining=40, reset="2026-11-21T12:00:20Z")
            | headers("output-tokens", remaining=0, reset="2026-11-21T12:00:12Z"),
            Allowance(0, 12.0),
        ),
        (headers("input-tokens", remaining=1000, reset="2026-11-21T12:00:12Z"), None),
    ],
)
def test_headers_say_how_many_calls_are_left_and_when_there_is_one_more(
    given: Mapping[str, str], allowance: Allowance | None
) -> None:
    assert read_allowance(DATE | dict(given)) == allowance


async def test_a_reply_brings_the_allowance_before_its_text() -> None:
    seen: list[tuple[str, Allowance | None]] = []
    response = stream(whole())
    response.headers.update(DATE)
    response.headers.update(headers("requests", remaining=0, reset="2026-11-21T12:00:50Z"))
    async with connected(Provider(response)) as llm:
        await llm.complete(ask(), Draft(lambda draft: seen.append((draft.text, draft.allowance))))
    with_allowance = [text for text, allowance in seen if allowance == Allowance(0, 1.0)]
    assert with_allowance[0] == ""


async def test_a_refusal_brings_the_allowance_too_and_says_that_it_is_one() -> None:
    draft = Draft()
    limits = headers("requests", remaining=0, reset="2026-11-21T12:00:50Z")
    refusal = failure(429, "rate_limit_error", headers=DATE | limits)
    async with connected(Provider(refusal)) as llm:
        with pytest.raises(ModelUnavailableError) as caught:
            await llm.complete(ask(), draft)
    assert caught.value.busy
    assert draft.allowance == Allowance(0, 1.0)


@pytest.mark.parametrize(
    ("status", "kind", "busy"),
    [(429, "rate_limit_error", True), (529, "overloaded_error", True), (500, "api_error", False)],
)
async def test_only_a_provider_with_too_many_calls_is_busy(
    status: int, kind: str, busy: bool
) -> None:
    async with connected(Provider(failure(status, kind))) as llm:
        with pytest.raises(ModelUnavailableError) as caught:
            await llm.complete(ask(), Draft())
    assert caught.value.busy is busy
