"""The subcommand `servers`, and workers at work with tools of real servers."""

import json
import os
import stat
import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

import foreign_server
from concertmaster.cli.commands.servers import add_servers
from concertmaster.errors import SettingsError
from concertmaster.llm.messages import Request, ToolMessage
from concertmaster.settings.load import settings_file
from fakes import FakeLLM, in_turn, plan_json, subtask, wants

Invoke = Callable[..., Result]

TIME = {"command": sys.executable, "args": ["-m", "mcp_server_time"]}
CONVERSION = {"source_timezone": "UTC", "time": "17:00", "target_timezone": "UTC"}
KEY = "a-key-that-must-not-show"


def foreign(*arguments: str, **env: str) -> dict[str, Any]:
    return {
        "command": sys.executable,
        "args": [foreign_server.__file__, *arguments],
        "env": {"KEY": KEY, **env},
    }


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def set_variables(servers: Mapping[str, Any], **policy: str) -> None:
        monkeypatch.setenv("CONCERTMASTER_MCP_SERVERS", json.dumps(servers))
        monkeypatch.setenv("CONCERTMASTER_TOOL_POLICY", json.dumps(policy))

    return set_variables


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Callable[[FakeLLM], None]:
    """Return a function that puts a scripted model in place of the provider's."""

    def replace(llm: FakeLLM) -> None:
        @asynccontextmanager
        async def opened(*_: object, **__: object) -> AsyncGenerator[FakeLLM]:
            yield llm

        monkeypatch.setenv("CONCERTMASTER_BASE_URL", "http://127.0.0.1:1")
        monkeypatch.setattr("concertmaster.cli.bootstrap.open_anthropic", opened)

    return replace


@pytest.fixture
def clerk(tmp_path: Path) -> str:
    """Return a folder with a worker that has tools of servers."""
    text = "---\nname: clerk\ndescription: Keeps.\ntools: [foreign.*, time.*]\n---\nKeep.\n"
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / "clerk.md").write_text(text, encoding="utf-8")
    return str(tmp_path / "workers")


def test_servers_are_listed_with_their_tools_and_what_the_policy_says(
    invoke: Invoke, configure: Callable[..., None]
) -> None:
    configure({"time": TIME, "foreign": foreign()}, **{"time.convert_time": "deny"})
    result = invoke("servers")
    assert result.exit_code == 0, result.stderr
    lines = {line.split()[0]: line.split()[1:4] for line in result.stdout.splitlines()}
    assert lines["foreign.echo"] == ["nothing", "allow", "the"]
    assert lines["foreign.commit"] == ["maybe", "deny", "the"]
    assert lines["time.convert_time"][1] == "deny"
    assert "MCP 2025-06-18" in result.stdout
    assert KEY not in result.output


def test_servers_as_json_have_all_that_is_known_of_them(
    invoke: Invoke, configure: Callable[..., None]
) -> None:
    configure({"foreign": foreign(), "gone": {"command": "no-such-command"}})
    result = invoke("servers", "--json")
    assert result.exit_code == 1
    there, gone = json.loads(result.stdout)["servers"]
    assert there["about"] == "foreign 1.2, MCP 2025-06-18"
    assert {"name": "foreign.commit", "may_change_something": True, "policy": "deny"}.items() <= {
        tool["name"]: tool for tool in there["tools"]
    }["foreign.commit"].items()
    assert gone["tools"] == []
    assert "'no-such-command' cannot be started" in gone["problem"]
    assert gone["problem"] in result.stderr


def test_without_servers_it_is_said_how_to_get_some(invoke: Invoke) -> None:
    result = invoke("servers")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "concertmaster servers import" in result.stderr


def test_the_doctor_tells_which_servers_work(
    invoke: Invoke, configure: Callable[..., None]
) -> None:
    configure({"foreign": foreign(), "gone": foreign("--die")}, **{"foreign.commit": "allow"})
    result = invoke("doctor", "--json")
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    findings = {item["about"]: item for item in told["findings"]}
    assert findings["server foreign"]["verdict"] == "ok"
    assert findings["server foreign"]["detail"].endswith(": 15 tools, 15 may be called")
    assert findings["server gone"]["verdict"] == "broken"
    assert "no licence for ***" in findings["server gone"]["detail"]
    assert told["settings"]["mcp_servers"]["value"] == "foreign, gone"
    assert KEY not in result.output


