"""Spreadsheets as inputs: a table of text for each sheet."""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest
from anyio import to_thread

from concertmaster.errors import InputError, ToolCallError
from concertmaster.tools.builtin.files import ReadFile
from concertmaster.tools.builtin.python import Python
from concertmaster.tools.inputs import InputLimits, read_inputs
from concertmaster.tools.scope import ToolScope
from concertmaster.tools.tabular import read_sheets
from spreadsheets import DATE, archive, ods, ods_row, workbook, xlsx

pytestmark = pytest.mark.anyio

SALES = xlsx(Sales=[["shop", "sum"], ["North", 10.5], ["South", 3.0]], Staff=[["n"], ["Ann"]])
OLD = (Path(__file__).parent / "old.xls").read_bytes()


async def texts(folder: Path, *specs: str, limits: InputLimits | None = None) -> dict[str, str]:
    documents = (await read_inputs(specs, roots=[folder], limits=limits or InputLimits())).documents
    return {document.name: document.text for document in documents}


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)


async def test_each_sheet_is_an_input_of_its_own(tmp_path: Path) -> None:
    write(tmp_path, {"sales.XLSX": SALES})
    assert await texts(tmp_path, "sales.XLSX", "*.XLSX") == {
        "sales.XLSX/Sales.tsv": "shop\tsum\nNorth\t10.5\nSouth\t3\n",
        "sales.XLSX/Staff.tsv": "n\nAnn\n",
    }


async def test_the_other_formats_are_read_too(tmp_path: Path) -> None:
    write(tmp_path, {"a.ods": ods(ods_row("n", "m") + ods_row("1", "x")), "b.xls": OLD})
    assert await texts(tmp_path, ".") == {
        "a.ods/Data.tsv": "n\tm\n1\tx\n",
        "b.xls/Old.tsv": "n\twhen\n1.5\tx\n",
    }


async def test_values_are_as_they_were_saved(tmp_path: Path) -> None:
    rows = (
        '<row r="3"><c r="B3" t="inlineStr"><is><t>n</t></is></c></row>'
        f'<row r="5"><c r="B5"{DATE}><v>45000</v></c><c r="C5"{DATE}><v>45000.5</v></c>'
        '<c r="D5" t="e"><v>#DIV/0!</v></c><c r="E5" t="b"><v>1</v></c>'
        '<c r="F5"><v>0.30000000000000004</v></c><c r="G5"><v>1E-7</v></c>'
        '<c r="H5" t="inlineStr"><is><t>a\tb</t></is></c></row>'
    )
    write(tmp_path, {"a.xlsx": workbook({"S": rows})})
    cells = ["2023-03-15", "2023-03-15 12:00:00", "", "TRUE", "0.3", "0.0000001", '"a\tb"']
    (text,) = (await texts(tmp_path, "a.xlsx")).values()
    assert text == "n" + "\t" * 6 + "\n" + "\t".join(cells) + "\n"


async def test_names_of_sheets_become_names_of_inputs(tmp_path: Path) -> None:
    row = '<row r="1"><c r="A1"><v>1</v></c></row>'
    write(tmp_path, {"a.xlsx": workbook({"a/b": row, "a\\b": row, "empty": ""})})
    assert list(await texts(tmp_path, "a.xlsx")) == ["a.xlsx/a_b.tsv", "a.xlsx/a_b_1.tsv"]


async def test_code_calculates_with_the_sheets(tmp_path: Path) -> None:
    write(tmp_path, {"sales.xlsx": SALES})
    scope = ToolScope(inputs=(await read_inputs(["sales.xlsx"], roots=[tmp_path])).documents)
    code = "sum(row['sum'] for row in tables['sales.xlsx/Sales.tsv'])"
    assert await Python().call({"code": code}, scope) == "13.5"


async def test_a_worker_reads_a_spreadsheet_that_it_finds(tmp_path: Path) -> None:
    write(tmp_path, {"sales.xlsx": SALES, "bad.xlsx": b"PK"})
    scope = ToolScope(roots=(tmp_path,))
    assert await ReadFile().call({"path": "sales.xlsx"}, scope) == (
        "## Sales\n\nshop\tsum\nNorth\t10.5\nSouth\t3\n\n## Staff\n\nn\nAnn\n"
    )
    with pytest.raises(ToolCallError, match="no spreadsheet that can be read"):
        await ReadFile().call({"path": "bad.xlsx"}, scope)


async def test_sheets_with_the_names_that_others_are_given_are_all_there(tmp_path: Path) -> None:
    sheets = [f'<row r="1"><c r="A1"><v>{number}</v></c></row>' for number in range(3)]
    names = ["S_2", "S", "S\x7f" + "x" * 200]
    write(tmp_path, {"a.xlsx": workbook(dict(zip(names, sheets, strict=True)))})
    assert await texts(tmp_path, "a.xlsx") == {
        "a.xlsx/S_2.tsv": "0\n",
        "a.xlsx/S.tsv": "1\n",
        f"a.xlsx/S_{'x' * 98}.tsv": "2\n",
    }
    write(tmp_path, {"b.xlsx": workbook(dict(zip(["a_b_2", "a/b", "a\\b"], sheets, strict=True)))})
    assert list((await texts(tmp_path, "b.xlsx")).values()) == ["0\n", "1\n", "2\n"]


