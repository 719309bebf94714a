"""Folders that files may be read from, and how to read from them without leaving them."""

import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from concertmaster.errors import InputError
from concertmaster.tools.beneath import (
    READ_FLAGS,
    Entry,
    Folder,
    is_regular,
    open_beneath,
    open_folder,
)

if TYPE_CHECKING:
    from concertmaster.tools.gitignore import GitIgnore


class NotTextError(InputError):
    """A file has no text that can be read."""

    def __init__(
        self,
        name: str,
        problem: str = "it is no UTF-8 text. Convert it to text first, or leave it out.",
    ) -> None:
        super().__init__(name, problem)


class TooLongError(InputError):
    """A file or a text is longer than it may be."""

    def __init__(self, name: str, max_bytes: int) -> None:
        problem = f"it is longer than {max_bytes:,} bytes. Give the part that matters."
        super().__init__(name, problem)


def read_text(path: Path, name: str, *, root: Path, max_bytes: int) -> str:
    """Return the text of a regular file, which is `root` or below it; both are resolved.

    Raises:
        NotTextError: it is binary.
        TooLongError: it is longer than `max_bytes`.
        InputError: it cannot be read.
    """
    content = _beginning(partial(open_beneath, root, path, READ_FLAGS), name, max_bytes + 1)
    # A photo in a folder is no text that is too long.
    if len(content) > max_bytes and b"\0" not in content:
        raise TooLongError(name, max_bytes)
    return text_of(content, name)


def read_bytes(path: Path, name: str, *, root: Path, max_bytes: int) -> bytes:
    """Return the content of a regular file, which is `root` or below it; both are resolved.

    Raises:
        TooLongError: it is longer than `max_bytes`.
        InputError: it cannot be read.
    """
    return _bounded(partial(open_beneath, root, path, READ_FLAGS), name, max_bytes)


def read_in_folder(folder: Folder, file: str, name: str, *, max_bytes: int) -> bytes:
    """Return the content of a regular file in an open folder.

    Raises:
        TooLongError: it is longer than `max_bytes`.
        InputError: it cannot be read.
    """
    return _bounded(partial(folder.open, file), name, max_bytes)


def _bounded(open_file: Callable[[], int], name: str, max_bytes: int) -> bytes:
    content = _beginning(open_file, name, max_bytes + 1)
    if len(content) > max_bytes:
        raise TooLongError(name, max_bytes)
    return content


def _beginning(open_file: Callable[[], int], name: str, size: int) -> bytes:
    try:
        with os.fdopen(open_file(), "rb") as file:
            if not is_regular(file.fileno()):
                raise InputError(name, "it is neither a file nor a folder. Leave it out.")
            return file.read(size)
    except OSError as exc:
        raise unreadable(name, exc) from None


def text_of(content: bytes, name: str) -> str:
    """Return the text that the content of a file is.

    Raises:
        NotTextError: it is binary.
    """
    if b"\0" in content:
        raise NotTextError(name)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise NotTextError(name) from None


def unreadable(name: str, error: OSError) -> InputError:
    """Return the error for a file or folder that the system does not let us read."""
    return InputError(name, f"it cannot be read: {error.strerror}.")


SKIPPED_FOLDERS = frozenset({"node_modules", "__pycache__"})
"""Folders that a walk leaves out, beside hidden ones and virtual environments."""

WALK_ENTRIES = 20_000
"""How many files and folders a walk looks at before it gives up."""

NO_ROOTS = (
    "no folder is open for reading. Start Concertmaster with `--root DIR`, or set `roots` in "
    'its settings; or pass the text itself as {"name": …, "text": …}.'
)

_MAGIC = re.compile(r"[*?\[]")
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


