import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from concertmaster.cli.environment import program_environment
from concertmaster.errors import SettingsError
from concertmaster.llm.pricing import ModelFacts
from concertmaster.settings.load import Settings
from concertmaster.tools.mcp.config import StdioEntry

PRIVATE = "sk-ant-a-secret-that-must-not-show"

WriteFile = Callable[[str], Path]


@pytest.fixture
def write_file(tmp_path: Path) -> WriteFile:
    def write(text: str, *, mode: int = 0o600) -> Path:
        file = tmp_path / "config" / "concertmaster" / "settings.toml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        file.chmod(mode)
        return file

    return write


def test_without_anything_set_every_setting_is_its_default() -> None:
    loaded = Settings.load({})
    assert set(loaded.origin.values()) == {"default"}
    assert set(loaded.origin) == set(Settings.model_fields)
    assert not loaded.settings.connected
    assert loaded.warnings == ()


def test_every_setting_says_what_it_is_for() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_a_flag_wins_over_the_environment_and_that_over_the_file(
    write_file: WriteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_file("slots = 1\nmax_subtasks = 1\nmax_tokens = 1\n")
    monkeypatch.setenv("CONCERTMASTER_SLOTS", "2")
    monkeypatch.setenv("CONCERTMASTER_MAX_SUBTASKS", "2")
    loaded = Settings.load({"slots": 3, "max_tokens": None, "roots": ()})
    settings = loaded.settings
    assert (settings.slots, settings.max_subtasks, settings.max_tokens) == (3, 2, 1)
    assert loaded.origin["slots"] == "flag"
    assert loaded.origin["max_subtasks"] == "environment CONCERTMASTER_MAX_SUBTASKS"
    assert loaded.origin["max_tokens"] == f"file {file}"
    assert loaded.origin["roots"] == "default"


SERVERS = """
[mcpServers.time]
command = "uvx"
args = ["mcp-server-time"]
env = { KEY = "a-key-that-must-not-show" }

[mcpServers.docs]
url = "https://docs.example/mcp"

[tool_policy]
"time.*" = "allow"
"""


def test_servers_are_written_as_mcp_clients_write_them(write_file: WriteFile) -> None:
    file = write_file(f'custom_worker_tools = ["time.now"]\n{SERVERS}')
    loaded = Settings.load({})
    assert set(loaded.settings.mcp_servers) == {"time", "docs"}
    assert loaded.settings.tool_policy == {"time.*": "allow"}
    assert loaded.settings.custom_worker_tools == ("time.now",)
    assert loaded.origin["mcp_servers"] == f"file {file}"
    assert "a-key-that-must-not-show" not in repr(loaded.settings)


def test_servers_may_be_written_in_either_way_but_not_in_both(write_file: WriteFile) -> None:
    write_file(SERVERS.replace("mcpServers", "mcp_servers"))
    assert set(Settings.load({}).settings.mcp_servers) == {"time", "docs"}
    write_file(f'{SERVERS}\n[mcp_servers.git]\ncommand = "x"\n')
    with pytest.raises(SettingsError, match="mcpServers and mcp_servers are the same"):
        Settings.load({})


@pytest.mark.parametrize(
    "given", ['env = { KEY = "k" }', 'headers = { KEY = "k" }\nurl = "https://x"']
)
@pytest.mark.skipif(sys.platform == "win32", reason="modes are not those of this system")
def test_a_file_with_what_servers_are_given_is_closed_to_others(
    given: str, write_file: WriteFile
) -> None:
    write_file(f"[mcpServers.x]\n{given}\n").chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        Settings.load({})


def test_a_file_with_servers_that_are_given_nothing_may_be_open(write_file: WriteFile) -> None:
    write_file('[mcpServers.x]\ncommand = "x"\n').chmod(0o644)
    assert set(Settings.load({}).settings.mcp_servers) == {"x"}


@pytest.mark.parametrize(
    "text",
    [
        "mcpServers = 3",
        "[mcpServers]\nx = 3",
        '[mcpServers.x]\ncomand = "y"',
        '[mcpServers."a.b"]\ncommand = "y"',
        '[tool_policy]\n"*" = "maybe"',
    ],
)
def test_malformed_servers_and_rules_are_named(text: str, write_file: WriteFile) -> None:
    file = write_file(f"{text}\n")
    with pytest.raises(SettingsError, match=f"{file}: (mcp_servers|tool_policy)"):
        Settings.load({})


def test_limits_of_runs_are_those_of_the_settings() -> None:
    flags = {"max_subtasks": 3, "slots": 2, "subtask_seconds": 5, "run_seconds": 9, "rounds": 4}
    flags |= {"max_tokens": 100, "budget_usd": 0.5, "budget_tokens": 1000, "ask_seconds": 7}
    assert Settings.load(flags).settings.limits.model_dump() == flags


@pytest.mark.parametrize("name", ["budget_usd", "most_usd", "budget_tokens"])
@pytest.mark.parametrize("value", [0, -1, "inf", "nan"])
def test_no_budget_is_unlimited_or_nothing(name: str, value: object) -> None:
    with pytest.raises(SettingsError, match=name):
        Settings.load({name: value})


@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        ("CONCERTMASTER_OFFLINE", "true", "offline", True),
        ("CONCERTMASTER_OFFLINE", "0", "offline", False),
        ("CONCERTMASTER_LOG_LEVEL", "INFO", "log_level", "info"),
        ("CONCERTMASTER_RUN_SECONDS", "1.5", "run_seconds", 1.5),
        ("CONCERTMASTER_CUSTOM_WORKER_TOOLS", '["a.b", "c"]', "custom_worker_tools", ("a.b", "c")),
        ("CONCERTMASTER_TOOL_POLICY", '{"*": "deny"}', "tool_policy", {"*": "deny"}),
        (
            "CONCERTMASTER_MCP_SERVERS",
            '{"x": {"command": "y"}}',
            "mcp_servers",
            {"x": StdioEntry(command="y")},
        ),
        ("CONCERTMASTER_PRICES", '{"m": {"input": 1}}', "prices", {"m": ModelFacts(input=1)}),
        (
            "CONCERTMASTER_ROOTS",
            os.pathsep.join(("/one", "/two")),
            "roots",
            (Path("/one"), Path("/two")),
        ),
        ("CONCERTMASTER_DATA_FOLDER", "~/runs", "data_folder", Path.home() / "runs"),
    ],
)
def test_a_variable_of_the_environment_becomes_the_value_it_spells(
    name: str, value: str, field: str, expected: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert getattr(Settings.load({}).settings, field) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CONCERTMASTER_SLOTS", "many"),
        ("CONCERTMASTER_SLOTS", "0"),
        ("CONCERTMASTER_OFFLINE", "perhaps"),
        ("CONCERTMASTER_AUTH_HEADER", "cookie"),
        ("CONCERTMASTER_BASE_URL", "ftp://example.org"),
        ("CONCERTMASTER_LOG_LEVEL", "chatty"),
        ("CONCERTMASTER_PRICES", "cheap"),
        ("CONCERTMASTER_RUN_SECONDS", "inf"),
        ("CONCERTMASTER_SUBTASK_SECONDS", "nan"),
        ("CONCERTMASTER_IDLE_SECONDS", "1e999"),
    ],
)
def test_a_malformed_variable_is_an_error_that_names_it(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"^{name}: ") as caught:
        Settings.load({})
    assert value not in str(caught.value)


