"""What not every installation has: the packages for Postgres."""

import importlib
from typing import Any

from concertmaster.errors import SettingsError
from concertmaster.settings import Settings


def postgres_module(name: str) -> Any:
    """Return a module of `store` that needs what the extra `postgres` brings.

    Raises:
        SettingsError: it is not installed.
    """
    try:
        return importlib.import_module(f"concertmaster.store.{name}")
    except ModuleNotFoundError as exc:
        raise SettingsError(
            "The store is a Postgres, for which packages are missing. To install them: "
            'pip install "concertmaster[postgres]"'
        ) from exc


def place_of_runs(settings: Settings) -> str:
    """Return where runs are kept, as people may be told.

    Raises:
        SettingsError: the store is no Postgres, or the packages for it are missing.
    """
    if settings.store is None:
        return str(settings.data_folder)
    address = postgres_module("postgres_link").Address(settings.store.get_secret_value())
    return str(address.place)


def check_store(settings: Settings) -> None:
    """Check that the store can be used, if there is one.

    Raises:
        SettingsError: it is no Postgres, or the packages for it are missing.
        StoreError: it cannot be reached, or its tables are not those of this program.
    """
    if settings.store is not None:
        postgres_module("postgres_link").check_store(settings.store.get_secret_value())
