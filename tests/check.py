"""Every check of the project, for people and for CI: format, lint, types, tests, coverage.

It runs wherever it is started: in the background, under `nohup`, or without a terminal. A check
that takes longer than its limit is ended with everything that it has started.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

TESTS_AT_ONCE = max(3, os.cpu_count() or 1)
"""More than there are cores, where those are few: tests of processes mostly wait."""

CHECKS = {
    "format": ["ruff", "format", "--check"],
    "lint": ["ruff", "check"],
    "types": ["pyright"],
    "tests": [
        *("pytest", "--cov", "--cov-report=", "--cov-fail-under=0"),
        *("--numprocesses", str(TESTS_AT_ONCE), "--dist", "worksteal"),
    ],
    "coverage": ["coverage", "report"],
}

LIMIT_MINUTES = {"tests": 45}
"""How long a check may take."""

OTHER_LIMIT_MINUTES = 15

CLEANUP_SECONDS = 30
"""How long a check that was interrupted may take to end what it has started."""


def inherit_usual_signals() -> None:
    """Give the processes that this one starts the usual signals, whatever it inherited itself.

    A shell starts a command in the background with SIGINT ignored, `nohup` with SIGHUP, and a
    process passes on to others what it ignores or blocks. What this process was to ignore, it
    still does: a handler is not passed on, unlike SIG_IGN.
    """
    for number in signal.valid_signals():
        # Python ignores this one itself, and restores it in the processes that it starts.
        if number != getattr(signal, "SIGPIPE", None):
            _ignore_here_only(number)
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _ignore_here_only(number: int) -> None:
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, _do_nothing)


def _do_nothing(number: int, frame: object) -> None:
    del number, frame


def run(command: Sequence[str | Path], *, seconds: float) -> int | None:
    """Return the exit status of a command, or None if it was ended because its time was up.

    However this ends, the processes that the command has started do not outlast it.
    """
    process = start(command)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        end(process)


def start(command: Sequence[str | Path]) -> "subprocess.Popen[bytes]":
    """Start a command in a process group of its own, which can be ended as a whole."""
    return subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, start_new_session=sys.platform != "win32"
    )


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a command as Ctrl-C does, so that it can clean up, and kill what is left then."""
    if sys.platform == "win32":
        process.kill()
        process.wait()
        return
    if process.poll() is None:
        _signal_group(process, signal.SIGINT)
        try:
            process.wait(CLEANUP_SECONDS)
        except subprocess.TimeoutExpired:
            sys.stdout.write("It did not end when interrupted, so it is killed.\n")
    _signal_group(process, signal.SIGKILL)
    process.wait()


def _signal_group(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        # All of them have ended. macOS says so by the second one.
        return


def _passed(name: str, command: Sequence[str]) -> bool:
    minutes = LIMIT_MINUTES.get(name, OTHER_LIMIT_MINUTES)
    started = time.monotonic()
    status = run(command, seconds=minutes * 60)
    seconds = time.monotonic() - started
    if status is None:
        outcome = f"FAILED, ended after its limit of {minutes} minutes"
    else:
        outcome = f"{'FAILED' if status else 'ok'}, {seconds:.1f} s"
    sys.stdout.write(f"[{name}: {outcome}]\n")
    sys.stdout.flush()
    return status == 0


def _exit_as_interrupted(number: int, _: object) -> None:
    raise SystemExit(128 + number)


def main() -> int:
    """Run all checks, stop at none, and return 1 if any failed."""
    inherit_usual_signals()
    # So that what was started is ended with this process.
    signal.signal(signal.SIGTERM, _exit_as_interrupted)
    run(["coverage", "erase"], seconds=OTHER_LIMIT_MINUTES * 60)
    failed = [name for name, command in CHECKS.items() if not _passed(name, command)]
    if failed:
        sys.stdout.write(f"Failed: {', '.join(failed)}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
