"""The main job with a real model. Costs a few cents: `RUN_LIVE=1 uv run pytest tests/live`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.live

ROOT = Path(__file__).resolve().parents[2]
# Read before the environment is scrubbed for each test.
KEY = os.environ.get("ANTHROPIC_API_KEY", "")


def test_a_review_finds_the_injection_and_says_what_it_cost(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "concertmaster", "run", "--max-subtasks", "3"),
            *("Review this code for security problems", "examples/shop/app.py"),
        ],
        cwd=ROOT,
        env={
            **os.environ,
            "ANTHROPIC_API_KEY": KEY,
            "CONCERTMASTER_DATA_FOLDER": str(tmp_path),
            "CONCERTMASTER_MODEL_PLANNER": "haiku",
            "CONCERTMASTER_MODEL_WORKER": "haiku",
            "CONCERTMASTER_MODEL_SYNTHESIZER": "haiku",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "injection" in done.stdout.lower()
    assert "USD" in done.stderr or "$" in done.stderr
