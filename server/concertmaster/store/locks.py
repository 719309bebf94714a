"""Locks between processes, on files that nobody but this user can read."""

import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psutil
from filelock import FileLock, lock_descriptor, unlock_descriptor

from concertmaster.store import private_files as private

POLL_SECONDS = 0.001
"""How often to try to get a lock that another process has."""


def lock(file: Path) -> FileLock:
    """Return a lock that one holder in all processes has at a time, and loses when it dies.

    It may be released by another thread than the one that acquired it, but two threads must
    not use it at the same time: within a process it can be acquired again and again.
    """
    return FileLock(file, mode=0o600, thread_local=False)


class OpenLock:
    """A lock that one process has at a time, and loses when it dies, on a file that stays open.

    To open the file for each commit would take as long as half of the commit itself. Two
    threads must not use it at the same time.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._descriptor: int | None = None

    @contextmanager
    def held(self, *, patience: float) -> Generator[None]:
        """Have the lock for a while.

        Raises:
            TimeoutError: another process has had it for `patience` seconds.
        """
        descriptor = self._opened()
        until = time.monotonic() + patience
        while not lock_descriptor(descriptor, blocking=False):
            if time.monotonic() >= until:
                raise TimeoutError
            time.sleep(POLL_SECONDS)
        try:
            yield
        finally:
            unlock_descriptor(descriptor)

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _opened(self) -> int:
        if self._descriptor is None:
            private.make_file(self._file)
            self._descriptor = os.open(self._file, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
        return self._descriptor


_KINDS = frozenset(
    {
        "afpfs",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "davfs",
        "fuse.ceph",
        "fuse.davfs2",
        "fuse.glusterfs",
        "fuse.rclone",
        "fuse.s3fs",
        "fuse.sshfs",
        "glusterfs",
        "gpfs",
        "lustre",
        "nfs",
        "nfs4",
        "smb3",
        "smbfs",
        "webdav",
    }
)


def network_share(folder: Path) -> str:
    """Return the kind of network share that a folder is on; nothing if it is on a local disk."""
    place = folder.resolve()
    if place.drive.startswith("\\\\"):
        return "a path of another machine"
    best = Path()
    kind = ""
    for mount in psutil.disk_partitions(all=True):
        root = Path(mount.mountpoint)
        # What is mounted later at the same place hides what was there.
        if place.is_relative_to(root) and len(root.parts) >= len(best.parts):
            remote = mount.fstype.lower() in _KINDS or "remote" in mount.opts.split(",")
            best, kind = root, mount.fstype if remote else ""
    return kind
