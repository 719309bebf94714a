"""The command at a terminal, with somebody who writes there."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from processes import environment, running

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
