"""The environment of every test: no keys, no settings, a data folder of its own."""

import os
from collections.abc import Generator
from pathlib import Path

import pytest

from check import inherit_usual_signals
from postgres import Postgres, running_postgres
from stores import PostgresStore, Store, a_store


def pytest_configure() -> None:
    """Let the processes that tests start have the usual signals."""
    inherit_usual_signals()


@pytest.fixture(autouse=True)
def scrubbed_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    """Remove every variable that could reach a provider or somebody's settings."""
    for name in list(os.environ):
        if name.startswith(("ANTHROPIC_", "CONCERTMASTER_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", f"{tmp_path}/config")
    monkeypatch.setenv("XDG_DATA_HOME", f"{tmp_path}/data")


@pytest.fixture
def anyio_backend() -> str:
    """Run async tests on asyncio unless a folder says otherwise."""
    return "asyncio"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what calls a real provider, unless it was asked for."""
    if os.environ.get("RUN_LIVE") == "1":
        return
    live = [item for item in items if item.get_closest_marker("live")]
    config.hook.pytest_deselected(items=live)
    items[:] = [item for item in items if item not in live]


@pytest.fixture(scope="session")
def postgres() -> Generator[Postgres]:
    """Run a Postgres for as long as the tests last, from when one first needs it."""
    with running_postgres("fsync=off") as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path, postgres: Postgres) -> Store:
    """Return an empty store of each kind in turn."""
    return a_store(request.param, tmp_path / "data", postgres)


@pytest.fixture
def shared(postgres: Postgres) -> PostgresStore:
    """Return an empty store on Postgres."""
    return PostgresStore(postgres.store())
