from collections.abc import Mapping

import anyio
import pytest
from pydantic import JsonValue
from trio.testing import MockClock

from concertmaster.errors import ToolCallError
from concertmaster.tools.bounds import Bounded
from concertmaster.tools.registry import ToolScope
from fakes import FakeTool

pytestmark = pytest.mark.anyio


def bounded(text: str) -> Bounded:
    return Bounded(FakeTool("speak", lambda _arguments, _scope: text), seconds=60, max_chars=5)


async def test_an_outcome_that_fits_is_passed_on() -> None:
    assert await bounded("12345").call({}, ToolScope()) == "12345"


async def test_a_longer_outcome_is_cut() -> None:
    assert await bounded("123456").call({}, ToolScope()) == "12345\n[cut after 5 characters]"


async def test_half_a_character_does_not_get_into_the_journal() -> None:
    assert await bounded("a\ud83d").call({}, ToolScope()) == "a\ufffd"


async def test_a_long_reason_is_cut_too() -> None:
    def fail(_: Mapping[str, JsonValue], _scope: ToolScope) -> str:
        raise ToolCallError("no" * 10_000)

    with pytest.raises(ToolCallError, match=r"nono\n\[cut after 4,000 characters\]$"):
        await Bounded(FakeTool("fail", fail), seconds=60, max_chars=5).call({}, ToolScope())


@pytest.mark.parametrize("anyio_backend", [("trio", {"clock": MockClock(autojump_threshold=0)})])
async def test_a_tool_that_does_not_end_is_stopped() -> None:
    async def hang(_: Mapping[str, JsonValue], _scope: ToolScope) -> str:
        await anyio.sleep_forever()
        raise AssertionError("unreachable")

    tool = Bounded(FakeTool("hang", hang), seconds=60, max_chars=5)
    with pytest.raises(ToolCallError, match="hang took longer than 60 s"):
        await tool.call({}, ToolScope())
