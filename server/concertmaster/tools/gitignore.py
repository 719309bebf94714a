"""What the `.gitignore` files of a folder tree leave out."""

import re
from pathlib import Path

import re2
from pathspec import GitIgnoreSpec

from concertmaster.errors import InputError
from concertmaster.tools.reading import read_text

FILE = ".gitignore"

MAX_BYTES = 100_000
"""A longer file is no list of patterns, and is not used."""

# Such a file is written by others too. Python's own expressions can take forever to match.
_BACKEND = "re2"
_FAULTS = (ValueError, re.error, re2.error)


class GitIgnore:
    """The rules of all `.gitignore` files below some folders, each read once."""

    def __init__(self) -> None:
        self._specs: dict[Path, GitIgnoreSpec | None] = {}

    def ignores(self, path: Path, *, top: Path, is_folder: bool) -> bool:
        """Tell whether a rule below `top` leaves out `path`; the innermost file decides.

        Rules that leave out a folder above it are for whoever looks at that folder.
        """
        for folder in path.parents:
            if (spec := self._spec(folder)) is not None:
                name = path.relative_to(folder).as_posix()
                found = spec.check_file(f"{name}/" if is_folder else name).include
                if found is not None:
                    return found
            if folder == top:
                break
        return False

    def _spec(self, folder: Path) -> GitIgnoreSpec | None:
        if folder not in self._specs:
            self._specs[folder] = _read(folder / FILE)
        return self._specs[folder]


def _read(file: Path) -> GitIgnoreSpec | None:
    try:
        lines = read_text(file, FILE, root=file.parent, max_bytes=MAX_BYTES).splitlines()
    except InputError:
        return None
    return _compiled(lines) or _compiled([line for line in lines if _compiled([line])])


def _compiled(lines: list[str]) -> GitIgnoreSpec | None:
    """Return what the lines say; None if one of them says nothing that git would know."""
    try:
        return GitIgnoreSpec.from_lines(lines, backend=_BACKEND)
    except _FAULTS:
        return None
