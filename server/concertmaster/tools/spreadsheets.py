"""Spreadsheets, read into a text for each sheet.

They are read by calamine (`python-calamine`), which knows the formats of Excel and
OpenDocument, expands no XML entities and is under constant maintenance; openpyxl knows one of
them, leaves entities to whoever calls it and had its last release in 2024. What calamine is
not is bounded, and it ends its process when it runs out of memory. So it reads in a process of
its own, `sheet_reader`, within limits.
"""

import logging
import sys
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import anyio
from anyio import from_thread
from pydantic import BaseModel, ConfigDict, Field

from concertmaster.llm.protocol import Text
from concertmaster.tools.reading import NotTextError, TooLongError, read_bytes

log = logging.getLogger(__name__)

MAX_BYTES = 8_000_000
"""The longest spreadsheet that is read."""

MAX_SECONDS = 30
"""How long reading one may take."""

_SUFFIXES = frozenset({".xlsx", ".xlsm", ".xlsb", ".xls", ".ods"})
_READER = (sys.executable, "-I", "-m", "concertmaster.tools.sheet_reader")


class SpreadsheetError(NotTextError):
    """A spreadsheet is none, has a password or nothing else, or takes too much to read."""


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    sheets: dict[str, Text] = Field(default_factory=dict[str, Text])
    problem: str = ""
    """Why there are none."""


def is_spreadsheet(name: str) -> bool:
    """Tell by its name whether a file is a spreadsheet."""
    return PurePosixPath(name).suffix.lower() in _SUFFIXES


def read_sheets(path: Path, name: str, *, root: Path, max_bytes: int) -> Mapping[str, str]:
    """Return the rows of each sheet that has any, as tab-separated values, by its name.

    Cells have the values that they were saved with; of formulas that failed, none. Of what is
    longer than `max_bytes`, there is a part that is longer as well. To be called in a thread
    that anyio has started.

    Raises:
        SpreadsheetError: there are none to be had.
        InputError: it cannot be opened.
    """
    try:
        content = read_bytes(path, name, root=root, max_bytes=MAX_BYTES)
    except TooLongError as exc:
        raise SpreadsheetError(name, exc.problem) from None
    answer = from_thread.run(_ask_reader, content, name, max_bytes)
    if answer.problem or not answer.sheets:
        raise SpreadsheetError(name, answer.problem or "there is nothing in its sheets.")
    return answer.sheets


async def _ask_reader(content: bytes, name: str, max_bytes: int) -> _Answer:
    command = [*_READER, str(max_bytes)]
    with anyio.move_on_after(MAX_SECONDS):
        done = await anyio.run_process(command, input=content, check=False)
        if done.returncode == 0:
            return _Answer.model_validate_json(done.stdout)
        words = done.stderr[-1000:].decode(errors="replace")
        log.debug("spreadsheet %s not read: %s", name, words)
    return _Answer(
        problem="to read it takes more time or memory than it may. Save what matters as CSV."
    )
