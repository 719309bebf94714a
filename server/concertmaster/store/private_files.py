"""Folders and files that nobody but this user can read: they hold people's documents."""

import errno
import os
import stat
import sys
from pathlib import Path

from concertmaster.errors import SettingsError


def make_folder(folder: Path) -> None:
    """Create a folder of mode 0700 whatever the umask; one that exists is left as it is.

    Who made a folder wider than that may have other things in it; what is written into it
    from here is closed to others by itself.
    """
    try:
        folder.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        return
    folder.chmod(0o700)


def make_file(file: Path) -> None:
    """Create an empty file of mode 0600 whatever the umask; one that exists is closed to others.

    Raises:
        OSError: ELOOP if it is a symbolic link, which could lead to a file of somebody else.
    """
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        close_to_others(file)
        return
    os.close(descriptor)
    file.chmod(0o600)


def close_to_others(file: Path) -> None:
    """Take from a file what its group and others may do with it.

    Raises:
        OSError: ELOOP if it is a symbolic link.
    """
    if sys.platform == "win32":
        if file.is_symlink():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(file))
        return
    # By its descriptor, so that nothing can be put in its place meanwhile.
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        if mode & 0o077:
            os.fchmod(descriptor, mode & 0o700)
    finally:
        os.close(descriptor)


def is_open_to_others(file: Path) -> bool:
    """Tell whether the group of a file or others may do anything with it."""
    return sys.platform != "win32" and bool(stat.S_IMODE(file.stat().st_mode) & 0o077)


def check_owner_only(file: Path) -> None:
    """Do nothing if only its owner may read a file that holds a secret.

    Raises:
        SettingsError: others may read it.
    """
    if is_open_to_others(file):
        raise SettingsError(
            f"{file} holds a secret and other users may read it. Run: chmod 600 {file}"
        )
