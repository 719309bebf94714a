"""What CI and the build fetch: fixed versions with hashes, and from no address in particular."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PINNED = ("requirements.lock", ".ci/requirements.txt")


def requirements(name: str) -> list[str]:
    """Return the entries of a file of requirements, each with its continuation lines."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    return [line for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]


@pytest.mark.parametrize("name", PINNED)
def test_every_package_that_ci_installs_has_one_version_and_a_hash(name: str) -> None:
    for requirement in requirements(name):
        assert re.match(r"[a-z0-9._-]+==[^\s=]+ .*--hash=sha256:[0-9a-f]{64}", requirement)


@pytest.mark.parametrize("name", PINNED)
def test_no_file_of_pinned_packages_names_an_address(name: str) -> None:
    assert "://" not in (ROOT / name).read_text(encoding="utf-8")


def test_ci_installs_nothing_without_hashes() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    installs = re.findall(r"^(?:uv )?pip install .*$", script, re.MULTILINE)
    assert len(installs) == 3
    for install in installs:
        assert "--require-hashes" in install or (
            "--no-deps" in install and "--build-constraints" in install
        )
