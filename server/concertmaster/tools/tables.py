"""Inputs that hold data, as plain values: CSV, TSV, JSON and JSON Lines."""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from io import StringIO
from itertools import zip_longest
from pathlib import PurePosixPath

from pydantic import JsonValue

from concertmaster.errors import InputError
from concertmaster.llm.protocol import Document

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
