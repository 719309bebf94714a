"""The subcommand `store`: the Postgres that keeps runs for several machines."""

import click

from concertmaster.cli.environment import postgres_module
from concertmaster.cli.options import load
from concertmaster.cli.view.terminal import print_aside
from concertmaster.errors import SettingsError


@click.group()
def store() -> None:
    """Set up the Postgres that keeps runs for several machines."""


@store.command()
def migrate() -> None:
    """Make the tables of CONCERTMASTER_STORE, or bring them up to date."""
    settings = load({}).settings
    if settings.store is None:
        raise SettingsError(
            "There is no store to migrate: set CONCERTMASTER_STORE to the address of a Postgres, "
            "such as postgresql://user:password@host:5432/database. Without one, runs are kept "
            f"in {settings.data_folder}, which needs no migration."
        )
    steps = postgres_module("migrate").migrate(settings.store.get_secret_value())
    for step in steps:
        print_aside(f"Done: {step}")
    print_aside("The store is up to date.")