def test_the_doctor_tells_how_many_tools_somebody_has_to_agree_to(
    invoke: Invoke, configure: Callable[..., None]
) -> None:
    configure({"foreign": foreign()}, **{"foreign.commit": "ask"})
    assert "15 tools, 14 may be called, 1 if somebody agrees" in invoke("doctor").stdout


def test_servers_of_a_client_are_taken_over_and_can_be_used(invoke: Invoke, tmp_path: Path) -> None:
    settings = settings_file()
    settings.parent.mkdir(parents=True)
    settings.write_text("# mine\nslots = 3 # few\n", encoding="utf-8")
    client = tmp_path / "claude_desktop_config.json"
    client.write_text(
        json.dumps({"mcpServers": {"a b": foreign(), "me": {"command": "concertmaster"}}}),
        encoding="utf-8",
    )
    result = invoke("servers", "import", str(client))
    assert result.exit_code == 0, result.stderr
    assert "'a b' is called 'a-b' here." in result.stderr
    assert "me: left out, because it is Concertmaster itself." in result.stderr
    assert "a-b added" in result.stderr
    assert settings.read_text(encoding="utf-8").startswith("# mine\nslots = 3 # few\n")
    assert stat.S_IMODE(settings.stat().st_mode) == 0o600
    assert "a-b.echo" in invoke("servers").stdout
    assert "nothing added" in invoke("servers", "import", str(client)).stderr


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "cannot be read"), ("{", "It is no JSON"), ("{}", 'It has no "mcpServers"')],
)
def test_what_cannot_be_taken_over_is_named(
    content: str | None, reason: str, invoke: Invoke, tmp_path: Path
) -> None:
    file = tmp_path / "client.json"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    result = invoke("servers", "import", str(file))
    assert result.exit_code == 2
    assert f"{file}" in result.stderr
    assert reason in result.stderr
    assert not settings_file().exists()


def test_servers_are_added_under_the_name_that_is_there(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('[mcp_servers.a]\ncommand = "x"\n', encoding="utf-8")
    assert add_servers(file, {"a": {"command": "y"}, "b": {"command": "z"}}) == ["b"]
    assert file.read_text(encoding="utf-8").count("mcp_servers") == 2
    assert '"y"' not in file.read_text(encoding="utf-8")


def test_a_settings_file_that_is_no_toml_is_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("[[", encoding="utf-8")
    with pytest.raises(SettingsError, match="no valid TOML"):
        add_servers(file, {"a": {"command": "y"}})
    assert file.read_text(encoding="utf-8") == "[["


def test_a_settings_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="cannot be written"):
        add_servers(tmp_path / "file" / "settings.toml", {"a": {"command": "y"}})


def outcome(request: Request) -> tuple[str, bool]:
    message = request.messages[-1]
    assert isinstance(message, ToolMessage)
    return message.outcomes[0].text, message.outcomes[0].failed


def test_a_worker_uses_a_server_that_others_made(
    invoke: Invoke,
    configure: Callable[..., None],
    connect: Callable[[FakeLLM], None],
    clerk: str,
) -> None:
    configure({"time": TIME, "foreign": foreign()}, **{"time.*": "allow"})
    call = ("time.convert_time", CONVERSION)
    llm = FakeLLM({"worker:clerk": in_turn(wants(call), "Noon.")})
    connect(llm)
    result = invoke("worker", "clerk", "When is it?", "--workers-dir", clerk)
    assert result.exit_code == 0, result.stderr
    text, failed = outcome(llm.requests[-1])
    assert not failed, text
    assert text.startswith("<tool-result-")
    assert "17:00" in text


@pytest.mark.parametrize("decision", ["deny", "allow"])
def test_a_tool_with_effects_has_them_only_if_the_operator_allows_it(
    decision: str,
    invoke: Invoke,
    configure: Callable[..., None],
    connect: Callable[[FakeLLM], None],
    clerk: str,
    tmp_path: Path,
) -> None:
    effects, pids = tmp_path / "effects", tmp_path / "pids"
    servers = {"time": TIME, "foreign": foreign(EFFECTS=str(effects), PIDS=str(pids))}
    configure(servers, **{"foreign.commit": decision})
    call = ("foreign.commit", {"text": "it happened"})
    llm = FakeLLM({"worker:clerk": in_turn(wants(call), "Done.")})
    connect(llm)
    result = invoke("worker", "clerk", "Commit.", "--workers-dir", clerk, "--json")
    assert result.exit_code == 0, result.stderr
    run = json.loads(result.stdout)
    assert effects.exists() == (decision == "allow")
    _, failed = outcome(llm.requests[-1])
    assert failed == (decision == "deny")
    denied = [text for text in run["warnings"] if "foreign.commit" in text]
    assert len(denied) == (decision == "deny")
    trace = invoke("show", run["run_id"], "--trace")
    assert "execute_tool foreign.commit" in trace.stdout
    assert '{"text": "it happened"}' in trace.stdout
    content = invoke("show", run["run_id"], "--trace", "--content").stdout
    assert ("committed" in content) == (decision == "allow")
    with pytest.raises(ProcessLookupError):
        os.kill(int(pids.read_text(encoding="utf-8")), 0)