class Roots:
    """The folders files may come from; paths are resolved before they are compared."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = tuple(dict.fromkeys(folder.resolve() for folder in folders))

    @cached_property
    def _git(self) -> "GitIgnore":
        # Its expressions take a fiftieth of a second to import, which a start need not wait for.
        from concertmaster.tools.gitignore import GitIgnore  # noqa: PLC0415

        return GitIgnore()

    def name(self, path: Path) -> str:
        """Return a resolved path relative to the root it is in, with forward slashes."""
        relative = path.relative_to(self.root(path))
        return printable(relative.as_posix() if relative.parts else path.name)

    def find(self, spec: str) -> Path:
        """Return the resolved path that a path or `file://` URI stands for.

        Raises:
            InputError: there is none, or it is outside the roots.
        """
        for candidate in self._inside(spec, _path_text(spec)):
            if _exists(candidate):
                return candidate
        raise InputError(
            spec, f"no such file or folder in {self._listed()}. Check the spelling of the path."
        )

    def glob(self, spec: str) -> list[Path]:
        """Return the files that a pattern matches, sorted; `**` stands for any folders.

        Raises:
            InputError: it matches nothing, or there is too much to look through.
        """
        start, pattern = _split_pattern(_path_text(spec))
        found = [
            file
            for folder in self._inside(spec, start)
            if folder.is_dir()
            for file in self.walk(spec, folder)
            if file.is_relative_to(folder) and _matches(file.relative_to(folder).parts, pattern)
        ]
        if not found:
            raise InputError(spec, f"no file in {self._listed()} matches this pattern.")
        return sorted(dict.fromkeys(found))

    def _inside(self, spec: str, text: str) -> list[Path]:
        """Return the resolved paths within the roots that `text` may stand for."""
        if not self._folders:
            raise InputError(spec, NO_ROOTS)
        try:
            path = Path(text).expanduser()
            candidates = dict.fromkeys((root / path).resolve() for root in self._folders)
        except (OSError, RuntimeError, ValueError) as exc:
            raise InputError(spec, f"it is no usable path: {exc}.") from None
        inside = [candidate for candidate in candidates if self._contain(candidate)]
        if not inside:
            raise InputError(
                spec,
                f"it is outside the folders that may be read ({self._listed()}). Move it there, "
                "or start Concertmaster with another `--root DIR`.",
            )
        return inside

    def walk(self, spec: str, folder: Path) -> Iterator[Path]:
        """Yield the regular files below `folder`, in a fixed order.

        Hidden files and folders, those that git ignores, package folders, virtual
        environments and links to folders or out of the roots are left out.

        Raises:
            InputError: there is too much to look through, or a folder cannot be read.
        """
        # A folder that is left out itself was named on purpose; rules above it do not count.
        root = self.root(folder)
        top = self._git.top(root) if self.visible(folder) else folder
        left = WALK_ENTRIES
        waiting = [folder]
        while waiting:
            folder = waiting.pop()
            entries = _entries(spec, root, folder, left)
            left -= len(entries)
            if left < 0:
                raise InputError(
                    spec,
                    f"there are more than {WALK_ENTRIES:,} files and folders to look through. "
                    "Name a folder further down.",
                )
            found = [
                (entry, path)
                for entry in entries
                if not self._git.ignores(
                    path := folder / entry.name, top=top, is_folder=entry.is_folder
                )
            ]
            waiting += [
                path
                for entry, path in reversed(found)
                if entry.is_folder and not _is_passed_over(path)
            ]
            for entry, path in found:
                if (file := self._regular_file(entry, path)) is not None:
                    yield file

    def complete(self, begun: str) -> list[str]:
        """Return the paths below the roots that go on from `begun` by one name, sorted.

        Those of folders end in a slash. What a walk leaves out is left out here too.
        """
        head, slash, last = begun.rpartition("/")
        try:
            folders = self._inside(begun, head + slash or ".")
        except InputError:
            return []
        names = {name for folder in folders for name in self._names(folder)}
        return sorted(f"{head}{slash}{name}" for name in names if name.startswith(last))

    def _names(self, folder: Path) -> Iterator[str]:
        """Yield the names of files and folders in a folder; nothing if it cannot be listed."""
        root = self.root(folder)
        top = self._git.top(root) if self.visible(folder) else folder
        with suppress(InputError):
            for entry in _entries(str(folder), root, folder, WALK_ENTRIES):
                path = folder / entry.name
                if self._git.ignores(path, top=top, is_folder=entry.is_folder):
                    continue
                if entry.is_folder and not _is_passed_over(path):
                    yield f"{printable(entry.name)}/"
                elif self._regular_file(entry, path) is not None:
                    yield printable(entry.name)

    def files(self) -> Iterator[Path]:
        """Yield the files below all roots."""
        for root in self._folders:
            yield from self.walk(str(root), root)

    def _regular_file(self, entry: Entry, path: Path) -> Path | None:
        if entry.is_file:
            return path
        if not entry.is_link:
            return None
        try:
            target = path.resolve()
            return target if target.is_file() and self.visible(target) else None
        except (OSError, RuntimeError):
            return None

    def visible(self, path: Path) -> bool:
        """Tell whether a walk from a root comes to a resolved path."""
        return any(self._leads(root, path) for root in self._folders if path.is_relative_to(root))

    def _leads(self, root: Path, path: Path) -> bool:
        steps = [path, *path.parents]
        return not any(
            step.name.startswith(".")
            or _is_passed_over(step)
            or self._git.ignores(step, top=self._git.top(root), is_folder=step.is_dir())
            for step in steps[: steps.index(root)]
        )

    def root(self, path: Path) -> Path:
        """Return the root that a resolved path is in."""
        return next(root for root in self._folders if path.is_relative_to(root))

    def _contain(self, path: Path) -> bool:
        return any(path.is_relative_to(root) for root in self._folders)

    def _listed(self) -> str:
        return ", ".join(printable(str(root)) for root in self._folders)


def printable(name: str) -> str:
    """Return a name of a file with a `�` for each byte that is no UTF-8.

    Python has half a character there, which neither a journal nor a client can take.
    """
    return os.fsencode(name).decode("utf-8", "replace")


def is_pattern(spec: str) -> bool:
    """Tell whether a path has wildcards."""
    return _MAGIC.search(spec) is not None


def matches(name: str, pattern: str) -> bool:
    """Tell whether a name matches a pattern, in which `**` stands for any folders."""
    return _matches(PurePosixPath(name).parts, PurePosixPath(pattern).parts)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def _path_text(spec: str) -> str:
    if not spec.strip():
        raise InputError(spec, "the path is empty. Give a file, a folder or a pattern.")
    if not _URI.match(spec):
        return spec
    try:
        uri = urlsplit(spec)
    except ValueError as exc:
        raise InputError(spec, f"it is no valid URI: {exc}.") from None
    if uri.scheme.lower() != "file" or uri.netloc not in ("", "localhost"):
        raise InputError(
            spec, "only file:// URIs of this machine can be read. Save it to a file first."
        )
    return url2pathname(uri.path)


def _split_pattern(text: str) -> tuple[str, tuple[str, ...]]:
    """Return the folder before the first wildcard, and the parts from there on."""
    parts = Path(text).parts
    first = next(number for number, part in enumerate(parts) if is_pattern(part))
    return str(Path(*parts[:first])), parts[first:]


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Follow all ways through the pattern at once, so that no pattern takes long."""
    places = _reachable({0}, pattern)
    for part in parts:
        steps: set[int] = set()
        for place in places:
            if place < len(pattern) and pattern[place] == "**":
                steps.add(place)
            elif place < len(pattern) and fnmatchcase(part, pattern[place]):
                steps.add(place + 1)
        places = _reachable(steps, pattern)
    return len(pattern) in places


def _reachable(places: set[int], pattern: Sequence[str]) -> set[int]:
    """Return the places that `places` lead to when each `**` stands for nothing."""
    for place in sorted(places):
        run = itertools.takewhile(lambda part: part == "**", pattern[place:])
        places |= {place + number for number, _ in enumerate(run, start=1)}
    return places


def _entries(spec: str, root: Path, folder: Path, most: int) -> list[Entry]:
    """Return what is in a folder and not hidden, sorted; more than `most` where there is more."""
    try:
        with open_folder(root, folder) as opened:
            some = opened.entries(most + 1)
    except OSError as exc:
        raise unreadable(spec, exc) from None
    return sorted(some, key=lambda entry: entry.name)


def _is_passed_over(folder: Path) -> bool:
    return folder.name in SKIPPED_FOLDERS or (folder / "pyvenv.cfg").exists()
