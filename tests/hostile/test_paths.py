"""Attempts to reach a file that is not there for workers, by its path."""

import sys
from collections.abc import Mapping

import pytest
from pydantic import JsonValue

from concertmaster.errors import InputError
from concertmaster.llm.messages import Document
from concertmaster.tools.builtin.files import ListFiles, ReadFile, SearchFiles
from concertmaster.tools.builtin.lint import Lint
from concertmaster.tools.builtin.run_tests import RunTests
from concertmaster.tools.inputs import read_inputs
from concertmaster.tools.scope import ToolScope
from hostile_world import SECRET, World, outcome

pytestmark = pytest.mark.anyio

OUTSIDE = [
    "../secret.txt",
    "./../secret.txt",
    ".//..//secret.txt",
    "deep/../../secret.txt",
    "../root/../secret.txt",
    "../root-copy/secret.txt",
    "../root-copy/../secret.txt",
    "up/secret.txt",
    "up/root-copy/secret.txt",
    "up/root/../secret.txt",
    "up/root/up/secret.txt",
    "out",
    "./out",
    "deep/../out",
    "up/root/out",
    "chain",
    "absolute",
    "{base}/secret.txt",
    "/{base}/secret.txt",
    "{base}//secret.txt",
    "{base}/./secret.txt",
    "{root}/../secret.txt",
    "{root}-copy/secret.txt",
    "{root}/out",
    "{root}/up/secret.txt",
    "/proc/self/root{base}/secret.txt",
    "file://{base}/secret.txt",
    "file://localhost{base}/secret.txt",
    "FILE://{base}/secret.txt",
    "file://{base}/%73ecret.txt",
    "file://{root}/../secret.txt",
    "file://{root}/%2e%2e/secret.txt",
    "file://{root}/%2E%2E%2Fsecret.txt",
    "file://{root}-copy/secret.txt",
    "file://{root}/out",
    "~/secret.txt",
    "~/root/../secret.txt",
    "~/root-copy/secret.txt",
    "~/root/up/secret.txt",
]

HIDDEN = [
    ".env",
    "./.env",
    "deep/../.env",
    "env",
    "{root}/.env",
    "{base}/root/.env",
    "up/root/.env",
    "~/root/.env",
    "file://{root}/.env",
    "file://{root}/%2eenv",
    ".git/config",
    "./.git/./config",
    "deep/git/config",
    "deep/../.git/config",
    "{root}/.git/config",
    "file://{root}/.git/config",
    "ignored/secret.txt",
    "./ignored/../ignored/secret.txt",
    "{root}/ignored/secret.txt",
    "file://{root}/ignored/secret.txt",
    "private.key",
    "deep/private",
    "{root}/private.key",
    "node_modules/secret.txt",
    "{root}/node_modules/secret.txt",
    "venv/secret.txt",
    "{root}/venv/secret.txt",
]

SHOW = (
    sys.executable,
    "-c",
    "import sys; [print(open(each.partition('::')[0]).read()) for each in sys.argv[1:]]",
)
"""A test command that shows the files it is given."""


@pytest.mark.parametrize("path", OUTSIDE + HIDDEN)
async def test_no_path_reads_a_secret(world: World, path: str) -> None:
    arguments: Mapping[str, JsonValue] = {"path": world.spell(path)}
    assert SECRET not in await outcome(ReadFile(), arguments, world.scope)


@pytest.mark.parametrize("path", OUTSIDE + HIDDEN)
async def test_no_path_has_a_secret_run(world: World, path: str) -> None:
    arguments: Mapping[str, JsonValue] = {"tests": [world.spell(path) + "::test"]}
    assert SECRET not in await outcome(RunTests(SHOW), arguments, world.scope)


@pytest.mark.parametrize(
    "spec",
    [
        *OUTSIDE,
        "../*.txt",
        "../root-copy/*",
        "up/*.txt",
        "up/root-copy/*",
        "deep/../../*.txt",
        "{base}/*.txt",
        "{base}/**/*.txt",
        "{root}/../*.txt",
        "{root}-copy/*",
        "file://{base}/*.txt",
        "~/*.txt",
        "up",
        "../root-copy",
        "{base}",
    ],
)
async def test_no_input_comes_from_outside(world: World, spec: str) -> None:
    try:
        documents = (await read_inputs([world.spell(spec)], roots=[world.root])).documents
    except InputError as exc:
        documents = (Document(name="", text=str(exc)),)
    assert not any(SECRET in document.text for document in documents)


PATTERNS = [
    "**",
    "*",
    "**/*",
    ".*",
    ".env",
    "env",
    "out",
    "chain",
    "absolute",
    ".git/*",
    ".git/**",
    "**/config",
    "ignored/*",
    "**/secret.txt",
    "*.key",
    "deep/*",
    "node_modules/*",
    "venv/*",
    "**/[s]ecret.txt",
]


@pytest.mark.parametrize("pattern", PATTERNS)
async def test_no_pattern_finds_a_secret(world: World, pattern: str) -> None:
    arguments: Mapping[str, JsonValue] = {"pattern": "print", "files": pattern}
    assert SECRET not in await outcome(SearchFiles(), arguments, world.scope)


@pytest.mark.parametrize("pattern", PATTERNS)
async def test_no_pattern_lists_what_is_not_there_for_workers(world: World, pattern: str) -> None:
    reply = await outcome(ListFiles(), {"pattern": pattern}, world.scope)
    assert set(reply.splitlines()) <= {"app.py", f"Nothing that may be read matches {pattern!r}."}


@pytest.mark.parametrize("path", [path for path in OUTSIDE + HIDDEN if "/" not in path])
async def test_lint_reads_no_file(world: World, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world.root)
    scope = ToolScope(inputs=(Document(name="a.py", text=""),), roots=(world.root,))
    arguments: Mapping[str, JsonValue] = {"file": path, "rules": ["F"]}
    assert SECRET not in await outcome(Lint(), arguments, scope)
