"""Inputs that hold data, as plain values: CSV, TSV, JSON and JSON Lines."""

import csv
import json
import logging
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import StringIO
from itertools import zip_longest
from pathlib import Path, PurePosixPath

import anyio
from anyio import from_thread
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from concertmaster.errors import InputError
from concertmaster.llm.messages import Document
from concertmaster.llm.usage import Text
from concertmaster.tools.roots import NotTextError, TooLongError, read_bytes

MAX_COLUMNS = 1_000

_DELIMITERS = ",;\t|"
# A number that is written in one way only: what begins with 0 or + is a code, not a size.
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,30})?")


def is_data(name: str) -> bool:
    """Tell by its name whether an input holds data."""
    return _kind(name) in (".csv", ".tsv", ".json", ".jsonl")


def _kind(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def read_data(document: Document) -> JsonValue:
    """Return the data of an input: a list with an object for each row, or what JSON holds.

    Cells that are plain numbers are numbers.

    Raises:
        InputError: it is not what its name says.
    """
    try:
        match _kind(document.name):
            case ".json":
                return json.loads(document.text)
            case ".jsonl":
                return [json.loads(line) for line in document.text.splitlines() if line.strip()]
            case kind:
                return list(_rows(document.text, "\t" if kind == ".tsv" else None))
    except (ValueError, RecursionError, csv.Error) as exc:
        raise InputError(document.name, f"it cannot be read as data: {exc}.") from None


def _rows(text: str, delimiter: str | None) -> Iterator[dict[str, JsonValue]]:
    first = text.partition("\n")[0]
    lines = csv.reader(StringIO(text), delimiter=delimiter or max(_DELIMITERS, key=first.count))
    header = _columns(next(lines, ()))
    for cells in lines:
        if cells:
            yield _row(header, cells)


def _columns(cells: Sequence[str]) -> list[str]:
    """Return a name for each column that no other has."""
    if len(cells) > MAX_COLUMNS:
        raise ValueError(f"it has more than {MAX_COLUMNS} columns")
    names: dict[str, None] = {}
    for number, cell in enumerate(cells, start=1):
        name = cell.strip() or f"column_{number}"
        names[f"{name}_{number}" if name in names else name] = None
    return list(names)


def _row(header: Iterable[str], cells: Sequence[str]) -> dict[str, JsonValue]:
    row: dict[str, JsonValue] = {}
    pairs = zip_longest(header, cells)
    for number, (name, cell) in enumerate(pairs, start=1):
        row[name or f"column_{number}"] = None if cell is None else _value(cell.strip())
    return row


def _value(cell: str) -> JsonValue:
    if _NUMBER.fullmatch(cell) is None:
        return cell
    return float(cell) if "." in cell else int(cell)


log = logging.getLogger(__name__)

MAX_BYTES = 8_000_000
"""The longest spreadsheet that is read."""

MAX_SECONDS = 30
"""How long reading one may take."""

_SUFFIXES = frozenset({".xlsx", ".xlsm", ".xlsb", ".xls", ".ods"})
_READER = (sys.executable, "-I", "-m", "concertmaster.tools.spreadsheet_process")


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
