import os
from pathlib import Path

import pytest

from concertmaster.errors import ToolCallError
from concertmaster.llm.messages import Document
from concertmaster.tools.builtin import files
from concertmaster.tools.builtin.files import MAX_CHARS, ListFiles, ReadFile
from concertmaster.tools.scope import ToolScope

pytestmark = pytest.mark.anyio


@pytest.fixture
def scope(tmp_path: Path) -> ToolScope:
    root = tmp_path / "root"
    (root / "src").mkdir(parents=True)
    (root / "app.py").write_text("from the disk\n")
    (root / "src" / "core.py").write_text("one\ntwo\nthree\n")
    (tmp_path / "secret.txt").write_text("secret")
    inputs = (Document(name="app.py", text="given\n"), Document(name="letter", text="Dear Sir,"))
    return ToolScope(inputs=inputs, roots=(root,))


async def read(scope: ToolScope, path: str, **arguments: int) -> str:
    return await ReadFile().call({"path": path, **arguments}, scope)


async def test_an_input_comes_before_the_file_of_its_name(scope: ToolScope) -> None:
    assert await read(scope, "app.py") == "given\n"
    assert await read(scope, "src/core.py") == "one\ntwo\nthree\n"


async def test_a_range_of_lines_says_where_it_stops(scope: ToolScope) -> None:
    assert await read(scope, "src/core.py", start_line=2) == "two\nthree\n"
    assert await read(scope, "src/core.py", start_line=2, lines=9) == "two\nthree\n"
    assert await read(scope, "src/core.py", start_line=1, lines=2) == "one\ntwo\n"
    with pytest.raises(ToolCallError, match="has only 3 lines"):
        await read(scope, "src/core.py", start_line=4)


async def test_an_empty_file_is_empty_text() -> None:
    assert await read(ToolScope(inputs=(Document(name="a", text=""),)), "a") == ""


async def test_a_long_file_is_cut_and_can_be_read_on() -> None:
    text = "".join(f"{number}\n" for number in range(20_000))
    scope = ToolScope(inputs=(Document(name="long", text=text),))
    first = await read(scope, "long")
    assert len(first) < MAX_CHARS + 100
    shown, _, note = first.rpartition("[cut after line ")
    line = int(note.split()[0])
    assert note == f"{line} of 20000; go on with start_line {line + 1}]"
    rest = await read(scope, "long", start_line=line + 1)
    assert shown + rest.partition("[")[0] == text[: len(shown) + len(rest.partition("[")[0])]


async def test_a_line_longer_than_the_limit_is_cut_itself() -> None:
    text = "a" * (MAX_CHARS + 5) + "\nb\n"
    scope = ToolScope(inputs=(Document(name="wide", text=text),))
    reply = await read(scope, "wide")
    assert "[line 1 was cut: 6 more characters]\n[cut after line 1 of 2;" in reply
    assert await read(scope, "wide", start_line=2) == "b\n"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("../secret.txt", "outside the folders"),
        ("missing", 'no such file.*Your inputs: "app.py", "letter'),
        ("src", "is a folder. Call list_files"),
        ("pipe", "neither a file nor a folder"),
        ("", "path: String should have at least 1 character"),
    ],
)
async def test_what_may_not_be_read_is_refused_with_a_reason(
    scope: ToolScope, path: str, reason: str
) -> None:
    os.mkfifo(scope.roots[0] / "pipe")
    with pytest.raises(ToolCallError, match=reason):
        await read(scope, path)


async def test_without_roots_a_worker_still_reads_its_inputs() -> None:
    with pytest.raises(ToolCallError, match=r"no folder is open.*Your inputs: none\."):
        await read(ToolScope(), "app.py")


async def test_wrong_arguments_are_named(scope: ToolScope) -> None:
    with pytest.raises(ToolCallError, match=r"start_line: .*greater.*; from: Extra inputs"):
        await ReadFile().call({"path": "a", "start_line": 0, "from": 1}, scope)


async def test_inputs_are_listed_first_and_each_name_once(scope: ToolScope) -> None:
    reply = await ListFiles().call({}, scope)
    assert reply.splitlines() == ["app.py (input)", "letter (input)", "src/core.py"]


async def test_a_pattern_narrows_the_list(scope: ToolScope) -> None:
    assert await ListFiles().call({"pattern": "src/*"}, scope) == "src/core.py"
    assert "Nothing that may be read" in await ListFiles().call({"pattern": "*.rs"}, scope)


async def test_a_long_list_is_cut(scope: ToolScope, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_NAMES", 2)
    reply = await ListFiles().call({}, scope)
    assert reply.splitlines()[2] == "[cut after 2 names; use a narrower pattern]"


async def test_a_root_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ToolCallError, match="cannot be read"):
        await ListFiles().call({}, ToolScope(roots=(tmp_path / "gone",)))


@pytest.mark.parametrize(
    "name", [".env", "build/out.txt", "node_modules/pad.js", "link", ".git/config"]
)
async def test_what_is_not_listed_is_not_read_either(scope: ToolScope, name: str) -> None:
    root = scope.roots[0]
    for folder in ("build", "node_modules", ".git"):
        (root / folder).mkdir()
    for file in (".env", "build/out.txt", "node_modules/pad.js", ".git/config"):
        (root / file).write_text("key")
    (root / ".gitignore").write_text("build/\n")
    (root / "link").symlink_to(root / ".env")
    with pytest.raises(ToolCallError, match="hidden or ignored by git"):
        await read(scope, name)
    assert (await ListFiles().call({}, ToolScope(roots=scope.roots))).splitlines() == [
        "app.py",
        "src/core.py",
    ]