async def test_a_text_with_a_zero_in_it_stays_a_text(tmp_path: Path) -> None:
    write(tmp_path, {"a.xlsx": xlsx(S=[["a_x0000_b"]])})
    assert await texts(tmp_path, "a.xlsx") == {"a.xlsx/S.tsv": "a\ufffdb\n"}


def damaged(content: bytes) -> bytes:
    """Return a spreadsheet one of whose parts cannot be unpacked any more."""
    at = content.index(b"xl/workbook.xml") + len(b"xl/workbook.xml")
    return content[:at] + b"\xff" * 8 + content[at + 8 :]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"n,m\n1,2\n",
        b"PK",
        SALES[:500],
        archive({"a": "b"}),
        damaged(SALES),
        # It makes calamine panic.
        OLD[:4245],
    ],
)
async def test_what_is_no_spreadsheet_is_refused_if_it_is_named(
    tmp_path: Path, content: bytes
) -> None:
    write(tmp_path, {"a.xlsx": content, "b.txt": b"b"})
    assert await texts(tmp_path, ".", "*") == {"b.txt": "b"}
    with pytest.raises(InputError, match="no spreadsheet that can be read"):
        await texts(tmp_path, "a.xlsx")


async def test_a_spreadsheet_without_rows_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"a.xlsx": xlsx(S=[])})
    with pytest.raises(InputError, match="nothing in its sheets"):
        await texts(tmp_path, "a.xlsx")


async def test_a_sheet_that_is_too_long_is_refused_by_its_name(tmp_path: Path) -> None:
    write(tmp_path, {"a.xlsx": xlsx(Short=[["n"]], Long=[["x" * 60]] * 20)})
    limits = InputLimits(file_bytes=1000)
    with pytest.raises(InputError, match=r"longer than 1,000 bytes") as failure:
        await texts(tmp_path, "a.xlsx", limits=limits)
    assert failure.value.name == "a.xlsx/Long.tsv"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (SALES + bytes(8_000_001), "Input 'in/a.xlsx': it is longer than 8,000,000 bytes."),
        (
            xlsx(**{f"s{number}": [["x"]] for number in range(51)}),
            "Input 'in/a.xlsx': it has more than 50 sheets.",
        ),
        (
            xlsx(Long=[["x" * 60]] * 20),
            "Input 'in/a.xlsx/Long.tsv': it is longer than 1,000 bytes.",
        ),
        (SALES[:500], "Input 'in/a.xlsx': it is no spreadsheet that can be read"),
    ],
    ids=["bytes", "sheets", "a sheet", "damaged"],
)
async def test_a_spreadsheet_that_is_not_read_is_left_out_of_a_folder_which_is_told(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write(folder, {"a.xlsx": content})
    limits = InputLimits(file_bytes=1000)
    for spec in ("in", "in/*", "in/a.xlsx"):
        with pytest.raises(InputError, match=re.escape(reason)):
            await texts(tmp_path, spec, limits=limits)
    write(folder, {"b.txt": b"b", "c.png": b"\0"})
    inputs = await read_inputs(["in", "in/*"], roots=[tmp_path], limits=limits)
    assert [document.name for document in inputs.documents] == ["in/b.txt"]
    (told,) = inputs.left_out
    assert told.startswith(reason)


async def test_of_a_row_that_a_few_bytes_stand_for_no_more_is_taken_than_tells_that_it_is_too_long(
    tmp_path: Path,
) -> None:
    cell = '<table:table-cell table:number-columns-repeated="2000" office:value-type="string">'
    row = f"<table:table-row>{cell}<text:p>{'x' * 5000}</text:p></table:table-cell>"
    write(tmp_path, {"a.ods": ods(f"{row}</table:table-row>")})
    sheets = await to_thread.run_sync(
        partial(read_sheets, tmp_path / "a.ods", "a", root=tmp_path, max_bytes=1000)
    )
    assert {name: len(text) for name, text in sheets.items()} == {"Data": 1001}


async def test_a_worker_is_not_given_a_part_of_a_sheet_for_the_whole(tmp_path: Path) -> None:
    write(tmp_path, {"a.xlsx": xlsx(Short=[["n"]], Long=[["x" * 60_000]] * 70)})
    with pytest.raises(ToolCallError, match=r"sheet Long.*longer than 4,000,000"):
        await ReadFile().call({"path": "a.xlsx"}, ToolScope(roots=(tmp_path,)))


async def test_sheets_count_as_files(tmp_path: Path) -> None:
    write(tmp_path, {"sales.xlsx": SALES})
    with pytest.raises(InputError, match="more than 1 files"):
        await texts(tmp_path, "sales.xlsx", limits=InputLimits(files=1))
