"""A Postgres for benchmarks: that of the tests."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from postgres import running_postgres

__all__ = ["running_postgres"]
