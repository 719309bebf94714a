import pytest

from concertmaster.errors import ToolCallError
from concertmaster.llm.messages import Document
from concertmaster.tools.builtin.python import Python
from concertmaster.tools.scope import ToolScope

pytestmark = pytest.mark.anyio

SALES = Document(name="sales.csv", text="shop;sum;code\nNorth;10.5;007\nSouth;3;008\n")
SCOPE = ToolScope(
    inputs=(
        SALES,
        Document(name="notes.txt", text="Total: 13.5"),
        Document(name="shops.json", text='{"North": {"staff": 3}}'),
    )
)


async def run(code: str, scope: ToolScope = SCOPE) -> str:
    return await Python(seconds=0.5).call({"code": code}, scope)


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("sum(row['sum'] for row in tables['sales.csv'])", "13.5"),
        ("[row['code'] for row in tables['sales.csv']]", "['007', '008']"),
        ("tables['shops.json']['North']['staff'] * 2", "6"),
        ("import re\nre.findall(r'[0-9.]+', texts['notes.txt'])", "['13.5']"),
        ("x = 2\nprint(x)\nx ** 10", "2\n1024"),
        ("from decimal import Decimal\nDecimal('0.1') + Decimal('0.2')", "0.3"),
        ("'as it is'", "as it is"),
        ("{'a': [1, None]}", "{'a': [1, None]}"),
        ("x = []\nx.append(x)\nx", "['[...]']"),
        ("x = 1", "[nothing was printed]"),
    ],
)
async def test_code_calculates_with_the_inputs(code: str, outcome: str) -> None:
    assert await run(code) == outcome


@pytest.mark.parametrize(
    "code",
    [
        "list(range(1000))",
        "x = [0] * 10\nfor _ in range(9):\n    x = [x] * 10\nx",
        "10 ** 5000",
        "class A:\n    pass\nA()",
    ],
)
async def test_a_value_that_cannot_be_shown_whole_has_to_be_printed(code: str) -> None:
    assert await run(code) == "[the value is large; print a part]"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("print('before')\n1 / 0", r"before\nTraceback(.|\n)*line 2(.|\n)*ZeroDivisionError"),
        ("def (", "SyntaxError"),
        ("import pandas", "No module named 'pandas'"),
        ("while True: pass", "time limit exceeded"),
        ("'a' * 10 ** 10", "memory limit exceeded"),
        ("while True: print('a' * 1000)", "memory limit exceeded"),
    ],
)
async def test_code_that_fails_says_where_and_why(code: str, reason: str) -> None:
    with pytest.raises(ToolCallError, match=reason):
        await run(code)


async def test_a_sandbox_that_dies_is_an_error_and_the_next_call_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MONTY_BIN", "/bin/false")
    with pytest.raises(ToolCallError, match="The sandbox gave up"):
        await run("1")
    monkeypatch.delenv("MONTY_BIN")
    assert await run("1") == "1"


async def test_data_that_is_none_is_named_and_stays_readable_as_text() -> None:
    scope = ToolScope(inputs=(Document(name="a.json", text="{"), SALES))
    outcome = await run("print(list(tables), texts['a.json'])", scope)
    assert outcome.startswith("Input 'a.json': it cannot be read as data: Expecting")
    assert outcome.endswith("\n['sales.csv'] {")


async def test_no_call_sees_what_another_left() -> None:
    assert await run("x = 1\nx") == "1"
    with pytest.raises(ToolCallError, match="NameError"):
        await run("x")
