import os
import sys
from pathlib import Path

import anyio
import pytest
from pydantic import ValidationError

from concertmaster.errors import InputError
from concertmaster.llm.messages import Document
from concertmaster.tools import roots as roots_module
from concertmaster.tools.inputs import InlineInput, InputLimits, InputSpec, read_inputs
from concertmaster.tools.roots import read_text

pytestmark = pytest.mark.anyio


def write(root: Path, **files: str | bytes) -> None:
    for name, content in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def write_bytes_name(folder: Path, name: bytes) -> None:
    Path(os.fsdecode(bytes(folder) + b"/" + name)).write_text("bad")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    write(
        folder,
        app_dot_py="print(1)\n",
        src__core_dot_py="x = 1\n",
        src__deep__more_dot_py="y = 2\n",
        src__notes_dot_md="# Notes\n",
        src__logo_dot_png=b"\x89PNG\0\0",
        _dot_hidden="a secret",
        _dot_git__config="[core]",
        node_modules__left_dot_js="pad()",
        venv__pyvenv_dot_cfg="home = /usr",
        venv__lib_dot_py="import site",
    )
    (folder / "src" / "__pycache__").mkdir()
    (folder / "src" / "__pycache__" / "core.py").write_text("cached")
    return folder


async def names(root: Path, *specs: InputSpec, limits: InputLimits | None = None) -> list[str]:
    documents = (await read_inputs(specs, roots=[root], limits=limits or InputLimits())).documents
    return [document.name for document in documents]


async def test_a_file_is_read_under_its_name_relative_to_the_root(root: Path) -> None:
    documents = (await read_inputs(["src/core.py"], roots=[root])).documents
    assert documents == (Document(name="src/core.py", text="x = 1\n"),)


async def test_an_absolute_path_and_a_uri_stand_for_the_same_file(root: Path) -> None:
    path = root / "src" / "core.py"
    assert await names(root, str(path), path.as_uri()) == ["src/core.py"]


async def test_a_folder_is_walked_in_order_without_hidden_generated_or_binary_files(
    root: Path,
) -> None:
    assert await names(root, ".") == [
        "app.py",
        "src/core.py",
        "src/notes.md",
        "src/deep/more.py",
    ]


async def test_a_long_binary_file_in_a_folder_is_left_out_like_a_short_one(root: Path) -> None:
    (root / "src" / "photo.png").write_bytes(b"\x89PNG\0" + b"x" * 1_000_000)
    assert await names(root, "src") == ["src/core.py", "src/notes.md", "src/deep/more.py"]
    with pytest.raises(InputError, match="no UTF-8 text"):
        await names(root, "src/photo.png")


async def test_a_folder_that_is_named_is_walked_even_if_walks_leave_it_out(root: Path) -> None:
    assert await names(root, "node_modules", ".git/config") == [
        "node_modules/left.js",
        ".git/config",
    ]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.py", ["app.py"]),
        ("src/*.py", ["src/core.py"]),
        ("**/*.py", ["app.py", "src/core.py", "src/deep/more.py"]),
        ("src/**", ["src/core.py", "src/deep/more.py", "src/notes.md"]),
        ("**/**/deep/m?re.py", ["src/deep/more.py"]),
        ("src/[cn]o*", ["src/core.py", "src/notes.md"]),
    ],
)
async def test_a_pattern_gives_what_it_matches(
    root: Path, pattern: str, expected: list[str]
) -> None:
    assert await names(root, pattern) == expected
    assert await names(root, str(root / pattern)) == expected


async def test_a_pattern_with_many_wildcards_takes_no_time(root: Path) -> None:
    write(root, **{"__".join("a" * 25): "deep"})
    with pytest.raises(InputError, match="matches this pattern"):
        await names(root, "**/a/" * 20 + "b")


async def test_a_file_whose_name_looks_like_a_pattern_is_found(root: Path) -> None:
    (root / "a[1].txt").write_text("one")
    assert await names(root, "a[1].txt") == ["a[1].txt"]


