"""What git leaves out of a folder tree.

Rules are in `.gitignore` files up to the folder of the repository, in its `.git/info/exclude`,
and in a file of the user's own.
"""

import os
import re
from pathlib import Path

import re2
from pathspec import GitIgnoreSpec

from concertmaster.errors import InputError
from concertmaster.tools.roots import read_text

FILE = ".gitignore"

MAX_BYTES = 100_000
"""A longer file is no list of patterns, and is not used."""

# Such a file is written by others too. Python's own expressions can take forever to match.
_BACKEND = "re2"
_FAULTS = (ValueError, re.error, re2.error)

# No other section of git's settings has this key.
_EXCLUDES_FILE = re.compile(r"\s*excludesfile\s*=\s*\"?([^\"\0]+?)\"?\s*$", re.IGNORECASE)


class GitIgnore:
    """The rules that git has for some folders: each file of rules is read once."""

    def __init__(self) -> None:
        self._specs: dict[Path, GitIgnoreSpec | None] = {}
        self._tops: dict[Path, Path] = {}

    def top(self, root: Path) -> Path:
        """Return the folder from which on rules count for what is below `root`.

        That is the repository that `root` is in. Without one, it is `root` itself; likewise if
        the repository leaves `root` out: then it was named on purpose.
        """
        if root not in self._tops:
            self._tops[root] = self._top(root)
        return self._tops[root]

    def _top(self, root: Path) -> Path:
        folders = [root, *root.parents]
        repository = next((folder for folder in folders if _is_repository(folder)), root)
        left_out = any(
            self.ignores(step, top=repository, is_folder=step.is_dir())
            for step in folders[: folders.index(repository)]
        )
        return root if left_out else repository

    def ignores(self, path: Path, *, top: Path, is_folder: bool) -> bool:
        """Tell whether a rule of `top` or below leaves out `path`; the innermost file decides.

        Rules that leave out a folder above it are for whoever looks at that folder.
        """
        for folder in path.parents:
            if (spec := self._spec(folder, top)) is not None:
                name = path.relative_to(folder).as_posix()
                found = spec.check_file(f"{name}/" if is_folder else name).include
                if found is not None:
                    return found
            if folder == top:
                break
        return False

    def _spec(self, folder: Path, top: Path) -> GitIgnoreSpec | None:
        if folder not in self._specs:
            # Of rules that contradict each other, the last one decides.
            lines = _lines_of_repository(folder) if _is_repository(folder) else []
            lines += _lines(folder / FILE, root=top)
            self._specs[folder] = (
                _compiled(lines) or _compiled([line for line in lines if _compiled([line])])
                if lines
                else None
            )
        return self._specs[folder]


def _is_repository(folder: Path) -> bool:
    return os.path.lexists(folder / ".git")


def _lines_of_repository(folder: Path) -> list[str]:
    """Return the rules that are not in the tree: those of the user, and of this repository."""
    exclude = _common_folder(folder / ".git") / "info" / "exclude"
    return [*_user_lines(), *_lines_behind(exclude)]


def _common_folder(git: Path) -> Path:
    """Return the folder that all working trees of a repository share."""
    # A working tree of its own, or a submodule, has a file that names the folder.
    link = "".join(_lines(git, root=git.parent)[:1])
    if not link.startswith("gitdir:"):
        return git
    folder = git.parent / link.removeprefix("gitdir:").strip()
    return folder / "".join(_lines_behind(folder / "commondir")[:1])


def _user_lines() -> list[str]:
    """Return the user's own rules, from where git's settings say, or where git looks else."""
    try:
        home = Path.home()
        for file in (home / ".gitconfig", home / ".config" / "git" / "config"):
            for line in reversed(_lines_behind(file)):
                if (found := _EXCLUDES_FILE.match(line)) is not None:
                    return _lines_behind(home / Path(found[1]).expanduser())
    except RuntimeError:
        # There is no home, of this user or of the one that the settings name.
        return []
    return _lines_behind(home / ".config" / "git" / "ignore")


def _lines_behind(file: Path) -> list[str]:
    """Return the lines of a file outside of the tree, where links are usual and trusted."""
    try:
        target = file.resolve()
    except (OSError, RuntimeError):
        return []
    return _lines(target, root=target.parent)


def _lines(file: Path, *, root: Path) -> list[str]:
    try:
        return read_text(file, file.name, root=root, max_bytes=MAX_BYTES).splitlines()
    except InputError:
        return []


def _compiled(lines: list[str]) -> GitIgnoreSpec | None:
    """Return what the lines say; None if one of them says nothing that git would know."""
    try:
        return GitIgnoreSpec.from_lines(lines, backend=_BACKEND)
    except _FAULTS:
        return None
