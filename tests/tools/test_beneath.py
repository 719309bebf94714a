"""Folders that another process replaces by links while files below them are opened."""

import errno
import os
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from concertmaster.errors import InputError, RequestError
from concertmaster.tools import beneath
from concertmaster.tools.changes import FileChange, apply_changes
from concertmaster.tools.roots import Roots, read_text
from processes import running

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="folders have no descriptors there, and links need rights"
)

INSIDE, OUTSIDE = "inside\n", "outside\n"

SWAP = """
import os, sys
os.chdir(sys.argv[1])
while True:
    os.rename("folder", "real"); os.rename("link", "folder")
    os.rename("folder", "link"); os.rename("real", "folder")
"""
"""Puts a link out of the root in the place of a folder, and takes it away, again and again."""


@pytest.fixture(params=["openat2", "by part"])
def mechanism(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Open files as this kernel can, or as one without `openat2` can."""

    def missing(*_: object) -> int:
        raise OSError(errno.ENOSYS, "Function not implemented")

    if request.param == "by part":
        monkeypatch.setattr(beneath, "openat2", missing)
    elif not has_openat2():
        pytest.skip("this system has no openat2")


def has_openat2() -> bool:
    folder = os.open("/", os.O_RDONLY)
    try:
        os.close(beneath.openat2(folder, Path(), os.O_RDONLY))
    except OSError as exc:
        if exc.errno not in (errno.ENOSYS, errno.EPERM):
            raise
        return False
    finally:
        os.close(folder)
    return True


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a root with a folder, and a link that leads out of it to a folder alike."""
    for place, text in (("root/folder", INSIDE), ("outside", OUTSIDE)):
        (tmp_path / place / "deep").mkdir(parents=True)
        (tmp_path / place / "deep" / f"{text.strip()}.txt").write_text(text)
        (tmp_path / place / "deep" / "file.txt").write_text(text)
    (tmp_path / "root" / "link").symlink_to(tmp_path / "outside")
    return tmp_path / "root"


@pytest.fixture
def race(root: Path) -> Generator[None]:
    """Swap the folder and the link without a pause, from another process."""
    with running([sys.executable, "-c", SWAP, str(root)]):
        yield


def outcomes(attempt: Callable[[], object], enough: int) -> set[object]:
    """Return what attempts come to, when enough have succeeded and enough have failed."""
    seen: set[object] = set()
    succeeded = failed = 0
    while succeeded < enough or failed < enough:
        try:
            seen.add(attempt())
            succeeded += 1
        except (InputError, RequestError):
            failed += 1
    return seen


@pytest.mark.usefixtures("mechanism", "race")
def test_no_read_leaves_the_root_while_a_folder_is_swapped_for_a_link(root: Path) -> None:
    path = root / "folder" / "deep" / "file.txt"
    found = outcomes(lambda: read_text(path, "file.txt", root=root, max_bytes=100), 1000)
    assert found == {INSIDE}


@pytest.mark.usefixtures("mechanism", "race")
def test_no_listing_leaves_the_root_while_a_folder_is_swapped_for_a_link(root: Path) -> None:
    folder = root / "folder" / "deep"
    roots = Roots([root])
    found = outcomes(lambda: tuple(path.name for path in roots.walk("folder", folder)), 300)
    assert found == {("file.txt", "inside.txt")}


@pytest.mark.usefixtures("mechanism", "race")
def test_no_change_leaves_the_root_while_a_folder_is_swapped_for_a_link(
    root: Path, tmp_path: Path
) -> None:
    name = "folder/deep/file.txt"

    def change() -> None:
        # Whichever text is there, it may be changed only where it is below the root.
        for before in (INSIDE, OUTSIDE):
            try:
                apply_changes([FileChange(name=name, before=before, after=before)], roots=[root])
            except RequestError as exc:
                if "not what the run has read" not in str(exc):
                    raise

    outside = tmp_path / "outside" / "deep"
    before = (outside / "file.txt").stat().st_ino
    assert outcomes(change, 5) == {None}
    assert (outside / "file.txt").stat().st_ino == before
    assert sorted(path.name for path in outside.iterdir()) == ["file.txt", "outside.txt"]


@pytest.mark.usefixtures("mechanism")
def test_a_folder_replaced_by_a_link_after_its_path_was_resolved_is_not_followed(
    root: Path,
) -> None:
    for path in (root / "link", root / "link" / "deep"):
        with (
            pytest.raises(OSError, match=r"symbolic links|Not a directory"),
            beneath.open_folder(root, path),
        ):
            raise AssertionError("unreachable")
    with pytest.raises(InputError, match="cannot be read"):
        read_text(root / "link" / "deep" / "file.txt", "file.txt", root=root, max_bytes=100)


@pytest.mark.usefixtures("mechanism")
def test_what_is_in_an_open_folder_is_found_after_it_was_moved(root: Path) -> None:
    with beneath.open_folder(root, root / "folder" / "deep") as folder:
        (root / "folder").rename(root / "moved")
        (root / "link").rename(root / "folder")
        assert {entry.name for entry in folder.entries(10)} == {"file.txt", "inside.txt"}
        assert folder.has("inside.txt")
        folder.replace("inside.txt", "file.txt")
    assert [path.name for path in (root / "moved" / "deep").iterdir()] == ["file.txt"]


@pytest.mark.usefixtures("mechanism")
def test_a_link_below_the_root_that_leads_below_it_can_be_named(root: Path) -> None:
    (root / "inner").symlink_to("folder/deep")
    roots = Roots([root])
    path = roots.find("inner/file.txt")
    assert read_text(path, "file.txt", root=root, max_bytes=100) == INSIDE


@pytest.mark.usefixtures("mechanism")
def test_a_file_in_a_folder_that_may_be_entered_but_not_listed_is_read(root: Path) -> None:
    (root / "folder").chmod(0o111)
    try:
        path = root / "folder" / "deep" / "file.txt"
        assert read_text(path, "file.txt", root=root, max_bytes=100) == INSIDE
    finally:
        (root / "folder").chmod(0o755)


@pytest.mark.usefixtures("mechanism")
def test_a_change_is_refused_if_its_folder_is_replaced_by_another_meanwhile(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = beneath.Folder.create
    (root / "other" / "deep").mkdir(parents=True)
    (root / "other" / "deep" / "file.txt").write_text(INSIDE)

    def create_and_swap(folder: beneath.Folder, name: str) -> int:
        if (root / "other").exists():
            (root / "folder").rename(root / "moved")
            (root / "other").rename(root / "folder")
        return create(folder, name)

    monkeypatch.setattr(beneath.Folder, "create", create_and_swap)
    change = FileChange(name="folder/deep/file.txt", before=INSIDE, after="new\n")
    with pytest.raises(RequestError, match="its folder was replaced"):
        apply_changes([change], roots=[root])
    for folder in ("folder", "moved"):
        assert (root / folder / "deep" / "file.txt").read_text() == INSIDE
    assert len(list((root / "moved" / "deep").iterdir())) == 2
