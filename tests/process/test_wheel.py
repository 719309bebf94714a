"""The wheel, built and run: what a user installs is not what a checkout has."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    uv = os.environ.get("UV") or shutil.which("uv")
    assert uv, "the tests are started with uv"
    out = tmp_path_factory.mktemp("wheel")
    pinned = ["--build-constraints", ROOT / ".ci" / "requirements.txt", "--require-hashes"]
    command = [uv, "build", "--quiet", "--wheel", *pinned, "--out-dir", out, ROOT]
    subprocess.run(command, check=True)
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_has_every_module_and_definition_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    package = ROOT / "server"
    modules = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    definitions = {
        f"concertmaster/{path.relative_to(ROOT).as_posix()}"
        for folder in ("workers", "prompts", "jobs")
        for path in (ROOT / folder).rglob("*.md")
    }
    assert names == modules | definitions


def test_the_wheel_does_the_main_job_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    shutil.copy(ROOT / "examples" / "shop" / "app.py", tmp_path)
    # Not measured: these are copies of the modules whose coverage counts.
    environment = {name: text for name, text in os.environ.items() if "COV" not in name}
    environment["PYTHONPATH"] = str(site)
    command = [sys.executable, "-m", "concertmaster"]
    done = subprocess.run(
        [*command, "run", "--offline", "Review this code for problems", "app.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "app.py:" in done.stdout
    where = subprocess.run(
        [sys.executable, "-c", "import concertmaster; print(concertmaster.__file__)"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(where.stdout.strip()).is_relative_to(site)
