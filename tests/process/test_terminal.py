"""The command at a terminal, with a person who types there."""

import os
import select
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from processes import COMMAND, environment, running

ROOT = Path(__file__).resolve().parents[2]
ORDER = ("run", "Review this code for problems", "examples/shop/app.py", "--approve", "always")

pytestmark = pytest.mark.skipif(not hasattr(os, "openpty"), reason="there are no terminals here")


def at_terminal(folder: Path, *arguments: str, lines: str) -> tuple[int, str, str]:
    """Return the exit status of the command, what it printed, and what was on the screen."""
    screen, terminal = os.openpty()
    with running(
        [sys.executable, "-m", "concertmaster", *arguments],
        cwd=ROOT,
        env=environment(folder, {"TERM": "dumb"}),
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=terminal,
        text=False,
    ) as process:
        os.close(terminal)
        os.write(screen, lines.encode())
        shown = b""
        # A terminal that nobody has open any more cannot be read.
        with suppress(OSError):
            while part := os.read(screen, 65536):
                shown += part
        assert process.stdout is not None
        printed = process.stdout.read()
        status = process.wait()
    os.close(screen)
    return status, printed.decode(), shown.decode()


@pytest.mark.parametrize(
    ("lines", "status", "printed"), [("y\n", 0, "SQL injection"), ("n\n", 1, "")]
)
def test_whoever_is_at_the_terminal_decides_whether_a_plan_is_carried_out(
    lines: str, status: int, printed: str, tmp_path: Path
) -> None:
    ended, answer, shown = at_terminal(tmp_path, *ORDER, lines=lines)
    assert ended == status, shown
    assert "security-reviewer" in shown
    assert "Carry out this plan, for 2 USD at most?" in shown
    assert printed in answer
    assert bool(answer) is bool(printed)


@pytest.mark.parametrize(
    ("options", "status", "typed"),
    [([], 130, b"\x03"), ([], 0, b"\x04"), (["--background"], 0, b"\x04")],
    ids=["ctrl-c", "ctrl-d", "background"],
)
def test_a_stdio_server_at_a_terminal_says_what_it_waits_for_and_how_to_stop_it(
    options: list[str], status: int, typed: bytes, tmp_path: Path
) -> None:
    extra = {"CONCERTMASTER_BACKGROUND_IDLE_SECONDS": "0.1"}
    with terminal_server(tmp_path, *options, **extra) as (screen, process):
        shown = b""
        while b"Press Ctrl+C to stop." not in shown:
            assert select.select([screen], [], [], 30)[0], shown
            shown += os.read(screen, 65536)
        os.write(screen, typed)
        assert process.wait(timeout=30) == status
    assert b"Waiting for an MCP client" in shown
    assert b"concertmaster run" in shown
    assert b"concertmaster serve --http" in shown


def test_a_server_whose_stdin_is_no_terminal_says_nothing(tmp_path: Path) -> None:
    ended = subprocess.run(
        COMMAND,
        input="",
        capture_output=True,
        text=True,
        env=environment(tmp_path),
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


@contextmanager
def terminal_server(
    folder: Path, *options: str, **extra: str
) -> Generator[tuple[int, subprocess.Popen[bytes]]]:
    """Start a stdio server whose stdin, stdout and stderr are a terminal of its own."""
    screen, terminal = os.openpty()
    try:
        with running(
            [sys.executable, "-c", IN_TERMINAL, os.ttyname(terminal), *COMMAND, *options],
            text=False,
            env=environment(folder, {"TERM": "dumb", **extra}),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        ) as process:
            yield screen, process
    finally:
        os.close(terminal)
        os.close(screen)


IN_TERMINAL = """
import os, sys
terminal = os.open(sys.argv[1], os.O_RDWR)
for number in range(3):
    os.dup2(terminal, number)
os.execv(sys.argv[2], sys.argv[2:])
"""
"""A program that makes a terminal its controlling one, so that Ctrl+C there reaches it."""
