import pytest

from concertmaster.errors import StoreError
from concertmaster.store.journal import Looking

pytestmark = pytest.mark.anyio


async def test_why_a_store_cannot_be_looked_at_is_told_once_and_anew_after_it_could(
    caplog: pytest.LogCaptureFixture,
) -> None:
    looking = Looking(pause=0)
    for failure in ("It is away.", "It is away.", "It is full.", "", "It is full."):
        async with looking.once_more():
            if failure:
                raise StoreError(failure)
    assert caplog.messages == [
        "store not looked at: It is away.",
        "store not looked at: It is full.",
        "store not looked at: It is full.",
    ]
