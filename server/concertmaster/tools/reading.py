"""Reading a file that was found under the roots: a regular one, of text, of bounded size."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from concertmaster.errors import InputError
from concertmaster.tools.beneath import READ_FLAGS, Folder, is_regular, open_beneath


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
