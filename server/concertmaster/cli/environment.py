"""Which variables of the environment reach what."""

import importlib
import re
from typing import Any, Literal

from concertmaster.errors import SettingsError
from concertmaster.settings.load import LoadedSettings, Settings, environment

_SECRET = re.compile(r"^ANTHROPIC_|^CONCERTMASTER_|KEY|TOKEN|SECRET|PASS|CREDENTIAL", re.I)
_REACHES_OUT = re.compile(r"(HTTPS?|ALL|NO)_PROXY|SSL_CERT_(FILE|DIR)|(ANTHROPIC|OTEL)_\w+", re.I)
_FINDS_PROGRAMS = re.compile(r"PATH|VIRTUAL_ENV", re.I)
_STORE = re.compile(r"PG[A-Z]+")


def program_environment() -> dict[str, str]:
    """Return the environment without what looks like a secret, for programs of others."""
    return {name: value for name, value in environment().items() if not _SECRET.search(name)}


def decisive_environment(settings: Settings) -> dict[str, str]:
    """Return what the work of a server depends on beside its settings."""
    deciding = [_REACHES_OUT]
    if settings.store is not None:
        deciding.append(_STORE)
    if starts_programs(settings):
        deciding.append(_FINDS_PROGRAMS)
    return {
        name: value
        for name, value in environment().items()
        if any(names.fullmatch(name) for names in deciding)
    }


def starts_programs(settings: Settings) -> bool:
    """Tell whether workers may start programs of others."""
    return bool(settings.mcp_servers or settings.test_command)


def postgres_module(name: str) -> Any:
    """Return a module of `store` that needs what the extra `postgres` brings.

    Raises:
        SettingsError: it is not installed.
    """
    try:
        return importlib.import_module(f"concertmaster.store.postgres.{name}")
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
    address = postgres_module("connection").Address(settings.store.get_secret_value())
    return str(address.place)


def check_store(settings: Settings) -> None:
    """Check that the store can be used, if there is one.

    Raises:
        SettingsError: it is no Postgres, or the packages for it are missing.
        StoreError: it cannot be reached, or its tables are not those of this program.
    """
    if settings.store is not None:
        postgres_module("connection").check_store(settings.store.get_secret_value())


MODEL_FIELDS = ("model_planner", "model_worker", "model_synthesizer")

Answering = Literal["anthropic", "offline", "missing"]
"""What answers requests: a provider's model, the offline one, or nothing for want of a key."""


def answering(loaded: LoadedSettings) -> Answering:
    """Return what answers requests under these settings.

    Without a key the offline model stands in, unless somebody asked for another: they
    would take its answers for those of the model they named.
    """
    settings = loaded.settings
    if settings.offline:
        return "offline"
    if settings.connected:
        return "anthropic"
    named = any(loaded.origin[name] != "default" for name in MODEL_FIELDS)
    return "missing" if named or settings.offline is False else "offline"
