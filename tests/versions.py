"""The tests with other versions of the dependencies than those in the lock.

Users get the newest versions that `pyproject.toml` allows, and may have the lowest ones.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from check import TESTS_AT_ONCE, inherit_usual_signals, run

ROOT = Path(__file__).resolve().parent.parent

RESOLUTIONS = {"lowest": "lowest-direct", "newest": "highest"}

LIMIT_MINUTES = 60

NEED_A_REGISTRY = ("conformance", "foreign", "process/test_wheel.py")


def install(folder: Path, resolution: str) -> Path:
    """Make an environment with the versions of a resolution, and return its interpreter."""
    environment = folder / "environment"
    python = environment / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    chosen = folder / "chosen.txt"
    _uv("venv", "--python", sys.executable, environment)
    # Only what users install is to have these versions: tests may need newer tools.
    _uv(
        *("pip", "compile", "pyproject.toml", "--all-extras", "--python", python),
        *("--resolution", resolution, "--no-header", "--no-annotate", "--output-file", chosen),
    )
    _uv(
        *("pip", "install", "--python", python, "--constraints", chosen, "--group", "dev"),
        *("--build-constraints", ".ci/requirements.txt", "--editable", ".[postgres,otel,web]"),
    )
    return python


def differences(python: Path) -> list[str]:
    """Return what is installed in other versions than the lock has, a line each."""
    listed = subprocess.run(
        ["uv", "pip", "freeze", "--python", python, "--exclude-editable"],  # noqa: S607
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    locked = _versions((ROOT / "requirements.lock").read_text(encoding="utf-8"))
    return [
        f"{name} {version}, in the lock {locked.get(name, 'none')}"
        for name, version in _versions(listed).items()
        if locked.get(name) != version
    ]


def _versions(text: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9][a-z0-9._-]*)==([^\s;]+)", text, re.MULTILINE))


def _uv(*arguments: str | Path) -> None:
    subprocess.run(["uv", "--quiet", *arguments], cwd=ROOT, check=True)  # noqa: S607


def main() -> int:
    """Run the tests with the versions that are asked for; return 0 if they pass."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("versions", choices=RESOLUTIONS)
    parser.add_argument("tests", nargs="*", help="arguments of pytest instead of the usual ones")
    asked = parser.parse_args()
    inherit_usual_signals()
    with tempfile.TemporaryDirectory(prefix="versions-") as name:
        python = install(Path(name), RESOLUTIONS[asked.versions])
        sys.stdout.write("".join(f"{line}\n" for line in differences(python)))
        sys.stdout.flush()
        status = run(_tests(python, asked.tests), seconds=LIMIT_MINUTES * 60)
    if status is None:
        sys.stdout.write(f"FAILED: ended after its limit of {LIMIT_MINUTES} minutes.\n")
    return 1 if status is None else status


def _tests(python: Path, arguments: Sequence[str]) -> list[str | Path]:
    left_out = (f"--ignore=tests/{name}" for name in NEED_A_REGISTRY)
    usual = ("-q", "--numprocesses", str(TESTS_AT_ONCE), "--dist", "worksteal", *left_out)
    # What belongs to the environment of the lock is not to be found.
    os.environ.pop("VIRTUAL_ENV", None)
    return [python, "-m", "pytest", *(arguments or usual)]


if __name__ == "__main__":
    sys.exit(main())
