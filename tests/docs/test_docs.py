"""What the pages promise is there, and what is there is in the pages."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from mcp.server.mcpserver.tools import Tool
from packaging.requirements import Requirement

import concertmaster
from concertmaster.catalog.catalog import builtin_folder, load_catalog
from concertmaster.catalog.definitions import BUILT_IN_TOOLS, read_worker
from concertmaster.cli.app import cli
from concertmaster.mcp_server.tools import TOOLS
from concertmaster.runs.jobs import read_job
from concertmaster.settings.load import ENVIRONMENT_PREFIX, Settings
from concertmaster.tools.builtin.defaults import default_tools

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README = PAGES[0].read_text(encoding="utf-8")
ALL_PAGES = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", ALL_PAGES, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_setting_is_documented_with_its_default(name: str) -> None:
    row = re.search(rf"^\| `{name}` \| (.*?) \|", ALL_PAGES, flags=re.MULTILINE)
    assert row is not None, f"{name} is missing from the table of settings"
    default = Settings.model_fields[name].default
    if isinstance(default, int | float | str) and not isinstance(default, bool):
        assert f"{default:g}" if isinstance(default, float) else str(default) in row.group(1)


def test_the_readme_says_how_variables_are_named() -> None:
    assert f"{ENVIRONMENT_PREFIX}MAX_SUBTASKS" in README


@pytest.mark.parametrize(
    "name", load_catalog(builtin_folder("workers"), tools=default_tools().names).names
)
def test_every_built_in_worker_is_in_the_readme(name: str) -> None:
    assert f"`{name}`" in README


@pytest.mark.parametrize("name", sorted(BUILT_IN_TOOLS))
def test_every_worker_tool_is_documented(name: str) -> None:
    assert f"### `{name}`" in ALL_PAGES


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_subcommand_is_in_the_readme(name: str) -> None:
    assert f"concertmaster {name}" in README


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_every_mcp_tool_is_in_the_readme_with_its_parameters(tool: Tool) -> None:
    assert f"### `{tool.name}`" in README
    missing = [name for name in tool.parameters["properties"] if f"`{name}`" not in README]
    assert missing == []


@pytest.mark.parametrize("text", blocks("json"))
def test_every_json_block_is_json(text: str) -> None:
    assert json.loads(text)


def test_every_client_configuration_in_the_readme_starts_our_server() -> None:
    configurations = [json.loads(text) for text in blocks("json")]
    servers = [
        found["concertmaster"]
        for item in configurations
        if (found := item.get("mcpServers") or item.get("servers"))
    ]
    assert len(servers) == 4
    assert all(item["args"][:2] == ["concertmaster", "serve"] for item in servers)


def test_the_example_configuration_starts_our_server() -> None:
    text = (ROOT / "claude_desktop_config.example.json").read_text(encoding="utf-8")
    server = json.loads(text)["mcpServers"]["concertmaster"]
    assert server["args"][:2] == ["concertmaster", "serve"]
    known = {f"{ENVIRONMENT_PREFIX}{name.upper()}" for name in Settings.model_fields}
    assert set(server["env"]) <= known | {"ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"}


def test_the_job_and_the_worker_of_the_readme_can_be_used(tmp_path: Path) -> None:
    worker, job = sorted(blocks("markdown"), key=lambda text: "subtasks:" in text)
    file = tmp_path / "file.md"
    file.write_text(worker, encoding="utf-8")
    assert read_worker(file, tools=default_tools().names).ignored == ()
    file.write_text(job, encoding="utf-8")
    assert read_job(file).arguments


def anchors(page: Path) -> set[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^a-z0-9 -]", "", item.lower()).replace(" ", "-") for item in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_links_to_is_there(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]*)#?([^)]*)\)", page.read_text(encoding="utf-8"))
    for target, anchor in links:
        if target.startswith("https://"):
            continue
        file = (page.parent / target) if target else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), f"{target}#{anchor}"


def test_files_that_the_pages_run_on_exist() -> None:
    for target in re.findall(r"\bexamples/[\w./-]+", ALL_PAGES):
        assert (ROOT / target).exists(), target


def test_the_readme_has_the_one_command_that_ci_runs() -> None:
    command = re.search(r"<!-- test command -->\n```sh\n(.+)\n```", README)
    assert command is not None
    assert command.group(1) == "pip install uv && uv run tests/check.py"


def test_the_changelog_has_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{concertmaster.__version__}]" in changelog
    assert PROJECT["project"]["version"] == concertmaster.__version__


def test_the_lock_fixes_every_dependency_with_hashes_and_names_no_host() -> None:
    locked = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", LOCK, flags=re.MULTILINE))
    declared = PROJECT["project"]["dependencies"] + PROJECT["dependency-groups"]["dev"]
    for text in declared:
        requirement = Requirement(text)
        assert requirement.specifier.contains(locked[requirement.name.lower()]), text
    assert LOCK.count("--hash=sha256:") >= len(locked)
    assert "://" not in LOCK