async def test_a_root_that_is_a_file_gives_this_file(root: Path) -> None:
    documents = (await read_inputs([str(root / "app.py")], roots=[root / "app.py"])).documents
    assert [document.name for document in documents] == ["app.py"]


async def test_a_relative_path_is_looked_for_in_each_root(root: Path, tmp_path: Path) -> None:
    write(tmp_path / "other", b_dot_txt="b")
    documents = (await read_inputs(["b.txt"], roots=[root, tmp_path / "other"])).documents
    assert [document.name for document in documents] == ["b.txt"]


async def test_inline_text_keeps_its_place_and_needs_no_root(root: Path) -> None:
    inline = InlineInput(name="note", text="hello")
    assert await names(root, "app.py", inline) == ["app.py", "note"]
    inputs = await read_inputs([inline], roots=[])
    assert inputs.documents == (Document(name="note", text="hello"),)


async def test_a_byte_order_mark_is_no_part_of_the_text(root: Path) -> None:
    (root / "bom.txt").write_bytes(b"\xef\xbb\xbftext")
    assert (await read_inputs(["bom.txt"], roots=[root])).documents[0].text == "text"


async def test_a_link_within_the_roots_is_followed_and_read_once(root: Path) -> None:
    (root / "link.py").symlink_to(root / "app.py")
    assert await names(root, "link.py", ".") == (await names(root, "."))


async def test_a_walk_leaves_out_links_that_lead_out_or_nowhere(root: Path, tmp_path: Path) -> None:
    write(tmp_path, **{"secret.txt": "not yours"})
    before = await names(root, ".")
    (root / "out.txt").symlink_to(tmp_path / "secret.txt")
    (root / "nowhere.txt").symlink_to(tmp_path / "missing.txt")
    (root / "loop").symlink_to(root)
    (root / "circle").symlink_to(root / "circle")
    assert await names(root, ".", "*.py") == before


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("", "the path is empty"),
        ("missing.py", "no such file or folder"),
        ("*.rs", "matches this pattern"),
        ("missing/*.py", "matches this pattern"),
        ("../secret.txt", "outside the folders that may be read"),
        ("../*.txt", "outside the folders that may be read"),
        ("/etc/passwd", "outside the folders that may be read"),
        ("file:///etc/passwd", "outside the folders that may be read"),
        ("https://example.com/a.txt", "only file:// URIs"),
        ("file://elsewhere/a.txt", "only file:// URIs"),
        ("file://[::1/a.txt", "no valid URI"),
        ("out.txt", "outside the folders that may be read"),
        ("circle", "."),
        ("nul\0byte", "no usable path"),
        ("src/logo.png", "no UTF-8 text"),
        ("latin.txt", "no UTF-8 text"),
        ("pipe", "neither a file nor a folder"),
        ("long.txt", "longer than 1,000,000 bytes"),
        ("n" * 5000, "."),
        ("empty", "no text file in it"),
        ("images", "no text file in it"),
    ],
)
async def test_what_cannot_be_read_is_refused_by_name_with_a_reason(
    root: Path, tmp_path: Path, spec: str, reason: str
) -> None:
    write(tmp_path, **{"secret.txt": "not yours"})
    write(root, latin_dot_txt=b"caf\xe9", long_dot_txt="a" * 1_000_001, images__a_dot_gif=b"\0")
    (root / "out.txt").symlink_to(tmp_path / "secret.txt")
    (root / "circle").symlink_to(root / "circle")
    (root / "empty").mkdir()
    os.mkfifo(root / "pipe")
    with anyio.fail_after(60), pytest.raises(InputError, match=reason) as caught:
        await names(root, spec)
    assert caught.value.name == spec


async def test_without_roots_the_message_says_how_to_open_a_folder() -> None:
    for spec in ("app.py", "*.py"):
        with pytest.raises(InputError, match=r"--root DIR.*`roots`"):
            await read_inputs([spec], roots=[])


