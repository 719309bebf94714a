"""Every check of the project, for people and for CI: format, lint, types, tests, coverage."""

import os
import subprocess
import sys
import time
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


def main() -> int:
    """Run all checks, stop at none, and return 1 if any failed."""
    subprocess.run(["coverage", "erase"], cwd=ROOT, check=False)  # noqa: S607
    failed: list[str] = []
    for name, command in CHECKS.items():
        started = time.monotonic()
        status = subprocess.run(command, cwd=ROOT, check=False, stdin=subprocess.DEVNULL).returncode
        seconds = time.monotonic() - started
        sys.stdout.write(f"[{name}: {'ok' if status == 0 else 'FAILED'}, {seconds:.1f} s]\n")
        sys.stdout.flush()
        if status:
            failed.append(name)
    if failed:
        sys.stdout.write(f"Failed: {', '.join(failed)}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
