"""Opening files and folders below a root such that no link leads out of it.

Paths are resolved and compared with the roots before they are opened. In between, a process
that can write below a root may replace a folder of the path by a link. So a path is opened
relative to a descriptor of the root, and no link in any part of it is followed: by Linux itself
with `openat2`, elsewhere folder by folder. Windows has no descriptors of folders; there, paths
are opened as they are.
"""

import errno
import itertools
import os
import stat
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path


def _flags(*names: str) -> int:
    """Return the flags of these names that the system has."""
    flags = 0
    for name in names:
        flags |= int(getattr(os, name, 0))
    return flags


READ_FLAGS = os.O_RDONLY | _flags("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY")
"""Opens a file for reading; of a pipe, without waiting for its writer."""

_CREATE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _flags("O_NOFOLLOW", "O_CLOEXEC", "O_BINARY")

# With O_PATH, a folder that may be entered but not listed can be opened too.
_FOLDER_FLAGS = _flags("O_DIRECTORY", "O_NOFOLLOW", "O_CLOEXEC", "O_PATH")

_HAS_DESCRIPTORS = os.open in os.supports_dir_fd

_OPENAT2 = 437
"""The number of the system call on every architecture."""

# RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS and RESOLVE_NO_MAGICLINKS of linux/openat2.h.
_RESOLVE = 0x08 | 0x04 | 0x02

_UNAVAILABLE = (errno.ENOSYS, errno.EPERM)
"""What a kernel before 5.6 says to `openat2`, and a sandbox that does not know it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What is in a folder under a name, without following a link."""

    name: str
    is_folder: bool
    is_file: bool
    is_link: bool


class Folder:
    """An open folder. Names in it stay names in it, wherever its path leads by now."""

    def __init__(self, path: Path, descriptor: int | None) -> None:
        self.path = path
        self._descriptor = descriptor

    def entries(self, most: int) -> list[Entry]:
        """Return what is in it and not hidden, in any order; at most `most`."""
        if self._descriptor is None:
            return _entries(self.path, most)
        # What was opened with O_PATH cannot be listed.
        listed = os.open(".", os.O_RDONLY | _flags("O_CLOEXEC"), dir_fd=self._descriptor)
        try:
            return _entries(listed, most)
        finally:
            os.close(listed)

    def open(self, name: str) -> int:
        """Return a descriptor of a file for reading."""
        return os.open(self._at(name), READ_FLAGS, dir_fd=self._descriptor)

    def create(self, name: str) -> int:
        """Return a descriptor of a new file for writing, which only its owner can read."""
        return os.open(self._at(name), _CREATE_FLAGS, 0o600, dir_fd=self._descriptor)

    def replace(self, name: str, target: str) -> None:
        """Put a file in the place of another."""
        descriptor = self._descriptor
        os.replace(self._at(name), self._at(target), src_dir_fd=descriptor, dst_dir_fd=descriptor)

    def remove(self, name: str) -> None:
        """Remove a file if it is there."""
        if self.has(name):
            os.unlink(self._at(name), dir_fd=self._descriptor)

    def has(self, name: str) -> bool:
        """Tell whether there is something under a name."""
        try:
            self.stat(name)
        except FileNotFoundError:
            return False
        return True

    def stat(self, name: str) -> os.stat_result:
        """Return the status of a file."""
        return os.stat(self._at(name), dir_fd=self._descriptor, follow_symlinks=False)

    def is_writable(self, name: str) -> bool:
        """Tell whether this process may write to a file."""
        return os.access(self._at(name), os.W_OK, dir_fd=self._descriptor)

    def is_same(self, other: "Folder") -> bool:
        """Tell whether both are the same folder of the disk."""
        return os.path.samestat(self._status(), other._status())

    def _status(self) -> os.stat_result:
        return self.path.stat() if self._descriptor is None else os.fstat(self._descriptor)

    def _at(self, name: str) -> str:
        return str(self.path / name) if self._descriptor is None else name


@contextmanager
def open_folder(root: Path, path: Path) -> Generator[Folder]:
    """Open a folder, which is `root` or below it; both paths are resolved.

    Raises:
        OSError: it is none, is reached by a link by now, or may not be entered.
    """
    if not _HAS_DESCRIPTORS:
        yield Folder(path, None)
        return
    descriptor = open_beneath(root, path, _FOLDER_FLAGS)
    try:
        yield Folder(path, descriptor)
    finally:
        os.close(descriptor)


def open_beneath(root: Path, path: Path, flags: int) -> int:
    """Return a descriptor of `path`, which is `root` or below it; both are resolved.

    Raises:
        OSError: it cannot be opened, or is reached by a link by now.
    """
    # A root may be a file, too.
    if not _HAS_DESCRIPTORS or path == root:
        return os.open(path, flags)
    base = os.open(root, _FOLDER_FLAGS)
    try:
        return _open_relative(base, path.relative_to(root), flags)
    finally:
        os.close(base)


def _open_relative(base: int, path: Path, flags: int) -> int:
    try:
        return openat2(base, path, flags)
    except OSError as exc:
        if exc.errno not in _UNAVAILABLE:
            raise
    return _open_by_part(base, path, flags)


def _open_by_part(base: int, path: Path, flags: int) -> int:
    """Open one folder after the other, none of them by a link."""
    *folders, name = path.parts
    folder = os.dup(base)
    try:
        for part in folders:
            inner = os.open(part, _FOLDER_FLAGS, dir_fd=folder)
            os.close(folder)
            folder = inner
        return os.open(name, flags, dir_fd=folder)
    finally:
        os.close(folder)


def openat2(base: int, path: Path, flags: int) -> int:
    """Return a descriptor of what is at `path` below the folder `base`, as only Linux can.

    Raises:
        OSError: it cannot be opened, is reached by a link, or there is no such system call.
    """
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    while True:
        descriptor, number = _system_call()(base, os.fsencode(path), flags)
        if descriptor >= 0:
            return descriptor
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number), str(path))


@cache
def _system_call() -> Callable[[int, bytes, int], tuple[int, int]]:
    """Return what makes the system call, and returns its result and the number of its error."""
    # A start need not wait for the import, and Python has no other way to make the call.
    import ctypes  # noqa: PLC0415

    class OpenHow(ctypes.Structure):
        _fields_ = (
            ("flags", ctypes.c_uint64),
            ("mode", ctypes.c_uint64),
            ("resolve", ctypes.c_uint64),
        )

    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.restype = ctypes.c_long
    syscall.argtypes = (
        *(ctypes.c_long, ctypes.c_int, ctypes.c_char_p),
        *(ctypes.POINTER(OpenHow), ctypes.c_size_t),
    )

    def call(base: int, path: bytes, flags: int) -> tuple[int, int]:
        how = OpenHow(flags=flags, mode=0, resolve=_RESOLVE)
        result = syscall(_OPENAT2, base, path, ctypes.byref(how), ctypes.sizeof(how))
        return result, ctypes.get_errno()

    return call


def _entries(folder: Path | int, most: int) -> list[Entry]:
    with os.scandir(folder) as entries:
        visible = (entry for entry in entries if not entry.name.startswith("."))
        return [
            Entry(
                name=entry.name,
                is_folder=entry.is_dir(follow_symlinks=False),
                is_file=entry.is_file(follow_symlinks=False),
                is_link=entry.is_symlink(),
            )
            for entry in itertools.islice(visible, most)
        ]


def is_regular(descriptor: int) -> bool:
    """Tell whether an open file is a regular one."""
    return stat.S_ISREG(os.fstat(descriptor).st_mode)
