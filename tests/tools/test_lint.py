import os
import stat
from pathlib import Path

import anyio
import pytest

from concertmaster.errors import ToolCallError
from concertmaster.llm.messages import Document
from concertmaster.tools.builtin import lint
from concertmaster.tools.builtin.lint import Lint
from concertmaster.tools.scope import ToolScope

pytestmark = pytest.mark.anyio

FAULTY = """\
import os
def find(db, term, seen=[]):
    return db.execute(f"SELECT * FROM items WHERE name = '{term}'")
"""
SCOPE = ToolScope(
    inputs=(
        Document(name="shop/app.py", text=FAULTY),
        Document(name="broken.py", text="def (:\n"),
        Document(name="new.py", text="type Pair[T] = tuple[T, T]\n"),
        Document(name="-select=.py", text=""),
        Document(name="app.js", text="var a"),
    )
)


async def run(file: str, *rules: str) -> str:
    return await Lint().call({"file": file, "rules": list(rules)}, SCOPE)


async def test_each_finding_is_a_line_with_number_rule_and_message() -> None:
    lines = (await run("shop/app.py", "S608", "F401", "B006")).splitlines()
    assert lines[0] == "3 findings."
    assert lines[1] == "1: F401 `os` imported but unused [fix: Remove unused import: `os`]"
    assert [line.split()[:2] for line in lines[2:]] == [["2:", "B006"], ["3:", "S608"]]


async def test_code_without_fault_gives_no_findings() -> None:
    assert await run("shop/app.py", "N") == "No findings."
    assert await run("-select=.py", "F") == "No findings."


async def test_a_syntax_error_is_a_finding_and_new_syntax_is_none() -> None:
    assert "invalid-syntax" in await run("broken.py", "F")
    assert await run("new.py", "F") == "No findings."


async def test_settings_of_the_folder_it_runs_in_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ruff.toml").write_text('lint.ignore = ["ALL"]\nexclude = ["*"]\n')
    monkeypatch.chdir(tmp_path)
    assert "S608" in await run("shop/app.py", "S")


async def test_many_findings_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lint, "MAX_FINDINGS", 1)
    reply = await run("shop/app.py", "F", "S")
    assert reply.splitlines()[-1] == "[cut after 1 findings; use fewer rules]"


@pytest.mark.parametrize(
    ("file", "rules", "reason"),
    [
        ("app.js", ["F"], "app.js is no Python file"),
        ("other.py", ["F"], r"no input 'other.py'. Your inputs: \"shop/app.py\""),
        ("shop/app.py", ["ZZZ"], "ruff could not check shop/app.py: .*ZZZ"),
        ("shop/app.py", [], "rules: Tuple should have at least 1 item"),
        ("shop/app.py", ["--fix"], "rules.0: String should match pattern"),
    ],
)
async def test_what_cannot_be_checked_is_refused_with_a_reason(
    file: str, rules: list[str], reason: str
) -> None:
    with pytest.raises(ToolCallError, match=reason):
        await run(file, *rules)


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = folder / "ruff"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(stat.S_IRWXU)
    monkeypatch.setattr(lint, "find_ruff_bin", lambda: str(program))


async def test_a_ruff_that_does_not_end_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, f"echo $$ > {tmp_path}/pid; exec sleep 600")
    with anyio.fail_after(60), pytest.raises(ToolCallError, match=r"longer than 0\.3 s"):
        await Lint(seconds=0.3).call({"file": "shop/app.py", "rules": ["F"]}, SCOPE)


async def test_a_cancelled_call_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fifo = tmp_path / "alive"
    stand_in(tmp_path, monkeypatch, f"mkfifo {fifo}; echo $$ > {tmp_path}/pid; exec cat {fifo}")
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:

            async def call() -> None:
                await Lint().call({"file": "shop/app.py", "rules": ["F"]}, SCOPE)

            tasks.start_soon(call)
            while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
    with anyio.fail_after(60), pytest.raises(ProcessLookupError):
        await look_for((tmp_path / "pid").read_text())


async def look_for(pid: str) -> None:
    while True:
        # Until it is reaped, a killed process still has its number.
        await anyio.lowlevel.checkpoint()
        os.kill(int(pid), 0)


async def test_a_ruff_that_fails_without_a_word_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, "cat > /dev/null; exit 3")
    with pytest.raises(ToolCallError, match="it gave no reason"):
        await run("shop/app.py", "F")


async def test_a_ruff_that_ends_before_it_has_read_all_is_no_surprise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, "exec <&-; echo no >&2; exit 3")
    long = ToolScope(inputs=(Document(name="long.py", text="x = 1\n" * 500_000),))
    with pytest.raises(ToolCallError, match=r"ruff could not check long\.py: no"):
        await Lint().call({"file": "long.py", "rules": ["F"]}, long)


async def test_many_files_are_checked_at_the_same_time() -> None:
    tool = Lint()

    async def call(_: int) -> str:
        return await tool.call({"file": "shop/app.py", "rules": ["S608"]}, SCOPE)

    replies = await anyio.amap(call, range(20))
    assert len(replies) == 20
    assert len(set(replies)) == 1
