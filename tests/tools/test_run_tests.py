import fcntl
import sys
from pathlib import Path

import anyio
import pytest
from anyio import to_thread

from concertmaster.errors import ToolCallError
from concertmaster.tools.builtin import run_tests
from concertmaster.tools.builtin.run_tests import RunTests
from concertmaster.tools.scope import ToolScope

pytestmark = pytest.mark.anyio

PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
TESTS = "def test_right(): pass\n\ndef test_wrong(): assert 1 == 2\n"


@pytest.fixture
def scope(tmp_path: Path) -> ToolScope:
    first, second = tmp_path / "first", tmp_path / "second"
    (first / "tests").mkdir(parents=True)
    second.mkdir()
    (first / "tests" / "test_a.py").write_text(TESTS)
    (second / "test_b.py").write_text("def test_b(): pass\n")
    (second / ".hidden.py").write_text("def test_c(): pass\n")
    return ToolScope(roots=(first, second))


async def run(scope: ToolScope, *tests: str, command: tuple[str, ...] = PYTEST) -> str:
    return await RunTests(command).call({"tests": list(tests)}, scope)


def program(*lines: str) -> tuple[str, ...]:
    return (sys.executable, "-c", "\n".join(lines))


async def test_all_tests_of_the_first_root_are_run(scope: ToolScope) -> None:
    reply = await run(scope)
    assert reply.startswith("Exit status 1.\n")
    assert "assert 1 == 2" in reply
    assert "1 failed, 1 passed" in reply


async def test_tests_can_be_chosen_by_file_and_name(scope: ToolScope) -> None:
    reply = await run(scope, "tests/test_a.py::test_right")
    assert reply.startswith("Exit status 0.\n")
    assert "1 passed" in reply


async def test_tests_run_in_the_root_that_they_are_in(scope: ToolScope) -> None:
    where = program("import os, sys", "print(os.getcwd(), sys.argv[1:])")
    reply = await run(scope, "test_b.py", command=where)
    second = scope.roots[1]
    assert reply == f"Exit status 0.\n{second} ['{second / 'test_b.py'}']"


@pytest.mark.parametrize(
    ("test", "reason"),
    [
        ("-x", "no such file"),
        ("--rootdir=/", "no such file"),
        ("../first/tests/test_a.py", "outside the folders"),
        ("/etc/passwd", "outside the folders"),
        (".hidden.py", "hidden or ignored by git"),
    ],
)
async def test_nothing_else_reaches_the_command(scope: ToolScope, test: str, reason: str) -> None:
    with pytest.raises(ToolCallError, match=reason):
        await run(ToolScope(roots=scope.roots[1:]), test)


async def test_without_a_root_there_are_no_tests() -> None:
    with pytest.raises(ToolCallError, match="No folder is open"):
        await run(ToolScope())


async def test_a_command_that_is_not_there_is_told_of(scope: ToolScope) -> None:
    with pytest.raises(ToolCallError, match="cannot be run: No such file"):
        await run(scope, command=("no-such-program",))


async def test_the_environment_is_the_one_that_was_given(scope: ToolScope) -> None:
    names = program("import os", "print(sorted(os.environ.keys() - {'LC_CTYPE'}))")
    reply = await RunTests(names, environment={"HOME": "/"}).call({}, scope)
    assert reply == "Exit status 0.\n['HOME']"


async def test_only_the_end_of_a_long_output_is_kept(
    scope: ToolScope, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_tests, "MAX_OUTPUT_BYTES", 5)
    assert await run(scope, command=program("print('a' * 100_000, 'end')")) == (
        "Exit status 0.\nend"
    )


async def test_tests_that_write_nothing_are_told_of(scope: ToolScope) -> None:
    assert await run(scope, command=program("")) == "Exit status 0.\n[no output]"


async def test_tests_that_do_not_end_are_stopped(scope: ToolScope) -> None:
    forever = program("import signal", "signal.pause()")
    with anyio.fail_after(60):
        reply = await RunTests(forever, seconds=0.3).call({}, scope)
    assert reply == "Stopped after 0.3 s.\n[no output]"


async def test_cancelled_tests_leave_nothing_that_they_started(
    scope: ToolScope, tmp_path: Path
) -> None:
    lock = tmp_path / "lock"
    child = (
        "import fcntl, signal",
        f"lock = open('{lock}', 'w')",
        "fcntl.flock(lock, fcntl.LOCK_EX)",
        "print('locked', file=lock, flush=True)",
        "signal.pause()",
    )
    lines = (
        "import subprocess, sys",
        f"subprocess.run([sys.executable, '-c', {chr(10).join(child)!r}])",
    )

    async def call() -> None:
        await run(scope, command=program(*lines))

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            while not lock.exists() or not lock.read_text():
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        with lock.open("w") as file:
            # It is free only once the process that the program started is gone.
            await to_thread.run_sync(fcntl.flock, file, fcntl.LOCK_EX, abandon_on_cancel=True)