@pytest.mark.parametrize("user", ["user:{}", "{}", "user:{}/1"])
def test_an_address_with_a_password_is_refused_without_showing_it(
    user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", f"https://{user.format(PRIVATE)}@host.test/v1")
    with pytest.raises(SettingsError, match=r"^ANTHROPIC_BASE_URL: .*use api_key") as caught:
        Settings.load({})
    assert PRIVATE not in str(caught.value)


def test_every_malformed_value_is_named_with_the_place_to_mend_it(
    write_file: WriteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_file("[prices.m]\ninput = 'cheap'\n")
    monkeypatch.setenv("CONCERTMASTER_SLOTS", "many")
    with pytest.raises(SettingsError) as caught:
        Settings.load({"max_tokens": 0})
    for place in ("CONCERTMASTER_SLOTS: ", f"{file}: prices.m.input: ", "flag for max_tokens: "):
        assert place in str(caught.value)


@pytest.mark.parametrize("value", ["", "  ", "${ANTHROPIC_API_KEY}", "${user_config.key}"])
def test_what_clients_pass_for_a_variable_they_lack_counts_as_unset(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", value)
    monkeypatch.setenv("CONCERTMASTER_SLOTS", value)
    loaded = Settings.load({})
    assert loaded.settings.api_key is None
    assert loaded.origin["slots"] == "default"


def test_a_variable_that_is_no_setting_is_ignored_with_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CONCERTMASTER_API_KYE", PRIVATE)
    loaded = Settings.load({})
    assert len(loaded.warnings) == 1
    assert "CONCERTMASTER_API_KYE" in loaded.warnings[0]
    assert "Did you mean 'CONCERTMASTER_API_KEY'?" in loaded.warnings[0]
    assert PRIVATE not in loaded.warnings[0]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (
            {"ANTHROPIC_API_KEY": "a", "ANTHROPIC_BASE_URL": "https://b"},
            {"api_key": "ANTHROPIC_API_KEY", "base_url": "ANTHROPIC_BASE_URL"},
        ),
        ({"ANTHROPIC_AUTH_TOKEN": "a"}, {"auth_token": "ANTHROPIC_AUTH_TOKEN"}),
        (
            {"ANTHROPIC_API_KEY": "a", "ANTHROPIC_AUTH_TOKEN": "b"},
            {"api_key": "ANTHROPIC_API_KEY"},
        ),
        (
            {"CONCERTMASTER_BASE_URL": "https://a", "ANTHROPIC_API_KEY": "b"},
            {"base_url": "CONCERTMASTER_BASE_URL", "api_key": "ANTHROPIC_API_KEY"},
        ),
        (
            {"CONCERTMASTER_BASE_URL": "https://a", "ANTHROPIC_BASE_URL": "https://b"},
            {"base_url": "CONCERTMASTER_BASE_URL"},
        ),
    ],
)
def test_the_providers_own_variables_fill_what_is_missing_of_the_connection(
    environment: Mapping[str, str], expected: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    loaded = Settings.load({})
    origin = {name: where for name, where in loaded.origin.items() if where != "default"}
    assert origin == {name: f"environment {variable}" for name, variable in expected.items()}
    assert loaded.settings.connected


def test_a_key_that_was_set_for_concertmaster_never_goes_to_the_ambient_address(
    write_file: WriteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_file(f"api_key = '{PRIVATE}'")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "another")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "https://gateway.example")
    settings = Settings.load({}).settings
    assert settings.base_url is None
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == PRIVATE


def test_a_key_and_a_token_at_once_are_an_error_that_names_both_places(
    write_file: WriteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_file(f"api_key = '{PRIVATE}'")
    monkeypatch.setenv("CONCERTMASTER_AUTH_TOKEN", PRIVATE)
    with pytest.raises(SettingsError) as caught:
        Settings.load({})
    assert str(file) in str(caught.value)
    assert "CONCERTMASTER_AUTH_TOKEN" in str(caught.value)
    assert PRIVATE not in str(caught.value)


def test_no_way_of_printing_settings_shows_a_secret(write_file: WriteFile) -> None:
    write_file(f"api_key = '{PRIVATE}'")
    loaded = Settings.load({})
    assert PRIVATE not in f"{loaded!r} {loaded.settings} {loaded.settings.model_dump_json()}"


@pytest.mark.skipif(sys.platform == "win32", reason="files have no mode there")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644])
def test_a_file_with_a_secret_that_others_may_reach_is_refused(
    mode: int, write_file: Callable[..., Path]
) -> None:
    file = write_file(f"auth_token = '{PRIVATE}'", mode=mode)
    with pytest.raises(SettingsError, match=f"chmod 600 {file}") as caught:
        Settings.load({})
    assert PRIVATE not in str(caught.value)


