"""Imports point down, and each outside library has one owner."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import concertmaster

PACKAGE = Path(concertmaster.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
ENGINE = PACKAGE / "engine"

LAYERS = [
    {"errors", "setting_types", "signals"},
    {"llm", "fake_api"},
    {"catalog", "tools"},
    {"engine"},
    {
        *("http_settings", "served_settings", "store_settings", "tool_settings"),
        *("store", "background_settings"),
    },
    {"runs"},
    {"background"},
    {"protocol", "settings", "telemetry"},
    {"cli"},
    {"__main__"},
]
"""From the bottom up; rooms of one layer do not know each other."""

ENGINE_ROOMS = [
    "concurrency",
    "plans",
    "record",
    "budget",
    "steps",
    "consents",
    "run",
    "conversations",
    "subtasks",
    "orchestration",
]
"""From the bottom up; each knows only those before it."""

OWNERS = {
    "mcp": {"protocol", "tools/servers"},
    "mcp_types": {"protocol"},
    "starlette": {"protocol", "fake_api"},
    "uvicorn": {"protocol", "fake_api"},
    "anthropic": {"llm"},
    "httpx2": {"llm", "protocol", "tools"},
    "jwt": {"protocol"},
    "limits": {"protocol"},
    "arxiv": {"tools"},
    "pathspec": {"tools"},
    "pydantic_monty": {"tools"},
    "re2": {"tools"},
    "requests": {"tools"},
    "trafilatura": {"tools"},
    "tenacity": {"llm"},
    "jsonschema_rs": {"llm"},
    "sqlite3": {"store"},
    "filelock": {"store", "background"},
    "psutil": {"store", "protocol"},
    "opentelemetry": {"telemetry"},
    "rich": {"cli"},
    "click": {"cli"},
    "yaml": {"catalog"},
}
"""The rooms, or folders of a room, that may import an outside library.

MCP is spoken on both sides: `protocol` serves it to clients, `tools/servers` uses the servers of
others. The rest of `tools` knows neither, as whoever needs no server must not wait for the SDK.
"""


def room(module: Path) -> str:
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def places(module: Path) -> set[str]:
    """Return the folders that a module is in, and its room."""
    folders = module.relative_to(PACKAGE).parents
    return {room(module), *(folder.as_posix() for folder in folders)}


def level(name: str) -> int:
    return next(number for number, names in enumerate(LAYERS) if name in names)


def imports(module: Path) -> Iterator[str]:
    tree = ast.parse(module.read_text(encoding="utf-8"))
    under_type_checking = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in under_type_checking:
            continue
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            yield node.module or ""


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(module: Path) -> None:
    here = room(module)
    if here == "__init__":
        return
    for name in imports(module):
        if name.startswith("concertmaster."):
            there = name.split(".")[1]
            assert there == here or level(there) < level(here), f"{module} imports {name}"


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_each_outside_library_has_one_owner(module: Path) -> None:
    for name in imports(module):
        owners = OWNERS.get(name.split(".")[0])
        assert owners is None or owners & places(module), f"{module} imports {name}"


def test_only_settings_reads_the_environment() -> None:
    readers = {
        module.name
        for module in MODULES
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
    }
    assert readers <= {"settings.py"}


def test_every_room_is_in_a_layer() -> None:
    known = {name for names in LAYERS for name in names}
    assert {room(module) for module in MODULES} - {"__init__"} <= known


def engine_room(name: str) -> str:
    return name.removeprefix("concertmaster.engine.").split(".")[0]


IN_ENGINE = [path for path in MODULES if room(path) == "engine" and path != ENGINE / "__init__.py"]


@pytest.mark.parametrize("module", IN_ENGINE, ids=lambda path: str(path.relative_to(ENGINE)))
def test_rooms_of_the_engine_know_only_those_below_them(module: Path) -> None:
    here = module.relative_to(ENGINE).parts[0].removesuffix(".py")
    known = {
        engine_room(name) for name in imports(module) if name.startswith("concertmaster.engine.")
    }
    assert known <= set(ENGINE_ROOMS[: ENGINE_ROOMS.index(here) + 1])


@pytest.mark.parametrize(
    "slow", ["anthropic", "filelock", "jsonschema_rs", "pathspec", "trafilatura", "yaml"]
)
def test_a_server_that_clients_wait_for_starts_without_what_only_runs_need(slow: str) -> None:
    program = (
        "import sys, concertmaster.cli.serve, concertmaster.cli.stdio; "
        f"sys.exit({slow!r} in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
