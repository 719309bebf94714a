"""Changes of files: the diff that shows them, and what it takes to make them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from concertmaster.errors import RequestError
from concertmaster.tools.beneath import Folder
from concertmaster.tools.changes import FileChange, apply_changes, unified_diff

GIT = shutil.which("git") or ""

no_links_on_windows = pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")


def change(name: str, before: str = "old\n", after: str = "new\n") -> FileChange:
    return FileChange(name=name, before=before, after=after)


def write(folder: Path, **texts: str) -> None:
    for name, text in texts.items():
        (folder / name).write_bytes(text.encode())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def refused(folder: Path, *changes: FileChange, roots: tuple[Path, ...] = ()) -> str:
    before = contents(folder)
    with pytest.raises(RequestError) as caught:
        apply_changes(changes, roots=roots or (folder,))
    assert contents(folder) == before
    return str(caught.value)


def test_a_diff_names_files_and_shows_what_changes() -> None:
    diff = unified_diff([change("src/a.py", "1\n2\n3\n", "1\ntwo\n3\n"), change("b", "", "x\n")])
    assert diff == (
        "--- a/src/a.py\n+++ b/src/a.py\n@@ -1,3 +1,3 @@\n 1\n-2\n+two\n 3\n"
        "--- a/b\n+++ b/b\n@@ -0,0 +1 @@\n+x\n"
    )


def test_a_diff_marks_a_last_line_without_end() -> None:
    assert unified_diff([change("a", "old", "new\n")]).endswith(
        "-old\n\\ No newline at end of file\n+new\n"
    )


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\n--- a/c", "a\tb"])
def test_no_name_is_read_for_more_than_a_name(name: str) -> None:
    lines = unified_diff([change(name)]).split("\n")
    assert len(lines) == 6
    assert lines[0].startswith('--- "a/a')


TEXTS = [
    ("old\nsame\n", "new\nsame\n"),
    ("old", "new"),
    ("old\n", "new"),
    ("a\r\nb\r\n", "a\r\nc\r\n"),
    ("a\x0cb\u2028c\n", "a\x0cb\u2028d\n"),
    ("1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n", "1\nx\n2\n3\n4\n5\n6\n7\n8\n10\ny\n"),
]


@pytest.mark.skipif(not GIT, reason="there is no git here")
@pytest.mark.parametrize(("before", "after"), TEXTS)
@pytest.mark.parametrize("name", ["a.py", "ä b.py"])
def test_git_makes_the_same_of_a_diff(tmp_path: Path, name: str, before: str, after: str) -> None:
    write(tmp_path, **{name: before, "diff": unified_diff([change(name, before, after)])})
    subprocess.run([GIT, "apply", "diff"], cwd=tmp_path, check=True)
    assert (tmp_path / name).read_bytes() == after.encode()


def test_all_files_are_changed_and_keep_their_modes_and_byte_order_marks(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write(tmp_path, a="old\r\n", other="as it is")
    write(tmp_path / "sub", b="\ufeffold\n")
    (tmp_path / "a").chmod(0o750)
    paths = apply_changes([change("a", "old\r\n"), change("sub/b")], roots=[tmp_path])
    assert paths == (tmp_path / "a", tmp_path / "sub" / "b")
    assert contents(tmp_path) == {"a": b"new\n", "other": b"as it is"}
    assert contents(tmp_path / "sub") == {"b": "\ufeffnew\n".encode()}
    assert sys.platform == "win32" or (tmp_path / "a").stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize("now", ["other\n", "old\r\n", "", "\0"])
def test_nothing_is_changed_if_one_file_is_not_what_was_read(tmp_path: Path, now: str) -> None:
    write(tmp_path, a="old\n", b=now)
    assert "b: it is " in refused(tmp_path, change("a"), change("b"))


def test_nothing_is_changed_if_one_file_is_gone(tmp_path: Path) -> None:
    write(tmp_path, a="old\n")
    assert "b: it has to be under" in refused(tmp_path, change("a"), change("b"))


def test_nothing_is_changed_outside_the_roots(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    write(tmp_path, a="old\n")
    assert "reached by a link" in refused(tmp_path, change("../a"), roots=(root,))
    assert "reached by a link" in refused(tmp_path, change(str(tmp_path / "root/../a")))


def test_a_name_that_stands_for_two_files_changes_neither(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, a="old\n")
    roots = (tmp_path / "one", tmp_path / "two")
    assert "several" in refused(tmp_path / "one", change("a"), roots=roots)


@no_links_on_windows
@pytest.mark.parametrize("name", ["link", "folder/a"])
def test_nothing_is_changed_through_a_link(tmp_path: Path, name: str) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    write(outside, a="old\n")
    (root / "link").symlink_to(outside / "a")
    (root / "folder").symlink_to(outside)
    assert "reached by a link" in refused(outside, change(name), roots=(root,))


def test_nothing_is_changed_if_one_file_is_read_only(tmp_path: Path) -> None:
    write(tmp_path, a="old\n", b="old\n")
    (tmp_path / "b").chmod(0o444)
    assert "b: it is read-only." in refused(tmp_path, change("a"), change("b"))


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="only root gives away")
def test_changed_files_stay_with_their_owners(tmp_path: Path) -> None:
    write(tmp_path, a="old\n")
    os.chown(tmp_path / "a", 12, 34)
    apply_changes([change("a")], roots=[tmp_path])
    status = (tmp_path / "a").stat()
    assert (status.st_uid, status.st_gid) == (12, 34)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write all")
def test_nothing_is_changed_if_one_folder_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write(tmp_path, a="old\n")
    write(tmp_path / "sub", b="old\n")
    (tmp_path / "sub").chmod(0o500)
    try:
        assert "Permission denied" in refused(tmp_path, change("a"), change("sub/b"))
    finally:
        (tmp_path / "sub").chmod(0o700)


FULL = OSError(28, "No space left on device")


def break_replacing(monkeypatch: pytest.MonkeyPatch, *steps: BaseException | None) -> None:
    """Have each replacement of a file, in their order, go well or end like this."""
    left = iter(steps)
    replace = Folder.replace

    def replace_or_break(folder: Folder, name: str, target: str) -> None:
        if (problem := next(left)) is not None:
            raise problem
        replace(folder, name, target)

    monkeypatch.setattr(Folder, "replace", replace_or_break)


def test_what_was_replaced_is_put_back_if_a_later_file_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, a="old\n", b="old\n", c="old\n")
    break_replacing(monkeypatch, None, FULL, None)
    told = refused(tmp_path, change("a"), change("b"), change("c"))
    assert told.startswith("Nothing was changed: No space left on device")


def test_what_was_replaced_is_put_back_if_somebody_interrupts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, a="old\n", b="old\n")
    break_replacing(monkeypatch, None, KeyboardInterrupt(), None)
    with pytest.raises(KeyboardInterrupt):
        apply_changes([change("a"), change("b")], roots=[tmp_path])
    assert contents(tmp_path) == {"a": b"old\n", "b": b"old\n"}


def test_files_that_cannot_be_put_back_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, a="old\n", b="old\n", c="old\n")
    break_replacing(monkeypatch, None, None, FULL, FULL, None)
    with pytest.raises(RequestError, match=r"these stay so: a\.$"):
        apply_changes([change(name) for name in "abc"], roots=[tmp_path])
    assert contents(tmp_path) == {"a": b"new\n", "b": b"old\n", "c": b"old\n"}