async def test_a_folder_that_vanishes_is_an_error(root: Path) -> None:
    walk = roots_module.Roots([root]).walk("gone", root / "gone")
    with pytest.raises(InputError, match="cannot be read: No such file"):
        list(walk)


async def test_a_file_replaced_by_a_link_after_it_was_checked_is_not_followed(root: Path) -> None:
    (root / "swapped").symlink_to("/etc/passwd")
    with pytest.raises(InputError, match="cannot be read"):
        read_text(root / "swapped", "swapped", root=root, max_bytes=10_000)


async def test_a_folder_with_too_many_files_is_refused_before_any_is_read(root: Path) -> None:
    many = root / "many"
    many.mkdir()
    for number in range(10_000):
        (many / f"{number}").touch()
    os.mkfifo(many / "0-pipe")
    with anyio.fail_after(60), pytest.raises(InputError, match="more than 200 files") as caught:
        await names(root, "many")
    assert caught.value.name == "many"


async def test_a_walk_through_too_much_gives_up(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roots_module, "WALK_ENTRIES", 3)
    with pytest.raises(InputError, match="more than 3 files and folders"):
        await names(root, "**/*.zip")


async def test_inputs_beyond_the_limits_are_refused(root: Path) -> None:
    inline = [InlineInput(name=f"{number}", text="12345") for number in range(3)]
    with pytest.raises(InputError, match="more than 2 files"):
        await names(root, *inline, limits=InputLimits(files=2))
    with pytest.raises(InputError, match="longer than 14 bytes in all"):
        await names(root, *inline, limits=InputLimits(total_bytes=14))
    with pytest.raises(InputError, match="longer than 4 bytes"):
        await names(root, inline[0], limits=InputLimits(file_bytes=4))
    assert len(await names(root, *inline, limits=InputLimits(files=3, total_bytes=15))) == 3


async def test_two_inputs_of_one_name_are_refused(root: Path) -> None:
    for specs in (
        ["app.py", InlineInput(name="app.py", text="")],
        [InlineInput(name="a", text="1"), InlineInput(name="a", text="1")],
    ):
        with pytest.raises(InputError, match="have this name"):
            await names(root, *specs)


async def test_files_of_one_name_in_two_roots_are_refused(root: Path, tmp_path: Path) -> None:
    write(tmp_path / "other", app_dot_py="other")
    with pytest.raises(InputError, match="have this name"):
        await read_inputs(["*.py"], roots=[root, tmp_path / "other"])


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 201, "\0"])
def test_an_inline_name_is_one_short_line(name: str) -> None:
    with pytest.raises(ValidationError):
        InlineInput(name=name, text="")


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux alone")
@pytest.mark.parametrize("spec", [".", "odd", "odd/*.txt", "**/*.txt"])
async def test_a_name_that_is_no_utf_8_is_shown_as_text(tmp_path: Path, spec: str) -> None:
    write(tmp_path, odd__good_dot_txt="good")
    write_bytes_name(tmp_path / "odd", b"bad\xff.txt")
    assert await names(tmp_path, spec) == ["odd/bad\ufffd.txt", "odd/good.txt"]


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux alone")
async def test_names_that_look_alike_are_refused_in_a_sentence_that_can_be_sent(
    tmp_path: Path,
) -> None:
    write_bytes_name(tmp_path, b"bad\xff.txt")
    write_bytes_name(tmp_path, b"bad\xfe.txt")
    with pytest.raises(InputError, match="have this name") as caught:
        await names(tmp_path, ".")
    assert str(caught.value).encode()


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux alone")
async def test_a_root_whose_name_is_no_utf_8_is_named_in_a_sentence_that_can_be_sent(
    tmp_path: Path,
) -> None:
    root = Path(os.fsdecode(bytes(tmp_path) + b"/bad\xff"))
    with pytest.raises(InputError, match="no such file") as caught:
        await names(root, "a.txt")
    assert "bad\ufffd" in str(caught.value)
