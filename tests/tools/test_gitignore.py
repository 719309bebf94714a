import shutil
import subprocess
from pathlib import Path

import pytest

from concertmaster.errors import ToolCallError
from concertmaster.tools.builtin.files import ReadFile, SearchFiles
from concertmaster.tools.inputs import read_inputs
from concertmaster.tools.roots import Roots
from concertmaster.tools.scope import ToolScope

pytestmark = pytest.mark.anyio

GIT = shutil.which("git") or ""


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the home of a user without rules."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USERPROFILE", str(folder))
    return folder


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


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a repository with a package in it."""
    folder = tmp_path / "repository"
    (folder / ".git" / "info").mkdir(parents=True)
    tree(folder, "pkg/app.py", "pkg/secrets.txt", "pkg/in/k.pem", _="secrets.txt\n*.pem\n")
    return folder


async def test_rules_of_the_repository_count_in_a_folder_of_it(repository: Path) -> None:
    root = repository / "pkg"
    assert seen(root) == ["app.py"]
    for spec in (".", "**/*", str(root)):
        documents = (await read_inputs([spec], roots=[root])).documents
        assert [document.name for document in documents] == ["app.py"]


@pytest.mark.parametrize("path", ["secrets.txt", "in/k.pem"])
async def test_no_worker_reads_what_the_repository_of_a_root_ignores(
    repository: Path, path: str
) -> None:
    scope = ToolScope(roots=(repository / "pkg",))
    with pytest.raises(ToolCallError, match="ignored by git"):
        await ReadFile().call({"path": path}, scope)
    found = await SearchFiles().call({"pattern": "text"}, scope)
    assert found == "app.py:1: text"


async def test_a_file_that_the_user_names_is_read_though_the_repository_ignores_it(
    repository: Path,
) -> None:
    documents = (await read_inputs(["secrets.txt"], roots=[repository / "pkg"])).documents
    assert [document.name for document in documents] == ["secrets.txt"]


@pytest.mark.skipif(not GIT, reason="there is no git here")
@pytest.mark.parametrize("root", [".", "pkg", "pkg/in"])
def test_git_leaves_out_the_same(tmp_path: Path, home: Path, root: str) -> None:
    subprocess.run([GIT, "init", "--quiet", tmp_path], check=True)
    tree(tmp_path, "a.py", "a.log", "pkg/a.py", "pkg/a.log", "pkg/b.log", "pkg/in/a.log")
    tree(tmp_path, "pkg/in/a.tmp", "pkg/in/b.py", "pkg/out/a.py", "c.txt", "pkg/in/c.txt")
    tree(tmp_path, _="*.log\n/pkg/in/b.py\nout/\n!keep.tmp", pkg="!a.log\n")
    tree(tmp_path, "pkg/keep.tmp", "pkg/in/keep.txt")
    (tmp_path / ".git" / "info" / "exclude").write_text("*.tmp\n!keep.txt\n")
    (home / ".gitconfig").write_text("[core]\n\texcludesFile = ~/rules\n")
    (home / "rules").write_text("*.txt\n")
    command = [GIT, "ls-files", "--others", "--exclude-standard"]
    listed = subprocess.run(
        command, cwd=tmp_path / root, check=True, capture_output=True, text=True
    ).stdout.split()
    assert sorted(seen(tmp_path / root)) == [name for name in listed if ".gitignore" not in name]


def test_rules_above_the_repository_do_not_count(repository: Path) -> None:
    tree(repository.parent, _="*.py")
    assert seen(repository / "pkg") == ["app.py"]


def test_a_root_that_its_repository_ignores_was_named_on_purpose(repository: Path) -> None:
    tree(repository, "build/out/a.pem", "build/out/b.log", _="build\n*.pem\n*.log")
    tree(repository / "build" / "out", _="*.log")
    assert seen(repository / "build" / "out") == ["a.pem"]


@pytest.mark.parametrize("root", [".", "pkg"])
def test_the_rules_of_one_clone_count(repository: Path, root: str) -> None:
    (repository / ".git" / "info" / "exclude").write_text("app.py\n")
    assert seen(repository / root) == []


def test_a_rule_in_the_tree_decides_over_one_of_the_clone(repository: Path) -> None:
    (repository / ".git" / "info" / "exclude").write_text("app.py\n")
    tree(repository, _="!app.py\n*.txt\n*.pem")
    assert seen(repository / "pkg") == ["app.py"]


@pytest.mark.parametrize("common", ["", "../.."])
def test_a_working_tree_of_its_own_has_the_rules_of_its_repository(
    repository: Path, tmp_path: Path, common: str
) -> None:
    (repository / ".git" / "info" / "exclude").write_text("app.py\n")
    git = repository / ".git" / "worktrees" / "other" if common else repository / ".git"
    git.mkdir(parents=True, exist_ok=True)
    if common:
        (git / "commondir").write_text(f"{common}\n")
    tree(tmp_path / "other", "pkg/app.py", "pkg/b.py")
    (tmp_path / "other" / ".git").write_text(f"gitdir: {git}\n")
    assert seen(tmp_path / "other" / "pkg") == ["b.py"]


@pytest.mark.parametrize(
    ("settings", "rules"),
    [
        ("", ".config/git/ignore"),
        ("[user]\n\tname = Ann\n[core]\n\texcludesFile = ~/rules\n", "rules"),
        ('[core]\nexcludesfile="deep/rules"\n', "deep/rules"),
    ],
)
def test_the_rules_of_the_user_count(
    repository: Path, home: Path, settings: str, rules: str
) -> None:
    (home / ".gitconfig").write_text(settings)
    (home / rules).parent.mkdir(parents=True, exist_ok=True)
    (home / rules).write_text("app.py\n")
    assert seen(repository / "pkg") == []


@pytest.mark.parametrize("link", ["", "gitdir: ", f"gitdir: {'x' * 5_000}", "gitdir: ."])
def test_a_file_in_the_place_of_a_repository_that_names_none_is_no_failure(
    tmp_path: Path, link: str
) -> None:
    tree(tmp_path, "pkg/a.py", "pkg/b.log", _="*.log")
    (tmp_path / ".git").write_text(link)
    assert seen(tmp_path / "pkg") == ["a.py"]


def test_a_home_that_there_is_not_is_no_failure(repository: Path, home: Path) -> None:
    (home / ".gitconfig").write_text("[core]\nexcludesFile = ~nobody-of-this-name/rules\n")
    assert seen(repository / "pkg") == ["app.py"]
