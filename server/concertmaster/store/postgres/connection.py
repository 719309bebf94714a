"""Connections to the Postgres that keeps runs, and whether its tables are the right ones."""

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import LiteralString, TypeVar

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from concertmaster.errors import SettingsError, StoreError

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


MIGRATIONS = Path(__file__).parent / "migrations"

READ_SECONDS = 5
"""How long to try again to read from a server that was there."""

WRITE_SECONDS = 20
"""How long to try again to write to one: what is to be written may have been paid for."""

LOCKED_SECONDS = 4
"""How long to try again what another session keeps locked: all other runs wait meanwhile."""

RETRY_SECONDS = 0.1

APPLIED = "concertmaster_migrations"
"""The table with the names of the steps that made the others."""

_APPLIED: LiteralString = "SELECT migration_id FROM concertmaster_migrations"

_DEFAULTS = {
    "connect_timeout": "4",
    "tcp_user_timeout": "4000",
    "keepalives_idle": "4",
    "keepalives_interval": "2",
    "keepalives_count": "2",
    "fallback_application_name": "concertmaster",
}
"""What an address may say otherwise. Without it a server that is gone is missed for hours."""

_BOUNDS = {
    "idle_in_transaction_session_timeout": "3s",
    "lock_timeout": "2s",
    "tcp_keepalives_idle": "4",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "2",
}
"""How long the server lets a session of ours hold or wait for locks, and be out of reach."""

_BOUND: LiteralString = """
SELECT set_config(name, bound, FALSE)
FROM unnest(%s::text[], %s::text[]) AS bounds (name, bound) JOIN pg_settings USING (name)
WHERE source IN ('default', 'configuration file', 'command line', 'environment variable')
"""
"""What the address (`options`), the role or the database say takes precedence. Poolers refuse most
settings at the start of a connection, so they are made after it."""

_FIXED = {"client_encoding": "UTF8"}
"""What neither an address nor a server says otherwise: texts are of any language."""

_ENCODINGS = ("UTF8", "SQL_ASCII")
"""Those of databases that keep a text as it is. The latter is none, so that it takes any."""

# What was given cannot be repeated, because there may be a password in it.
_NO_ADDRESS = (
    "CONCERTMASTER_STORE is no address of a Postgres; it looks like "
    "postgresql://user:password@host:5432/database. In a password, characters other than letters "
    "and digits are written as in any URL: %40 for @, %2F for /, %25 for %."
)

_PASSING = (psycopg.OperationalError, errors.ReadOnlySqlTransaction)
"""What may be over when it is tried again: no connection, a lock, a timeout, a full disk, a server
that is yet to become the primary."""

Connection = psycopg.Connection[tuple[object, ...]]

T = TypeVar("T")


class LockedError(StoreError):
    """Another session keeps locked what is to be written."""


class Address:
    """Where the store is."""

    def __init__(self, url: str) -> None:
        """Take the address in.

        Raises:
            SettingsError: it is none of a Postgres.
        """
        try:
            given = conninfo_to_dict(url)
        except psycopg.ProgrammingError:
            raise SettingsError(_NO_ADDRESS) from None
        if any("@" in str(given.get(part, "")) for part in ("host", "dbname")):
            # What ended up there is a part of a password.
            raise SettingsError(_NO_ADDRESS)
        self.conninfo = make_conninfo("", **_DEFAULTS | given | _FIXED)
        host = given.get("host") or given.get("service") or "the local socket"
        port = f":{given['port']}" if given.get("port") else ""
        self.place = f"{host}{port}/{given.get('dbname') or ''}".rstrip("/")
        """What may be shown of it."""

    def connect(self) -> Connection:
        """Return a new connection on which every statement is a transaction of its own."""
        connection = psycopg.connect(self.conninfo, autocommit=True)
        try:
            connection.execute(_BOUND, (list(_BOUNDS), list(_BOUNDS.values())))
        except BaseException:
            connection.close()
            raise
        return connection

    def store_error(self, error: psycopg.Error) -> StoreError:
        """Return an error that says what is wrong with the store."""
        kind = LockedError if isinstance(error, errors.LockNotAvailable) else StoreError
        return kind(explain(error, self.place))


class Link:
    """A connection that is opened when it is needed, and again when it was lost."""

    def __init__(self, address: Address, *, patience: float = READ_SECONDS) -> None:
        """Try for so many seconds where the server was there and is away."""
        self._address = address
        self._patience = patience
        self._connection: Connection | None = None
        self._checked = False

    def run(self, work: Callable[[Connection, bool], T]) -> T:
        """Return what `work` returns, which is told whether this is another attempt.

        Where the connection is lost, work that was committed may be attempted again.

        Raises:
            LockedError: another session keeps locked what is to be written.
            StoreError: the store cannot be used.
        """
        began = time.monotonic()
        again = False
        while True:
            try:
                return work(self._opened(), again)
            except psycopg.Error as exc:
                lost = self._connection is None or self._connection.closed
                passing = lost or isinstance(exc, _PASSING)
                locked = isinstance(exc, errors.LockNotAvailable)
                patience = min(self._patience, LOCKED_SECONDS) if locked else self._patience
                if not (passing and self._checked and time.monotonic() < began + patience):
                    raise self._address.store_error(exc) from exc
                self.close()
            again = True
            time.sleep(RETRY_SECONDS)

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _opened(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self._connection = None
            self._connection = self._address.connect()
        if not self._checked:
            check_tables(self._connection, self._address.place)
            self._checked = True
        return self._connection


def check_store(url: str) -> None:
    """Check that there is a store at `url` that this program can use.

    Raises:
        SettingsError: it is no address of a Postgres.
        StoreError: it cannot be used; the error says what to do.
    """
    with closing(Link(Address(url))) as link:
        link.run(lambda connection, _: connection.execute("SELECT"))


def check_encoding(connection: Connection, place: str) -> None:
    """Check that the database can hold every text.

    Raises:
        StoreError: it cannot; the error says what to do.
    """
    encoding = connection.info.parameter_status("server_encoding")
    if encoding not in _ENCODINGS:
        raise StoreError(NOT_UTF8.format(place=place, encoding=encoding))


def check_tables(connection: Connection, place: str) -> None:
    """Check that the tables are those that this program knows.

    Raises:
        StoreError: they are not, or cannot be; the error says what to do.
    """
    check_encoding(connection, place)
    known = {file.stem for file in MIGRATIONS.glob("*.sql")}
    try:
        applied = {migration for (migration,) in connection.execute(_APPLIED)}
    except errors.UndefinedTable:
        applied = set[object]()
    if not applied:
        raise StoreError(NO_TABLES.format(place=place))
    if known - applied:
        raise StoreError(BEHIND.format(place=place))
    if applied - known:
        raise StoreError(AHEAD.format(place=place))
