from pathlib import Path

import pytest

from concertmaster.errors import ToolCallError
from concertmaster.llm.messages import Document
from concertmaster.tools.builtin import files as search
from concertmaster.tools.builtin.files import MAX_LINE, SearchFiles
from concertmaster.tools.scope import ToolScope

pytestmark = pytest.mark.anyio


@pytest.fixture
def scope(tmp_path: Path) -> ToolScope:
    root = tmp_path / "root"
    (root / "src").mkdir(parents=True)
    (root / "app.py").write_text("total = 0  # on the disk\n")
    (root / "src" / "core.py").write_text("def add(a, b):\n    return a + b\n\ntotal = add(1, 2)\n")
    (root / "logo.png").write_bytes(b"total\0")
    inputs = (Document(name="app.py", text="TOTAL: 1.5\n"), Document(name="letter", text="Total?"))
    return ToolScope(inputs=inputs, roots=(root,))


async def find(scope: ToolScope, pattern: str, **arguments: str | bool) -> list[str]:
    return (await SearchFiles().call({"pattern": pattern, **arguments}, scope)).splitlines()


async def test_each_line_that_matches_comes_with_its_file_and_number(scope: ToolScope) -> None:
    assert await find(scope, r"^total\b") == ["src/core.py:4: total = add(1, 2)"]
    assert await find(scope, "return") == ["src/core.py:2: return a + b"]


async def test_an_input_is_searched_in_place_of_the_file_of_its_name(scope: ToolScope) -> None:
    found = await find(scope, "total", ignore_case=True)
    assert found == [
        "app.py:1: TOTAL: 1.5",
        "letter:1: Total?",
        "src/core.py:4: total = add(1, 2)",
    ]


async def test_names_narrow_the_search(scope: ToolScope) -> None:
    assert await find(scope, "total", files="*.md") == [
        "No line of what may be read in '*.md' matches."
    ]
    assert await find(scope, "Total", files="letter") == ["letter:1: Total?"]


async def test_a_text_with_signs_is_found_as_it_is(scope: ToolScope) -> None:
    assert await find(scope, "(a, b):", literal=True) == ["src/core.py:1: def add(a, b):"]


async def test_a_pattern_that_other_engines_take_forever_for_is_linear() -> None:
    scope = ToolScope(inputs=(Document(name="a", text="a" * 50_000 + "b"),))
    assert "No line" in (await find(scope, "(a+)+$"))[0]


async def test_what_matches_is_cut(scope: ToolScope, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = ToolScope(inputs=(Document(name="wide", text="x" * (MAX_LINE + 1)),))
    assert await find(wide, "x") == [f"wide:1: {'x' * MAX_LINE}…"]
    monkeypatch.setattr(search, "MAX_MATCHES", 1)
    assert (await find(scope, "a"))[1:] == ["[cut after 1 lines; use a narrower pattern]"]


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(", r"The pattern is wrong: missing \)"),
        (r"(a)\1", "The pattern is wrong: invalid escape sequence"),
        ("((a{1000}){1000}){1000}", "The pattern is wrong"),
        ("\ud83d", "pattern: Input should be a valid string"),
        ("", "pattern: String should have at least 1 character"),
    ],
)
async def test_a_wrong_pattern_is_explained(scope: ToolScope, pattern: str, reason: str) -> None:
    with pytest.raises(ToolCallError, match=reason):
        await find(scope, pattern)


async def test_too_much_text_is_refused(scope: ToolScope, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "MAX_TOTAL_CHARS", 20)
    with pytest.raises(ToolCallError, match=r"too much text up to here. Narrow `files`"):
        await find(scope, "total")
