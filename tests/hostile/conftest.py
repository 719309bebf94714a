"""A folder that may be read, and a secret in every place around it that may not."""

from pathlib import Path

import pytest

from hostile_world import SECRET, World


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Return a root among secrets. One of them is the key in the environment."""
    base = tmp_path / "base"
    root = base / "root"
    for folder in ("deep", ".git", "ignored", "node_modules", "venv", "../root-copy"):
        (root / folder).mkdir(parents=True)
    (root / "app.py").write_text("x = 1\n")
    (root / ".gitignore").write_text("ignored/\n*.key\n")
    (root / "venv" / "pyvenv.cfg").write_text("home = /usr\n")
    for file in (
        "../secret.txt",
        "../root-copy/secret.txt",
        ".env",
        ".git/config",
        "ignored/secret.txt",
        "private.key",
        "node_modules/secret.txt",
        "venv/secret.txt",
    ):
        (root / file).write_text(f"print({SECRET})\n")
    for link, target in {
        "out": "../secret.txt",
        "chain": "out",
        "absolute": str(base / "secret.txt"),
        "up": "..",
        "env": ".env",
        "deep/git": "../.git",
        "deep/private": "../private.key",
    }.items():
        (root / link).symlink_to(target)
    monkeypatch.setenv("HOME", str(base))
    monkeypatch.setenv("ANTHROPIC_API_KEY", SECRET)
    return World(base=base, root=root)
