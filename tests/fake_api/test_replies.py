"""When the parts of a reply come, in virtual time."""

from typing import Any

import anyio
import pytest
from trio.testing import MockClock

from concertmaster.fake_api import Behaviour, Fault
from concertmaster.fake_api.replies import make_reply, stream
from concertmaster.fake_api.usage import CacheUse, Entry

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return ("trio", {"clock": MockClock(autojump_threshold=0)})


async def times(fault: Fault | None = None, **behaviour: Any) -> list[float]:
    """Return when the pieces of a reply of 40 tokens come."""
    started = anyio.current_time()
    reply = make_reply("word" * 40, max_tokens=100, fault=fault)
    entry = Entry(request_id="req_1", status=200, began=0)
    use = CacheUse(read=0, write=0, fresh=1, prefixes=())
    events = stream(reply, entry, use, Behaviour(**behaviour))
    return [anyio.current_time() - started async for event in events if b'"text_delta"' in event]


async def test_a_reply_comes_as_fast_as_its_tokens_are_made() -> None:
    assert await times(tokens_per_second=8) == pytest.approx([0.5 * n for n in range(1, 11)])


async def test_without_a_speed_a_reply_comes_at_once() -> None:
    assert await times() == [0.0] * 10


async def test_silence_falls_in_the_middle() -> None:
    assert await times("silence", silence_seconds=30) == [0.0] * 5 + [30.0] * 5
