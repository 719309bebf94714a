"""Tests of runs take place on asyncio and on trio, which starts tasks in random order."""

from pathlib import Path

import pytest

from postgres import Postgres
from stores import PostgresStore, Store, a_store


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Return each back end in turn."""
    return request.param


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path, postgres: Postgres) -> Store:
    """Return an empty store of each kind in turn."""
    return a_store(request.param, tmp_path / "data", postgres)


@pytest.fixture
def shared(postgres: Postgres) -> PostgresStore:
    """Return an empty store on Postgres."""
    return PostgresStore(postgres.store())
