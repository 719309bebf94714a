"""The subcommands on a Postgres store, and what they say where there is none."""

import json
import sys
from collections.abc import Callable

import pytest
from click.testing import Result

from postgres import Postgres

Invoke = Callable[..., Result]


def test_runs_are_kept_in_the_store_that_is_set(
    invoke: Invoke, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONCERTMASTER_STORE", postgres.store())
    result = invoke("run", "Review this code for problems", "app.py", "--json")
    assert result.exit_code == 0
    monkeypatch.setenv("CONCERTMASTER_RUNS_AT_ONCE", "2")
    (run,) = json.loads(invoke("runs", "--json").stdout)
    assert run["run_id"] == json.loads(result.stdout)["run_id"]
    looked = invoke("doctor", "--json")
    assert json.loads(looked.stdout)["settings"]["store"]["value"] == "set"
    assert {"store"} <= {item["about"] for item in json.loads(looked.stdout)["findings"]}
    monkeypatch.delenv("CONCERTMASTER_STORE")
    assert json.loads(invoke("runs", "--json").stdout) == []


def test_a_store_is_migrated_once(
    invoke: Invoke, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONCERTMASTER_STORE", postgres.create("by_command"))
    for command in (["work"], ["serve"], ["runs"]):
        refused = invoke(*command)
        assert refused.exit_code == 1
        assert "concertmaster store migrate" in refused.stderr
    first, second = invoke("store", "migrate"), invoke("store", "migrate")
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert "0001" in first.stderr
    assert "0001" not in second.stderr


def test_without_a_store_there_is_nothing_to_migrate(invoke: Invoke) -> None:
    result = invoke("store", "migrate")
    assert result.exit_code == 2
    assert "CONCERTMASTER_STORE" in result.stderr


def test_missing_packages_are_named(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.delitem(sys.modules, "concertmaster.store.postgres.migrate", raising=False)
    monkeypatch.setenv("CONCERTMASTER_STORE", "postgresql://db/runs")
    result = invoke("store", "migrate")
    assert result.exit_code == 2
    assert 'pip install "concertmaster[postgres]"' in result.stderr