def test_where_files_have_no_mode_a_secret_is_read_from_any(
    write_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_file(f"auth_token = '{PRIVATE}'", mode=0o644)
    monkeypatch.setattr(sys, "platform", "win32")
    assert Settings.load({}).settings.connected


def test_a_file_without_secrets_may_be_read_by_others(write_file: Callable[..., Path]) -> None:
    write_file("api_key = ''\nslots = 2", mode=0o644)
    assert Settings.load({}).settings.slots == 2


def test_an_unknown_key_is_an_error_that_names_file_key_and_nearest_known(
    write_file: WriteFile,
) -> None:
    file = write_file("max_subtask = 3")
    with pytest.raises(SettingsError) as caught:
        Settings.load({})
    for part in (str(file), "'max_subtask'", "Did you mean 'max_subtasks'?"):
        assert part in str(caught.value)


def test_an_unknown_key_that_is_near_to_none_is_told_the_known_ones(write_file: WriteFile) -> None:
    write_file("qqq = 3")
    with pytest.raises(SettingsError, match="Known: allowed_hosts, api_key, "):
        Settings.load({})


@pytest.mark.parametrize("text", ["slots = ", "slots = 1\nslots = 2"])
def test_a_file_that_is_no_toml_is_an_error_that_names_it(text: str, write_file: WriteFile) -> None:
    file = write_file(text)
    with pytest.raises(SettingsError, match=f"^{file} is no valid TOML: "):
        Settings.load({})


def test_folders_of_the_file_are_seen_from_the_file(write_file: WriteFile) -> None:
    file = write_file("data_folder = 'runs'\nworker_folders = ['mine', '~/theirs', '/all']")
    settings = Settings.load({}).settings
    assert settings.data_folder == file.parent / "runs"
    assert settings.worker_folders == (
        file.parent / "mine",
        Path.home() / "theirs",
        Path("/all"),
    )


def test_one_folder_needs_no_list_in_the_file(write_file: WriteFile) -> None:
    file = write_file("roots = 'work'")
    assert Settings.load({}).settings.roots == (file.parent / "work",)


def test_a_folder_that_is_no_path_is_an_error(write_file: WriteFile) -> None:
    write_file("roots = [5]\ndata_folder = 5")
    with pytest.raises(SettingsError, match=r"data_folder: .*roots\.0: "):
        Settings.load({})


def test_folders_of_flags_are_seen_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings.load({"roots": (Path("here"),)}).settings.roots == (tmp_path / "here",)


def test_another_file_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "other.toml"
    file.write_text("slots = 5")
    monkeypatch.setenv("CONCERTMASTER_CONFIG", str(file))
    loaded = Settings.load({})
    assert (loaded.settings.slots, loaded.file, loaded.warnings) == (5, file, ())


def test_a_named_file_that_does_not_exist_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONCERTMASTER_CONFIG", str(tmp_path / "none.toml"))
    with pytest.raises(SettingsError, match=r"none\.toml, which CONCERTMASTER_CONFIG names"):
        Settings.load({})


def test_a_file_that_cannot_be_read_is_an_error_that_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONCERTMASTER_CONFIG", str(tmp_path))
    with pytest.raises(SettingsError, match=f"^{tmp_path} cannot be read: "):
        Settings.load({})


def test_a_command_whose_quotes_do_not_match_is_an_error(write_file: WriteFile) -> None:
    write_file('test_command = "pytest -k \'a"\n')
    with pytest.raises(SettingsError, match=r"test_command: .*No closing quotation"):
        Settings.load({})


def test_programs_of_others_get_no_variable_that_looks_like_a_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    secrets = ("ANTHROPIC_BASE_URL", "CONCERTMASTER_DATA_FOLDER", "GH_TOKEN", "db_password")
    for name in secrets:
        monkeypatch.setenv(name, PRIVATE)
    monkeypatch.setenv("LANG", "C.UTF-8")
    environment = program_environment()
    assert PRIVATE not in environment.values()
    assert environment["LANG"] == "C.UTF-8"
