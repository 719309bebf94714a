"""Which of the provider's tools there are under which settings, and what doctor says of it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from concertmaster.cli.bootstrap import custom_worker_tools, served_tools
from concertmaster.errors import SettingsError
from concertmaster.llm.messages import ServerTool
from concertmaster.settings.load import Settings

KEY = {"api_key": "sk-test"}
WEB = {"web_search", "web_fetch"}
Invoke = Callable[..., Result]


def there(**flags: object) -> set[str]:
    return set(served_tools(Settings.load(flags)).there)


def reason(name: str, **flags: object) -> str:
    """Return why a tool is not there, which is told in each run."""
    return served_tools(Settings.load(flags)).missing[name]


def choice(name: str, **flags: object) -> str:
    """Return why an operator leaves a tool out, which is not."""
    return served_tools(Settings.load(flags)).left_out[name]


def test_with_a_key_workers_may_search_and_fetch_but_run_no_code() -> None:
    assert there(**KEY) == WEB
    assert reason("code_execution", **KEY) == "not there unless server_tools names it"


def test_without_a_model_there_is_nothing() -> None:
    assert there(server_tools=("web_search",)) == set()
    assert reason("web_search") == "not there without a language model"


@pytest.mark.parametrize(
    ("address", "expected"),
    [("https://api.anthropic.com/v1", WEB), ("http://127.0.0.1:8765", set[str]())],
)
def test_another_endpoint_is_not_taken_to_have_them(address: str, expected: set[str]) -> None:
    assert there(base_url=address) == expected


def test_an_operator_says_which_there_are() -> None:
    assert there(base_url="http://127.0.0.1:8765", server_tools=("web_search",)) == {"web_search"}
    assert "at this base_url" in reason("web_search", base_url="http://127.0.0.1:8765")
    assert there(**KEY, server_tools=("code_execution",)) == {"code_execution"}
    assert there(**KEY, server_tools="[]") == set()
    assert choice("web_fetch", **KEY, server_tools="[]") == "not allowed: not in server_tools"


def test_without_the_web_none_is_searched() -> None:
    every = ("web_search", "web_fetch", "code_execution")
    assert there(**KEY, web=False, server_tools=every) == {"code_execution"}
    assert choice("web_search", **KEY, web=False) == "not allowed: web is false"


def test_bounds_are_those_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONCERTMASTER_WEB_DOMAINS", "Python.org, docs.rs/serde")
    monkeypatch.setenv("CONCERTMASTER_SERVER_TOOLS", "web_search,code_execution")
    served = served_tools(Settings.load({**KEY, "server_tool_uses": 2}))
    domains = ("python.org", "docs.rs/serde")
    assert served.there == {
        "web_search": ServerTool(name="web_search", max_uses=2, allowed_domains=domains),
        "code_execution": ServerTool(name="code_execution", max_uses=2),
    }
    monkeypatch.delenv("CONCERTMASTER_WEB_DOMAINS")
    monkeypatch.setenv("CONCERTMASTER_WEB_DOMAINS_BLOCKED", '["example.com"]')
    blocked = served_tools(Settings.load(KEY)).there["web_search"].blocked_domains
    assert blocked == ("example.com",)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"web_domains": ("https://python.org",)}, "is no domain"),
        ({"web_domains": ("a.org",), "web_domains_blocked": ("b.org",)}, "takes one of them"),
        ({"server_tools": ("web_serch",)}, "server_tools"),
    ],
)
def test_what_the_provider_would_refuse_is_refused_at_once(
    flags: dict[str, object], told: str
) -> None:
    with pytest.raises(SettingsError, match=told):
        Settings.load(flags)


def test_doctor_tells_which_there_are_and_why_not_the_others(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(
        'server_tools = ["web_search", "web_fetch"]\n[tool_policy]\nweb_fetch = "deny"\n'
    )
    file.chmod(0o600)
    monkeypatch.setenv("CONCERTMASTER_CONFIG", str(file))
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-test")
    result = json.loads(invoke("doctor", "--json").stdout)
    told = {item["about"]: (item["verdict"], item["detail"]) for item in result["findings"]}
    assert told["tool web_search"] == ("ok", "by the provider, 5 uses in a conversation")
    assert told["tool web_fetch"] == ("note", "not allowed by tool_policy")
    assert told["tool code_execution"] == ("note", "not allowed: not in server_tools")


def test_a_worker_that_a_planner_writes_may_be_given_them_where_there_are_none() -> None:
    settings = Settings.load({"custom_worker_tools": ("web_search", "WebFetch")}).settings
    assert custom_worker_tools(settings) == ("web_search", "fetch_url")
