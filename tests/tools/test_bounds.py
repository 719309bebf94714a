from collections.abc import Mapping

import anyio
import pytest
from pydantic import JsonValue
from trio.testing import MockClock

from concertmaster.errors import ToolCallError
from concertmaster.llm.fencing import fence
from concertmaster.tools.registry import Bounded
from concertmaster.tools.scope import ToolScope
from fakes import FakeTool

pytestmark = pytest.mark.anyio


def bounded(text: str) -> Bounded:
    return Bounded(FakeTool("speak", lambda _arguments, _scope: text), seconds=60, max_chars=5)


async def test_an_outcome_that_fits_is_passed_on_as_data_with_its_source() -> None:
    said = await bounded("12345").call({"path": "a b.py", "lines": 3}, ToolScope())
    assert said == fence("tool-result", 'speak {"path": "a b.py", "lines": 3}', "12345")


async def test_a_longer_outcome_is_cut_and_that_is_no_part_of_it() -> None:
    said = await bounded("123456").call({}, ToolScope())
    assert said == fence("tool-result", "speak {}", "12345") + "\n[cut after 5 characters]"


async def test_half_a_character_does_not_get_into_the_journal() -> None:
    said = await bounded("a\ud83d").call({"text": "b\ud83d"}, ToolScope())
    assert said == fence("tool-result", 'speak {"text": "b\ufffd"}', "a\ufffd")


async def test_a_long_reason_is_cut_and_fenced_too() -> None:
    def fail(_: Mapping[str, JsonValue], _scope: ToolScope) -> str:
        raise ToolCallError("no" * 10_000)

    with pytest.raises(ToolCallError, match=r"nono\n</tool-result-\w+>\n\[cut after 4,000"):
        await Bounded(FakeTool("fail", fail), seconds=60, max_chars=5).call({}, ToolScope())


@pytest.mark.parametrize("anyio_backend", [("trio", {"clock": MockClock(autojump_threshold=0)})])
async def test_a_tool_that_does_not_end_is_stopped() -> None:
    async def hang(_: Mapping[str, JsonValue], _scope: ToolScope) -> str:
        await anyio.sleep_forever()
        raise AssertionError("unreachable")

    tool = Bounded(FakeTool("hang", hang), seconds=60, max_chars=5)
    with pytest.raises(ToolCallError, match="hang took longer than 60 s"):
        await tool.call({}, ToolScope())
