"""What becomes of the files that a run has rewritten: a diff to look at, or new files."""

from collections.abc import Sequence
from pathlib import Path

import click

from concertmaster.cli.app import FAILED
from concertmaster.cli.view.formatting import count
from concertmaster.cli.view.terminal import print_aside
from concertmaster.errors import RequestError
from concertmaster.runs.jobs import listed
from concertmaster.runs.state import RunState
from concertmaster.tools.changes import FileChange, apply_changes, unified_diff

_DIFF_STARTS = (b"--- a/", b'--- "a/')


def diff_target(_ctx: click.Context, _parameter: click.Parameter, file: Path | None) -> Path | None:
    """Return where a diff goes, once it is sure that nothing gets lost there.

    Raises:
        click.BadParameter: the file has something else in it, or its folder is not there.
    """
    if file is None:
        return None
    if not file.parent.is_dir():
        raise click.BadParameter(f"there is no folder {file.parent}.")
    if file.is_file() and file.stat().st_size and not _is_diff(file):
        raise click.BadParameter(f"{file} is there already, and is no diff. Name another file.")
    return file


def _is_diff(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(len(_DIFF_STARTS[-1])).startswith(_DIFF_STARTS)


def write_diff(changes: Sequence[FileChange], file: Path, status: int) -> int:
    """Write a diff, and return the exit status of a run that would have `status` without it."""
    try:
        file.write_bytes(unified_diff(changes).encode())
    except OSError as exc:
        print_aside(f"Error: the diff could not be written: {exc.strerror} ({file}).", "red")
        return status or FAILED
    print_aside(f"The diff is in {file}.")
    return status


def tell_changes(changes: Sequence[FileChange], state: RunState) -> None:
    """Tell which files a run would change."""
    if not changes:
        print_aside("The run changes no file.")
        return
    names = listed([change.name for change in changes])
    print_aside(f"The run changes {count(len(changes), 'file')}, not written yet: {names}")
    _tell_how(state)


def make_changes(changes: Sequence[FileChange], state: RunState, roots: Sequence[Path]) -> int:
    """Change the files, tell how that went, and return the exit status."""
    try:
        apply_changes(changes, roots=roots)
    except RequestError as exc:
        print_aside(f"Error: {exc}", "red")
        _tell_how(state)
        return FAILED
    names = listed([change.name for change in changes])
    print_aside(f"Changed {count(len(changes), 'file')}: {names}")
    return 0


def _tell_how(state: RunState) -> None:
    print_aside(f"To see how: concertmaster show {state.run_id} --diff")
