"""The program that reads one spreadsheet: from stdin, each sheet as text to stdout, as JSON.

It is a process of its own because what is damaged, or made to do damage, can end it: a sheet
with two cells far apart makes calamine ask for more memory than there is, which ends the
process that asks.
"""

import csv
import json
import sys
import zlib
from collections.abc import Container, Iterator, Sequence
from contextlib import suppress
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from io import BytesIO, StringIO
from zipfile import BadZipFile, ZipFile

from python_calamine import CalamineError, CalamineWorkbook, PasswordError, SheetTypeEnum

MAX_MEMORY_BYTES = 1 << 30
MAX_SECONDS = 20
"""How much of a processor it may use."""
MAX_UNPACKED_BYTES = 64 << 20
"""How long a spreadsheet may be unpacked, without what is no part of its tables."""
MAX_SHEETS = 50

Cell = int | float | str | bool | time | date | datetime | timedelta

_PARTS = (".xml", ".rels", ".bin", "mimetype")
_NAME_CHARS = 100
_NO_PART_NAME = str.maketrans({"/": "_", "\\": "_", **dict.fromkeys((*range(32), 127), "_")})
_DAMAGED = (
    CalamineError,
    BadZipFile,
    zlib.error,
    EOFError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)


class _Refusal(Exception):  # noqa: N818 (it is the answer)
    """Why there are no tables, as a sentence."""


def main() -> None:
    """Read a spreadsheet; of a sheet that is longer than an argument says, only a part."""
    _limit()
    answer: dict[str, object]
    try:
        answer = {"sheets": _sheets(sys.stdin.buffer.read(), most=int(sys.argv[1]))}
    except _Refusal as exc:
        answer = {"problem": str(exc)}
    except PasswordError:
        answer = {"problem": "it has a password. Save it without one."}
    except _DAMAGED as exc:
        answer = {"problem": f"it is no spreadsheet that can be read: {exc}."}
    except BaseException as exc:
        # What calamine's Rust panics with has no other name to catch it by.
        if type(exc).__name__ != "PanicException":
            raise
        answer = {"problem": "it is no spreadsheet that can be read: it is damaged."}
    sys.stdout.write(json.dumps(answer))


def _limit() -> None:
    if sys.platform != "win32":
        import resource  # noqa: PLC0415

        limits = {
            resource.RLIMIT_CORE: 0,
            resource.RLIMIT_CPU: MAX_SECONDS,
            resource.RLIMIT_AS: MAX_MEMORY_BYTES,
        }
        for kind, most in limits.items():
            # Not every system knows each of them, and it may have a lower one already.
            with suppress(OSError, ValueError):
                resource.setrlimit(kind, (most, most))


def _sheets(content: bytes, *, most: int) -> dict[str, str]:
    """Return the text of each sheet that has any, by its name."""
    sheets: dict[str, str] = {}
    file = _unpacked(content) if content.startswith(b"PK") else BytesIO(content)
    with CalamineWorkbook.from_filelike(file) as workbook:
        if len(workbook.sheets_metadata) > MAX_SHEETS:
            raise _Refusal(f"it has more than {MAX_SHEETS} sheets. Save those that matter.")
        for number, sheet in enumerate(workbook.sheets_metadata):
            if sheet.typ is SheetTypeEnum.WorkSheet:
                rows = workbook.get_sheet_by_index(number).iter_rows()
                if text := _text(rows, most=most):
                    sheets[_part_name(sheet.name, number, sheets)] = text
    return sheets


def _part_name(name: str, number: int, taken: Container[str]) -> str:
    """Return what a sheet is called that no other is."""
    name = name[:_NAME_CHARS].translate(_NO_PART_NAME)
    while name in taken:
        name = f"{name}_{number}"
    return name


def _unpacked(content: bytes) -> BytesIO:
    """Return the parts that tables are in, unpacked, so that their lengths are what they say."""
    left = MAX_UNPACKED_BYTES
    plain = BytesIO()
    with ZipFile(BytesIO(content)) as packed, ZipFile(plain, "w") as unpacked:
        for part in packed.infolist():
            if not part.filename.endswith(_PARTS):
                continue
            left -= part.file_size
            if left < 0:
                raise _Refusal(
                    f"unpacked, it is longer than {MAX_UNPACKED_BYTES:,} bytes. Save what matters."
                )
            unpacked.writestr(part.filename, packed.read(part))
    plain.seek(0)
    return plain


def _text(rows: Iterator[Sequence[Cell]], *, most: int) -> str:
    """Return the rows that are not empty as tab-separated values, until there are too many."""
    text = StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    for row in rows:
        cells = [_cell(cell) for cell in row]
        if any(cells):
            writer.writerow(cells)
        if text.tell() > most:
            break
    # A few bytes can stand for a row that is longer than all else.
    return text.getvalue()[: most + 1]


def _cell(cell: Cell) -> str:
    if isinstance(cell, bool):
        return str(cell).upper()
    if isinstance(cell, float):
        # As spreadsheets show them: of 15 digits, and never with an exponent.
        return f"{Decimal(format(cell, '.15g')).normalize():f}"
    if isinstance(cell, datetime):
        return cell.isoformat(" ")
    # A text with a zero in it would be taken for a binary one further on.
    return cell.isoformat() if isinstance(cell, date | time) else str(cell).replace("\0", "\ufffd")


if __name__ == "__main__":
    main()
