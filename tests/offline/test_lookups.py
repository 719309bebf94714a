"""What the offline model looks up in the roots beside its inputs."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from asking import cards, document, plan, work
from concertmaster.cli.bootstrap import open_runs
from concertmaster.llm.messages import Document, ToolCall, ToolOutcome, WorkerCard
from concertmaster.llm.offline.uses import names_asked_for
from concertmaster.runs.orders import RunOrder
from concertmaster.settings.load import Settings

pytestmark = pytest.mark.anyio

APP = '''"""Shows."""
from {origin} import {name}


def show(db, keys):
    """Show."""
    for key in keys:
        {call}(db, key)
'''
STORE = '''"""Keeps."""


def load(db, key):
    """Load."""
    return db.execute("...", (key,))


def name(db, key):
    """Name."""
    return key
'''


def project(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def app(origin: str, name: str, call: str, at: str = "app.py") -> Document:
    return document(at, APP.format(origin=origin, name=name, call=call))


def queries(text: str) -> list[str]:
    return [line for line in text.splitlines() if "(query-in-loop" in line]


@pytest.mark.parametrize(
    ("source", "found_in"),
    [
        (app("store", "load", "load"), "store.py"),
        (app("store", "load as fetch", "fetch"), "store.py"),
        (app("shop.store", "load", "load"), "shop/store.py"),
        (app("shop", "store", "store.load"), "shop/store.py"),
        (app(".store", "load", "load", at="shop/app.py"), "shop/store.py"),
        (app(".", "store", "store.load", at="shop/app.py"), "shop/store.py"),
        (app("..store", "load", "load", at="shop/ui/app.py"), "shop/store.py"),
        (app("shop", "load", "load"), "shop/__init__.py"),
        (app(".", "store", "store.load"), "store.py"),
    ],
)
async def test_a_loop_that_calls_a_query_of_another_file_is_found(
    source: Document, found_in: str, tmp_path: Path
) -> None:
    root = project(tmp_path, {found_in: STORE, source.name: source.text})
    (line,) = queries((await work("performance-reviewer", source, roots=[root])).text)
    assert f"runs a query ({found_in}:4), once for each turn of the loop" in line


async def test_a_module_is_known_by_the_name_that_it_is_imported_by(tmp_path: Path) -> None:
    text = "import shop.store as s\nfor key in range(n):\n    s.load(db, key)\n"
    root = project(tmp_path, {"shop/store.py": STORE})
    reply = await work("performance-reviewer", document("a.py", text), roots=[root])
    assert len(queries(reply.text)) == 1


@pytest.mark.parametrize(
    ("source", "files"),
    [
        (app("store", "name", "name"), {"store.py": STORE}),
        (app("store", "load", "load"), {"other.py": STORE}),
        (app("store", "load", "load"), {"store.py": "def load(:"}),
        (app("store", "load", "load"), {}),
    ],
    ids=["no query", "another file", "no Python", "not there"],
)
async def test_a_call_that_is_not_known_to_be_slow_is_not_reported(
    source: Document, files: Mapping[str, str], tmp_path: Path
) -> None:
    reply = await work("performance-reviewer", source, roots=[project(tmp_path, files)])
    assert queries(reply.text) == []


async def test_only_files_that_are_imported_are_read(tmp_path: Path) -> None:
    asked: list[ToolCall] = []
    roots = [project(tmp_path, {"other.py": STORE, "shop/store.py": STORE, "store.py": STORE})]
    await work("performance-reviewer", app("shop.store", "load", "load"), roots=roots, asked=asked)
    reads = [call.arguments.get("path") for call in asked if call.name == "read_file"]
    assert reads == ["shop/store.py"]


async def test_a_query_of_the_same_file_is_found_without_a_search() -> None:
    asked: list[ToolCall] = []
    source = document("a.py", f"{STORE}\n\nfor key in keys:\n    load(db, key)\n")
    reply = await work("performance-reviewer", source, asked=asked)
    assert len(queries(reply.text)) == 1
    assert [call.name for call in asked] == ["lint"]


async def test_functions_of_the_standard_library_are_not_looked_for() -> None:
    asked: list[ToolCall] = []
    await work("performance-reviewer", app("json", "dumps", "dumps"), asked=asked)
    assert [call.name for call in asked] == ["lint"]


async def test_tests_in_the_roots_are_read_as_if_they_were_given(tmp_path: Path) -> None:
    source = document("shop/store.py", STORE)
    alone = await work("test-reviewer", source)
    assert "No known test mentions `load`, `name`" in alone.text
    files = {
        "tests/test_store.py": "from shop.store import load\ndef test_it():\n    load(1, 2)\n",
        "tests/test_other.py": "from bank.store import name\ndef test_it():\n    name(1, 2)\n",
        "contest.py": "from shop.store import name\nname(1, 2)\n",
    }
    asked: list[ToolCall] = []
    roots = [project(tmp_path, files)]
    reply = await work("test-reviewer", source, roots=roots, asked=asked)
    assert "No known test mentions `name`" in reply.text
    # Its own faults are not asked for.
    assert "test_it" not in reply.text
    reads = [call.arguments.get("path") for call in asked if call.name == "read_file"]
    assert reads == ["tests/test_store.py"]


@pytest.mark.parametrize(
    ("line", "imports"),
    [
        ("from shop.store import load", True),
        ("from shop import store", True),
        ("from .store import load", True),
        ("from . import store", True),
        ("import shop.store", True),
        ("import os, store", True),
        ("from shop.store import (", True),
        ("from bank.store import load", False),
        ("from bank import store", False),
        ("import bank.store as store_of_bank", False),
        ("imports = store", False),
    ],
)
async def test_a_test_counts_if_it_imports_the_module(
    line: str, imports: bool, tmp_path: Path
) -> None:
    text = f"{line}{'load)' if line.endswith('(') else ''}\nload(1, 2)\nname(1, 2)\n"
    roots = [project(tmp_path, {"shop/test_store.py": text})]
    reply = await work("test-reviewer", document("shop/store.py", STORE), roots=roots)
    assert ("No known test" not in reply.text) == imports


async def test_a_review_of_everything_looks_for_both(tmp_path: Path) -> None:
    files = {"store.py": STORE, "test_app.py": "from app import show\nshow(1, [])\n"}
    own = WorkerCard(
        name="code-reviewer",
        description="Expert.",
        tools=("lint", "search_files", "read_file"),
    )
    roots = [project(tmp_path, files)]
    reply = await work(own, app("store", "load", "load"), roots=roots)
    assert len(queries(reply.text)) == 1
    assert "No known test" not in reply.text


@pytest.mark.parametrize("tools", [("lint",), ("lint", "search_files"), ("lint", "read_file")])
async def test_a_worker_without_the_tools_does_not_look(tools: tuple[str, ...]) -> None:
    asked: list[ToolCall] = []
    card = WorkerCard(name="performance-reviewer", description="Fast.", tools=tools)
    await work(card, app("store", "load", "load"), asked=asked)
    assert [call.name for call in asked] == ["lint"]


async def test_a_search_that_fails_changes_nothing_else() -> None:
    failed = ToolOutcome(id="search-1", text="too much", failed=True)
    reply = await work("test-reviewer", document("a.py", STORE), outcomes=[failed])
    assert "No known test mentions `load`, `name`" in reply.text


async def test_what_a_search_finds_but_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    found = ToolOutcome(id="search-1", text="tests/test_a.py:1: import a\n[cut after 200 lines]")
    reply = await work("test-reviewer", document("a.py", STORE), outcomes=[found], roots=[tmp_path])
    assert "No known test mentions `load`, `name`" in reply.text


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Where is `load` used?", ["load"]),
        ("Find all uses of load_orders and of OrderStore.", ["load_orders", "OrderStore"]),
        ("Who calls load()? Where is `shop.store` mentioned?", ["load", "shop.store"]),
        ("Which file defines it? It is defined in MAX_SIZE", ["MAX_SIZE"]),
        ("Describe `load`.", []),
        ("Where is it used?", []),
        ("uses " + " ".join(f"`n{number}`" for number in range(9)), ["n0", "n1", "n2", "n3", "n4"]),
    ],
)
def test_names_are_those_that_a_question_is_about(text: str, names: list[str]) -> None:
    assert names_asked_for(text) == names


async def test_definitions_are_shown_and_uses_listed(tmp_path: Path) -> None:
    files = {"store.py": STORE, "app.py": app("store", "load", "load").text}
    reply = await work(
        "researcher", objective="Where is `load` used?", roots=[project(tmp_path, files)]
    )
    assert reply.text == (
        "### `load`: 2 uses in 1 file\n\n"
        "Defined in store.py:4:\n\n"
        "```\n"
        "def load(db, key):\n"
        '    """Load."""\n'
        '    return db.execute("...", (key,))\n'
        "```\n\n"
        "- app.py:2 — `from store import load`\n"
        "- app.py:8 — `load(db, key)`"
    )


@pytest.mark.parametrize(
    ("text", "block"),
    [
        ("MAX_SIZE = 3\nOTHER = 4\n", "MAX_SIZE = 3"),
        ("MAX_SIZE: int = (\n    3\n)\nOTHER = 4\n", "MAX_SIZE: int = (\n    3\n)"),
        ("  export const MAX_SIZE = 3;\n  x\n", "export const MAX_SIZE = 3;"),
    ],
)
async def test_a_definition_ends_where_its_lines_do(text: str, block: str, tmp_path: Path) -> None:
    roots = [project(tmp_path, {"a.txt": text})]
    reply = await work("researcher", objective="Where is MAX_SIZE used?", roots=roots)
    assert f"Defined in a.txt:1:\n\n```\n{block}\n```" in reply.text
    assert reply.text.startswith("### `MAX_SIZE`: 0 uses in 0 files")


async def test_many_uses_are_listed_in_part(tmp_path: Path) -> None:
    roots = [project(tmp_path, {"a.md": "see `load`\n" * 60})]
    reply = await work("researcher", objective="Where is `load` used?", roots=roots)
    lines = reply.text.splitlines()
    assert (lines[0], lines[-2:]) == (
        "### `load`: 60 uses in 1 file",
        ["- a.md:50 — `see 'load'`", "- 10 more"],
    )


async def test_a_name_that_is_nowhere_is_said_to_be() -> None:
    reply = await work("researcher", objective="Where is `load` used?")
    assert reply.text == "### `load`\n\nNo file that may be read mentions it."


async def test_a_question_that_names_nothing_is_refused() -> None:
    reply = await work("researcher", objective="What is new?")
    assert reply.stop_reason == "refusal"
    assert "Where is `load_orders` used?" in reply.text


async def test_a_search_that_cannot_be_made_is_a_failure_with_its_reason() -> None:
    failed = ToolOutcome(id="search-1", text="There is too much.", failed=True)
    reply = await work("researcher", objective="Where is `load` used?", outcomes=[failed])
    assert (reply.stop_reason, reply.text) == (
        "refusal",
        "It could not be searched. There is too much.",
    )


async def test_a_definition_that_cannot_be_read_is_named_without_its_text() -> None:
    found = ToolOutcome(id="search-1", text="gone.py:1: def load():")
    reply = await work("researcher", objective="Where is `load` used?", outcomes=[found])
    assert "Defined in gone.py:1." in reply.text


async def test_a_question_where_a_name_is_needs_no_inputs() -> None:
    made = await plan("Where is `load_orders` used?")
    (only,) = made.subtasks
    assert (only.worker, only.inputs) == ("researcher", ())
    assert only.objective == "Find where this is defined and used: `load_orders`."


async def test_with_inputs_the_question_is_still_the_only_task() -> None:
    made = await plan("Find all uses of load_orders", document("app.py", "x = 1\n"))
    assert [(item.worker, item.inputs) for item in made.subtasks] == [("researcher", ("app.py",))]


@pytest.mark.parametrize(
    "task", ["Review this code; it uses load_orders", "Find bugs where `load` is called"]
)
async def test_a_review_is_no_such_question(task: str) -> None:
    made = await plan(task, document("app.py", "x = 1\n"))
    assert "researcher" not in {item.worker for item in made.subtasks}


async def test_looking_up_is_in_the_trace(tmp_path: Path) -> None:
    root = project(tmp_path / "root", {"store.py": STORE})
    loaded = Settings.load({"offline": True, "data_folder": tmp_path / "data"})
    async with open_runs(loaded, roots=(root,)) as runs:
        started = await runs.start(RunOrder(task="Where is `load` defined?"))
        state = await runs.wait(started.run_id, seconds=15)
        trace = await runs.trace(started.run_id)
    assert "Defined in store.py:4" in state.answer
    (researcher,) = (span for span in trace.spans if span.name == "invoke_agent researcher")
    assert [span.name for span in researcher.spans] == [
        "chat offline",
        "execute_tool search_files",
        "chat offline",
        "execute_tool read_file",
        "chat offline",
    ]


def test_the_researcher_has_the_tools_for_it() -> None:
    assert {"search_files", "read_file"} <= set(cards()["researcher"].tools)
