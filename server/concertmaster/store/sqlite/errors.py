"""What the errors of SQLite and of the file system mean for a journal, as sentences."""

import errno
import shutil
import sqlite3
from contextlib import suppress
from pathlib import Path

LITTLE_BYTES = 64 * 1024
"""With less than this left on a disk, a file cannot even be opened."""

_DENIED = (
    "The data folder {folder} cannot be written ({reason}). Let this user write to it and to "
    "what is in it, or set CONCERTMASTER_DATA_FOLDER to another folder."
)
_NO_FOLDER = (
    "The data folder {folder} cannot be made: there is a file of that name, or on the way to "
    "it. Move the file away, or set CONCERTMASTER_DATA_FOLDER to another folder."
)
_LINK = (
    "{link} is a symbolic link, and files of the data folder must not be. Put the file itself "
    "there, or set CONCERTMASTER_DATA_FOLDER to the folder that it is in."
)
_FULL = (
    "The disk of the data folder {folder} is full. Make room on it (concertmaster runs prune "
    "--keep-days 7, or concertmaster runs delete), or set "
    "CONCERTMASTER_DATA_FOLDER to a folder on another disk."
)
_DAMAGED = (
    "{file} is damaged ({reason}). Move it and the files beside it that begin with its name "
    "away, to begin with an empty one, or set CONCERTMASTER_DATA_FOLDER to another folder."
)
NO_JOURNAL = (
    "{file} is no journal of Concertmaster, or a damaged one. Move it and the files beside it "
    "that begin with its name away, to begin with an empty one, or set "
    "CONCERTMASTER_DATA_FOLDER to another folder."
)
_LOCKED = (
    "Another process keeps {file} locked. Wait for it or end it, or set "
    "CONCERTMASTER_DATA_FOLDER to another folder."
)
ON_NETWORK = (
    "The data folder {folder} is on a network share ({kind}), where a journal can be damaged, "
    "because file locks do not hold there. Set CONCERTMASTER_DATA_FOLDER to a folder on a local "
    "disk; or CONCERTMASTER_STORE to a Postgres, for several machines; or "
    "CONCERTMASTER_NETWORK_FOLDER=true, if you know that locks hold, or that one process at a "
    "time uses it."
)
_UNUSABLE = (
    "The data folder {folder} cannot be used ({reason}). It should be a folder on a local disk "
    "that this user can write; CONCERTMASTER_DATA_FOLDER sets another one."
)

_BY_ERRNO = {
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.EROFS: _DENIED,
    errno.EEXIST: _NO_FOLDER,
    errno.ENOTDIR: _NO_FOLDER,
    errno.ENOSPC: _FULL,
    errno.ELOOP: _LINK,
}
_BY_SQLITE_CODE = {
    sqlite3.SQLITE_PERM: _DENIED,
    sqlite3.SQLITE_READONLY: _DENIED,
    sqlite3.SQLITE_CANTOPEN: _DENIED,
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
    sqlite3.SQLITE_BUSY: _LOCKED,
}


def explain(error: sqlite3.Error | OSError, file: Path) -> str:
    """Return what is wrong with a journal's file and what to do about it, in sentences."""
    if isinstance(error, sqlite3.Error):
        # The low byte; the others say more closely what happened.
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        sentence, reason = _BY_SQLITE_CODE.get(code, _UNUSABLE), str(error)
        if code == sqlite3.SQLITE_IOERR and _is_full(file.parent):
            sentence = _FULL
    elif isinstance(error, TimeoutError):
        sentence, reason = _LOCKED, ""
    else:
        sentence = _BY_ERRNO.get(error.errno or 0, _UNUSABLE)
        reason = error.strerror or str(error)
    link = getattr(error, "filename", None) or file
    return sentence.format(folder=file.parent, file=file, link=link, reason=reason)


def _is_full(folder: Path) -> bool:
    with suppress(OSError):
        return shutil.disk_usage(folder).free < LITTLE_BYTES
    return False
