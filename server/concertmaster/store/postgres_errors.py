"""What the errors of Postgres mean for a journal, as sentences."""

import psycopg
from psycopg import errors

_UNREACHABLE = (
    "The store at {place} cannot be reached ({reason}). See that Postgres runs there and takes "
    "this user and password, or set CONCERTMASTER_STORE to another address."
)
_DENIED = (
    "The store at {place} does not let this user do what is needed ({reason}). Grant it, or "
    "set CONCERTMASTER_STORE to the address of a user who may."
)
_READ_ONLY = (
    "The store at {place} takes no writes ({reason}). Set CONCERTMASTER_STORE to the address "
    "of the primary server."
)
_FULL = "The disk of the store at {place} is full ({reason}). Make room on it."
_LOCKED = (
    "Another session keeps a run in the store at {place} locked ({reason}). pg_locks and "
    "pg_stat_activity show which; end it, or wait for it, and try again."
)
_UNUSABLE = "The store at {place} cannot be used ({reason}). CONCERTMASTER_STORE sets another one."

NO_TABLES = "The store at {place} has no tables yet. To make them: concertmaster store migrate"
BEHIND = (
    "The store at {place} has the tables of an older Concertmaster. To bring them up to date: "
    "concertmaster store migrate"
)
NOT_UTF8 = (
    "The store at {place} is a database in the encoding {encoding}, which cannot hold every text. "
    "Make one with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0, and set "
    "CONCERTMASTER_STORE to it."
)
AHEAD = (
    "The store at {place} has the tables of a newer Concertmaster. Install that one, or set "
    "CONCERTMASTER_STORE to another store."
)

_SENTENCES: list[tuple[type[psycopg.Error], str]] = [
    (errors.InsufficientPrivilege, _DENIED),
    (errors.ReadOnlySqlTransaction, _READ_ONLY),
    (errors.DiskFull, _FULL),
    (errors.LockNotAvailable, _LOCKED),
]


def explain(error: psycopg.Error, place: str) -> str:
    """Return what is wrong with the store at `place` and what to do about it, in sentences."""
    # The first line says what is wrong; those after it may be the statement.
    reason = (str(error).strip().splitlines() or ["no reason given"])[0]
    for kind, sentence in _SENTENCES:
        if isinstance(error, kind):
            return sentence.format(place=place, reason=reason)
    unreachable = isinstance(error, psycopg.OperationalError) and error.sqlstate is None
    return (_UNREACHABLE if unreachable else _UNUSABLE).format(place=place, reason=reason)
