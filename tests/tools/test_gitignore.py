from pathlib import Path

import pytest

from concertmaster.tools.inputs import read_inputs
from concertmaster.tools.roots import Roots

pytestmark = pytest.mark.anyio


def tree(root: Path, *files: str, **ignored: str) -> None:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("text")
    for folder, rules in ignored.items():
        (root / folder.strip("_") / ".gitignore").write_text(rules)


def seen(root: Path) -> list[str]:
    roots = Roots([root])
    return [roots.name(file) for file in roots.files()]


def test_what_git_ignores_is_left_out_of_a_walk(tmp_path: Path) -> None:
    tree(tmp_path, "a.py", "a.log", "dist/a.py", "src/dist", _="*.log\ndist/\n")
    assert seen(tmp_path) == ["a.py", "src/dist"]


def test_the_innermost_file_decides(tmp_path: Path) -> None:
    tree(tmp_path, "a.log", "src/a.log", "src/b.log", _="*.log", src="!a.log")
    assert seen(tmp_path) == ["src/a.log"]


@pytest.mark.filterwarnings("ignore:Possible nested set")
def test_a_rule_that_is_none_spoils_no_other(tmp_path: Path) -> None:
    tree(tmp_path, "a.py", "a.log", "b", _="!\n[z-a]\n[[:alpha:]\n*.log\n\\\n")
    assert seen(tmp_path) == ["a.py", "b"]


def test_a_rule_made_to_take_forever_does_not(tmp_path: Path) -> None:
    tree(tmp_path, "a" * 200, _=f"{'*a' * 60}b")
    assert seen(tmp_path) == ["a" * 200]


@pytest.mark.parametrize("content", [b"*\0", b"*\n" * 60_000, b"\xff*"])
def test_a_file_that_is_no_list_of_rules_is_not_used(tmp_path: Path, content: bytes) -> None:
    tree(tmp_path, "a.py")
    (tmp_path / ".gitignore").write_bytes(content)
    assert seen(tmp_path) == ["a.py"]


async def test_a_folder_input_leaves_out_what_git_ignores(tmp_path: Path) -> None:
    tree(tmp_path, "src/a.py", "src/a.log", "src/gen/b.py", _="*.log\ngen\n")
    documents = (await read_inputs(["src", "**/*.py"], roots=[tmp_path])).documents
    assert [document.name for document in documents] == ["src/a.py"]


async def test_what_is_named_is_read_though_git_ignores_it(tmp_path: Path) -> None:
    tree(tmp_path, "gen/b.py", "gen/c.log", "a.log", _="gen\n*.log", gen="*.log")
    documents = (await read_inputs(["gen", "a.log"], roots=[tmp_path])).documents
    assert [document.name for document in documents] == ["gen/b.py", "a.log"]
