"""How servers are written down, and what is taken over from other clients."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, TypeAdapter, ValidationError

from concertmaster.errors import SettingsError
from concertmaster.tools.mcp.config import (
    HttpEntry,
    ServerEntries,
    StdioEntry,
    give_anything,
    read_client_servers,
)
from concertmaster.tools.redaction import Masking

ENTRIES: TypeAdapter[dict[str, StdioEntry | HttpEntry]] = TypeAdapter(ServerEntries)

DESKTOP = {
    "mcpServers": {
        "time": {"command": "uvx", "args": ["mcp-server-time"], "env": {"TZ": "UTC"}},
        "docs": {"type": "http", "url": "https://docs.example/mcp", "headers": {"X-Key": "k"}},
    }
}


def taken_over(**servers: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    found = read_client_servers(json.dumps({"mcpServers": servers}))
    return dict(found.entries), found.notes


def test_servers_are_read_in_the_form_of_a_client_s_configuration() -> None:
    entries = ENTRIES.validate_python(DESKTOP["mcpServers"])
    assert isinstance(entries["time"], StdioEntry)
    assert isinstance(entries["docs"], HttpEntry)
    assert ENTRIES.validate_python(json.dumps(DESKTOP["mcpServers"])) == entries
    assert ENTRIES.validate_python(entries) == entries


@pytest.mark.parametrize(
    "servers",
    [
        {"a.b": {"command": "x"}},
        {"a": {}},
        {"a": "x"},
        {"a": {"command": "x", "comand": "y"}},
        {"a": {"command": ""}},
        {"a": {"url": "ftp://host/x"}},
        {"a": {"url": "https://user:password@host/x"}},
        {"a": {"url": "https://host/x", "command": "x"}},
    ],
)
def test_a_malformed_server_is_refused(servers: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ENTRIES.validate_python(servers)


def test_secrets_are_values_that_are_long_and_no_paths(tmp_path: Path) -> None:
    env = {
        "KEY": "k" * 12,
        "MODE": "fast",
        "FOLDER": str(tmp_path),
        "HOME": "~nobody-of-this-name/x",
    }
    entry = StdioEntry(command="x", env={name: SecretStr(value) for name, value in env.items()})
    assert entry.secrets == ("~nobody-of-this-name/x", "k" * 12)


@pytest.mark.parametrize(
    ("arguments", "secrets"),
    [
        (["--api-key", "k-of-mine-1"], ["k-of-mine-1"]),
        (["--access-token=k-of-mine-1"], ["k-of-mine-1"]),
        (["run", "-e", "GITHUB_TOKEN=k-of-mine-1", "image"], ["k-of-mine-1"]),
        (
            ["mcp-remote", "--header", "Authorization: Bearer k-of-mine-1"],
            ["Authorization: Bearer k-of-mine-1", "k-of-mine-1"],
        ),
        (["postgresql://me:p-of-mine-1@host/db"], ["p-of-mine-1"]),
        (["--verbose", "mcp-server-time", "--keyless=no", "--tokens", "--local-timezone"], []),
    ],
)
def test_keys_on_the_command_line_are_secrets(arguments: list[str], secrets: list[str]) -> None:
    assert list(StdioEntry(command="x", args=tuple(arguments)).secrets) == secrets
    assert give_anything({"a": {"command": "x", "args": arguments}}) == bool(secrets)


@pytest.mark.parametrize("entry", [None, "x", {}, {"args": "x"}, {"args": [1, "x"]}])
def test_an_entry_that_is_malformed_gives_nothing(entry: object) -> None:
    assert not give_anything({"a": entry})


def test_secrets_of_an_address_are_in_its_headers_and_in_what_it_asks_for() -> None:
    headers = {"Authorization": SecretStr("Bearer b-token-of-mine")}
    entry = HttpEntry(url="https://host.example/mcp?key=q-token-of-mine&a=b", headers=headers)
    assert entry.secrets == ("Bearer b-token-of-mine", "b-token-of-mine", "q-token-of-mine")


def test_the_longest_secret_is_masked_first() -> None:
    entry = StdioEntry(
        command="x", env={"A": SecretStr("secret-1"), "B": SecretStr("secret-1-more")}
    )
    assert Masking(entry.secrets)("secret-1 and secret-1-more") == "*** and ***"
    assert Masking(())("nothing to hide") == "nothing to hide"


def test_an_entry_that_is_shown_shows_no_secret() -> None:
    entry = ENTRIES.validate_python({"a": {"command": "x", "env": {"KEY": "a-secret-value"}}})["a"]
    assert "a-secret-value" not in f"{entry!r} {entry.model_dump_json()}"


@pytest.mark.parametrize(
    ("command", "args"),
    [
        ("concertmaster", ("serve",)),
        ("/usr/bin/concertmaster", ("serve",)),
        ("uvx", ("concertmaster", "serve")),
        ("uvx", ("concertmaster@0.1.0", "serve")),
        ("uvx", ("concertmaster==0.1.0", "serve")),
        ("python", ("-m", "concertmaster", "serve")),
    ],
)
def test_an_entry_that_starts_concertmaster_is_known(command: str, args: tuple[str, ...]) -> None:
    assert StdioEntry(command=command, args=args).is_this_program


def test_a_folder_called_concertmaster_is_not_the_program() -> None:
    entry = StdioEntry(command="files", args=("/home/me/concertmaster",))
    assert not entry.is_this_program


def test_servers_of_a_client_are_taken_over_as_they_are() -> None:
    found = read_client_servers(json.dumps(DESKTOP))
    assert found.entries == DESKTOP["mcpServers"]
    assert found.notes == ()


def test_servers_of_an_editor_are_taken_over_too() -> None:
    servers = {"time": {"command": "uvx"}}
    assert read_client_servers(json.dumps({"servers": servers})).entries == servers


def test_names_that_tools_could_not_have_are_changed() -> None:
    entries, notes = taken_over(**{"My Server": {"command": "x"}})
    assert entries == {"My-Server": {"command": "x"}}
    assert notes == ("'My Server' is called 'My-Server' here.",)


def test_keys_that_mean_nothing_here_are_dropped_and_named() -> None:
    entries, notes = taken_over(a={"command": "x", "autoApprove": ["y"], "timeout": 5})
    assert entries == {"a": {"command": "x"}}
    assert notes == ("a: autoApprove, timeout mean nothing here.",)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"command": "x", "disabled": True}, "a: left out, because it is disabled."),
        ({"command": "concertmaster"}, "a: left out, because it is Concertmaster itself."),
        ({"args": ["x"]}, "a: left out, because of command: Field required."),
        ("x", "a: left out, because it is no object."),
    ],
)
def test_what_cannot_be_used_is_left_out_and_named(entry: object, reason: str) -> None:
    assert taken_over(a=entry) == ({}, (reason,))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "It is no JSON"),
        ("[]", 'It has no "mcpServers"'),
        ("{}", 'It has no "mcpServers"'),
        ('{"mcpServers": []}', 'It has no "mcpServers"'),
    ],
)
def test_what_is_no_configuration_of_a_client_is_refused(text: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        read_client_servers(text)
