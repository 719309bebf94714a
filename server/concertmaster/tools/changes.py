"""Changes of files: shown as a diff, and made only where somebody asks for it."""

import codecs
import difflib
import json
import os
import secrets
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from concertmaster.errors import InputError, RequestError
from concertmaster.tools.beneath import Folder, open_folder
from concertmaster.tools.inputs import DEFAULT_LIMITS
from concertmaster.tools.roots import printable, read_in_folder, text_of

_WRITABLE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
NO_LINE_END = "\\ No newline at end of file\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileChange:
    """A file as it was read, and as it should be."""

    name: str
    """Its path relative to the root it is in."""
    before: str
    after: str


def unified_diff(changes: Iterable[FileChange]) -> str:
    """Return what changes, in the form that `git apply` and `patch -p1` take."""
    return "".join(line for change in changes for line in _diff(change))


def _diff(change: FileChange) -> Iterator[str]:
    lines = difflib.unified_diff(
        _lines(change.before),
        _lines(change.after),
        fromfile=_path(f"a/{change.name}"),
        tofile=_path(f"b/{change.name}"),
    )
    for line in lines:
        yield line if line.endswith("\n") else f"{line}\n{NO_LINE_END}"


def _path(name: str) -> str:
    """Return a name such that no program reads more or less than the name from it."""
    if not name.isprintable() or '"' in name or "\\" in name:
        return json.dumps(name, ensure_ascii=False)
    return f"{name}\t" if " " in name else name


def _lines(text: str) -> list[str]:
    """Return lines as diffs count them: only a line feed ends one."""
    parts = text.split("\n")
    return [*(f"{part}\n" for part in parts[:-1]), *filter(None, parts[-1:])]


@dataclass(frozen=True, slots=True)
class _Target:
    change: FileChange
    path: Path
    folder: Folder
    """The one it is in."""
    old: bytes

    @property
    def new(self) -> bytes:
        mark = codecs.BOM_UTF8 if self.old.startswith(codecs.BOM_UTF8) else b""
        return mark + self.change.after.encode()


def apply_changes(changes: Sequence[FileChange], *, roots: Sequence[Path]) -> tuple[Path, ...]:
    """Write the files as they should be, all or none, and return their paths.

    Raises:
        RequestError: a file is not what was read, is not under the roots, is reached by a
            link, or cannot be written. Then all files are as they were.
    """
    folders = [root.resolve() for root in roots if root.is_dir()]
    try:
        with ExitStack() as stack:
            targets = [_target(change, folders, stack) for change in changes]
            new = [_staged(target, target.new, stack) for target in targets]
            # Written beforehand, so that nothing but a new name is needed to put them back.
            old = [_staged(target, target.old, stack) for target in targets]
            for target in targets:
                _check_again(target, folders)
            _replace(targets, new, old)
    except OSError as exc:
        where = f" ({exc.filename})" if exc.filename else ""
        raise RequestError(f"Nothing was changed: {exc.strerror}{where}.") from None
    return tuple(target.path for target in targets)


def _target(change: FileChange, roots: Sequence[Path], stack: ExitStack) -> _Target:
    """Return where a change is made, if it can be. Its folder is open until `stack` ends."""
    found = [(root, path) for root in roots if (path := root / change.name).exists()]
    if len(found) != 1:
        where = "in several of them" if found else "not there"
        raise _refusal(change, f"it has to be under the folders that may be read, and is {where}")
    ((root, path),) = found
    if path.resolve() != path or not path.is_relative_to(root):
        raise _refusal(change, "it is reached by a link")
    folder = stack.enter_context(open_folder(root, path.parent))
    try:
        old = read_in_folder(folder, path.name, change.name, max_bytes=DEFAULT_LIMITS.file_bytes)
        text = text_of(old, change.name)
    except InputError as exc:
        raise _refusal(change, exc.problem.rstrip(".")) from None
    if not (folder.stat(path.name).st_mode & _WRITABLE and folder.is_writable(path.name)):
        raise _refusal(change, "it is read-only")
    if text != change.before:
        raise _refusal(change, "it is not what the run has read any more. Do the job again")
    return _Target(change, path, folder, old)


def _check_again(target: _Target, roots: Sequence[Path]) -> None:
    """Refuse a change if its file, or the folder it is in, has been replaced meanwhile."""
    with ExitStack() as stack:
        now = _target(target.change, roots, stack)
        if not now.folder.is_same(target.folder):
            raise _refusal(target.change, "its folder was replaced meanwhile")


def _refusal(change: FileChange, problem: str) -> RequestError:
    return RequestError(f"Nothing was changed. {printable(change.name)}: {problem}.")


def _staged(target: _Target, content: bytes, stack: ExitStack) -> str:
    """Return the name of a file beside the target, with its owner, its mode and the `content`.

    It is gone when `stack` ends.
    """
    name = f".{target.path.name}.{secrets.token_hex(4)}"
    number = target.folder.create(name)
    stack.callback(target.folder.remove, name)
    with os.fdopen(number, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(number)
        _copy_owner_and_mode(target, number, name)
    return name


def _copy_owner_and_mode(target: _Target, number: int, name: str) -> None:
    status = target.folder.stat(target.path.name)
    mode = stat.S_IMODE(status.st_mode)
    if sys.platform == "win32":
        (target.folder.path / name).chmod(mode)
        return
    # Only root may give files away. Who may not owns the new file, as after an edit elsewhere.
    with suppress(OSError):
        os.fchown(number, status.st_uid, status.st_gid)
    os.fchmod(number, mode)


def _replace(targets: Sequence[_Target], new: Sequence[str], old: Sequence[str]) -> None:
    """Put files in the place of the targets: all of the `new`, else the `old` again."""
    try:
        for target, name in zip(targets, new, strict=True):
            target.folder.replace(name, target.path.name)
    except BaseException as exc:
        stuck = [
            target.change.name
            for target, name, saved in zip(targets, new, old, strict=True)
            # What has taken its place is not beside it any more.
            if not target.folder.has(name) and not _put_back(saved, target)
        ]
        if stuck:
            names = ", ".join(map(printable, stuck))
            raise RequestError(f"Not all files were changed, but these stay so: {names}.") from exc
        raise


def _put_back(saved: str, target: _Target) -> bool:
    with suppress(OSError):
        target.folder.replace(saved, target.path.name)
        return True
    return False
