"""Which clients share a background server: those that want exactly the same."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import concertmaster
from concertmaster.cli.commands.background import identity_of
from concertmaster.settings.load import Settings


def identity(**flags: object) -> str:
    return identity_of(Settings.load(flags))


def set_variable(name: str, value: str) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda monkeypatch: monkeypatch.setenv(name, value)


def upgrade(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concertmaster, "__version__", "99.0.0")


@pytest.fixture(autouse=True)
def offline_at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HTTPS_PROXY", "PGPASSWORD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        set_variable("CONCERTMASTER_API_KEY", "a-key"),
        set_variable("ANTHROPIC_API_KEY", "a-key"),
        set_variable("CONCERTMASTER_ROOTS", "/somewhere"),
        set_variable("CONCERTMASTER_MODEL_WORKER", "sonnet"),
        set_variable("HTTPS_PROXY", "http://proxy.example"),
        upgrade,
    ],
)
def test_what_work_depends_on_makes_another_server(
    change: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = identity()
    change(monkeypatch)
    assert identity() != before


def test_a_key_in_the_environment_of_a_server_of_others_counts_too() -> None:
    def with_key(key: str) -> str:
        return identity(mcp_servers={"git": {"command": "git-server", "env": {"TOKEN": key}}})

    assert with_key("one") != with_key("other")


def test_where_and_with_what_a_client_was_started_counts_only_if_programs_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before, with_programs = identity(), identity(test_command="pytest -q")
    monkeypatch.setenv("PATH", f"/elsewhere{os.pathsep}{os.environ['PATH']}")
    assert identity() == before
    assert identity(test_command="pytest -q") != with_programs
    with_programs = identity(test_command="pytest -q")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert identity() == before
    assert identity(test_command="pytest -q") != with_programs


def test_passwords_of_the_store_count(monkeypatch: pytest.MonkeyPatch) -> None:
    before = identity(store="postgresql://localhost/runs")
    monkeypatch.setenv("PGPASSWORD", "secret")
    assert identity(store="postgresql://localhost/runs") != before


def test_a_worker_file_that_was_changed_makes_another_server(tmp_path: Path) -> None:
    folder = tmp_path / "workers"
    folder.mkdir()
    before = identity(worker_folders=(folder,))
    file = folder / "mine.md"
    file.write_text("---\nname: mine\n", encoding="utf-8")
    with_file = identity(worker_folders=(folder,))
    assert with_file != before
    os.utime(file, ns=(1, 1))
    assert identity(worker_folders=(folder,)) != with_file


def test_a_server_that_only_accepts_is_another() -> None:
    loaded = Settings.load({})
    assert identity_of(loaded, accept_only=True) != identity_of(loaded)


def test_nothing_of_a_key_is_given_away() -> None:
    assert "sk-very-secret" not in identity(api_key="sk-very-secret")