def test_a_call_that_nobody_can_agree_to_is_not_made_and_shows_no_key(
    invoke: Invoke,
    configure: Callable[..., None],
    connect: Callable[[FakeLLM], None],
    monkeypatch: pytest.MonkeyPatch,
    clerk: str,
    tmp_path: Path,
) -> None:
    effects = tmp_path / "effects"
    configure({"time": TIME, "foreign": foreign(EFFECTS=str(effects))}, **{"foreign.commit": "ask"})
    monkeypatch.setenv("CONCERTMASTER_ASK_SECONDS", "0.1")
    monkeypatch.setenv("CONCERTMASTER_API_KEY", "sk-the-provider's")
    told = f"{KEY} and sk-the-provider's"
    connect(FakeLLM({"worker:clerk": in_turn(wants(("foreign.commit", {"text": told})), "Done.")}))
    result = invoke("worker", "clerk", "Commit.", "--workers-dir", clerk, "--json")
    assert result.exit_code == 0, result.stderr
    assert not effects.exists()
    run = json.loads(result.stdout)
    assert "nobody has answered" in " ".join(run["warnings"])
    trace = json.loads(invoke("show", run["run_id"], "--trace", "--json").stdout)
    spans = [span for part in trace["spans"] for span in part["spans"]]
    (question,) = (span for span in spans if span["kind"] == "question")
    assert question["status"] == "unanswered"
    assert json.loads(question["attributes"]["arguments"]) == {"text": "*** and ***"}


def test_a_worker_whose_server_is_broken_does_without_and_the_reply_says_so(
    invoke: Invoke,
    configure: Callable[..., None],
    connect: Callable[[FakeLLM], None],
    clerk: str,
) -> None:
    configure({"time": {"command": "no-such-command"}, "foreign": foreign("--die")})
    connect(FakeLLM(default="I had no clock."))
    result = invoke("worker", "clerk", "When is it?", "--workers-dir", clerk, "--json")
    assert result.exit_code == 0, result.stderr
    warnings = " ".join(json.loads(result.stdout)["warnings"])
    assert "'time' cannot be used" in warnings
    assert "'foreign' cannot be used: it ended; it last wrote: no licence for ***" in warnings


def test_a_worker_that_a_plan_brings_along_has_the_tools_of_the_setting(
    invoke: Invoke,
    configure: Callable[..., None],
    connect: Callable[[FakeLLM], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    configure({"foreign": foreign()})
    monkeypatch.setenv("CONCERTMASTER_CUSTOM_WORKER_TOOLS", '["foreign.echo"]')
    finder = {"name": "finder", "description": "Finds.", "instructions": "Find.", "why": "new"}
    plan = plan_json(subtask("s1", "finder"), custom_workers=[finder])
    llm = FakeLLM({"planner": plan})
    connect(llm)
    result = invoke("run", "Find it.")
    assert result.exit_code == 0, result.stderr
    (request,) = (each for each in llm.requests if each.caller == "worker:finder")
    assert [spec.name for spec in request.tools] == ["read_result", "foreign.echo"]


def test_a_tool_for_such_workers_that_there_is_not_is_named(
    invoke: Invoke, configure: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    configure({"foreign": foreign()})
    monkeypatch.setenv("CONCERTMASTER_CUSTOM_WORKER_TOOLS", '["foregn.echo"]')
    result = invoke("run", "Find it.")
    assert result.exit_code == 2
    assert "custom_worker_tools: there is no worker tool 'foregn.echo'" in result.stderr


def test_offline_no_server_is_started(
    invoke: Invoke, configure: Callable[..., None], clerk: str, tmp_path: Path
) -> None:
    configure({"time": TIME, "foreign": foreign(PIDS=str(tmp_path / "pids"))})
    result = invoke("worker", "clerk", "When is it?", "--workers-dir", clerk)
    assert result.exit_code in (0, 1, 3), result.stderr
    assert not (tmp_path / "pids").exists()
