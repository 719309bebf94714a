"""Imports point down, and each outside library has one owner."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import concertmaster

PACKAGE = Path(concertmaster.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
ENGINE = PACKAGE / "engine"
TESTS = Path(__file__).parent

LAYERS = [
    {"errors", "signals"},
    {"llm", "fake_api"},
    {"catalog", "tools"},
    {"engine"},
    {"store"},
    {"runs"},
    {"background", "replies"},
    {"mcp_server", "settings", "telemetry"},
    {"cli"},
    {"__main__"},
]
"""From the bottom up; rooms of one layer do not know each other."""

OWNERS = {
    "mcp": {"mcp_server", "tools/mcp"},
    "mcp_types": {"mcp_server"},
    "starlette": {"mcp_server", "fake_api"},
    "uvicorn": {"mcp_server", "fake_api"},
    "anthropic": {"llm"},
    "httpx2": {"llm", "mcp_server", "tools"},
    "jwt": {"mcp_server"},
    "limits": {"mcp_server"},
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
    "psutil": {"store", "mcp_server"},
    "opentelemetry": {"telemetry"},
    "rich": {"cli"},
    "click": {"cli"},
    "yaml": {"catalog"},
}
"""The rooms, or folders of a room, that may import an outside library.

MCP is spoken on both sides: `mcp_server` serves it to clients, `tools/mcp` uses the servers of
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
    assert readers <= {"load.py"}


def test_tests_start_processes_only_where_they_are_ended_on_every_way_out() -> None:
    starters = {
        path.relative_to(TESTS).as_posix()
        for path in TESTS.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Popen")
    }
    assert starters == {"check.py", "support/processes.py"}


def test_no_modules_import_each_other_in_a_circle() -> None:
    names = {dotted(module): module for module in MODULES}
    graph = {name: set(at_start(module)) & names.keys() - {name} for name, module in names.items()}
    TopologicalSorter(graph).prepare()


def dotted(module: Path) -> str:
    parts = module.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def at_start(module: Path) -> Iterator[str]:
    """Yield what is imported when the module is."""
    known = {dotted(other) for other in MODULES}
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            inner = {f"{node.module}.{name.name}" for name in node.names}
            yield from inner & known or {node.module or ""}


def test_every_room_is_in_a_layer() -> None:
    known = {name for names in LAYERS for name in names}
    assert {room(module) for module in MODULES} - {"__init__"} <= known


@pytest.mark.parametrize(
    "slow", ["anthropic", "filelock", "jsonschema_rs", "pathspec", "trafilatura", "yaml"]
)
def test_a_server_that_clients_wait_for_starts_without_what_only_runs_need(slow: str) -> None:
    program = (
        "import sys, concertmaster.cli.commands.serve, concertmaster.cli.commands.serve_stdio; "
        f"sys.exit({slow!r} in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
