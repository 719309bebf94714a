"""Bringing the tables of the Postgres journal up to date, with yoyo."""

import importlib
from contextlib import closing
from typing import Any

import psycopg

from concertmaster.store.postgres.connection import APPLIED, MIGRATIONS, Address, check_encoding


def migrate(url: str) -> tuple[str, ...]:
    """Make the tables at `url` those that this program knows; return the steps that were taken.

    Of several processes that do so at once, each waits for the one before.

    Raises:
        SettingsError: `url` is no address of a Postgres.
        StoreError: the database cannot be used.
    """
    address = Address(url)
    # Without types, so that there is nothing to be gained from importing them above.
    yoyo: Any = importlib.import_module("yoyo")
    core: Any = importlib.import_module("yoyo.backends.core.postgresql")
    connections: Any = importlib.import_module("yoyo.connections")
    uri = connections.DatabaseURI(
        scheme="postgresql+psycopg",
        username=None,
        password=None,
        hostname=None,
        port=None,
        database=None,
        args={"conninfo": address.conninfo},
    )
    try:
        with closing(address.connect()) as guard:
            check_encoding(guard, address.place)
            # Another process may take as long as it needs.
            guard.execute("SET lock_timeout = 0")
            # Yoyo's own lock is a row, which stays where its process was killed.
            guard.execute("SELECT pg_advisory_lock(hashtext('concertmaster'))")
            backend = core.PostgresqlPsycopgBackend(uri, APPLIED)
            with closing(backend.connection):
                backend.init_database()
                steps = backend.to_apply(yoyo.read_migrations(str(MIGRATIONS)))
                backend.apply_migrations(steps)
                return tuple(str(step.id) for step in steps)
    except psycopg.Error as exc:
        raise address.store_error(exc) from exc
