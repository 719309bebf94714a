"""Spreadsheets as inputs: a table of text for each sheet."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from concertmaster.errors import InputError, ToolCallError
from concertmaster.tools.files import ReadFile
from concertmaster.tools.inputs import InputLimits, read_inputs
from concertmaster.tools.python import Python
from concertmaster.tools.scope import ToolScope
from spreadsheets import DATE, archive, ods, ods_row, workbook, xlsx

pytestmark = pytest.mark.anyio

SALES = xlsx(Sales=[["shop", "sum"], ["North", 10.5], ["South", 3.0]], Staff=[["n"], ["Ann"]])
OLD = (Path(__file__).parent / "old.xls").read_bytes()


async def texts(folder: Path, *specs: str, limits: InputLimits | None = None) -> dict[str, str]:
    documents = await read_inputs(specs, roots=[folder], limits=limits or InputLimits())
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
    scope = ToolScope(inputs=await read_inputs(["sales.xlsx"], roots=[tmp_path]))
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


@pytest.mark.parametrize("content", [b"", b"n,m\n1,2\n", b"PK", SALES[:500], archive({"a": "b"})])
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
        await texts(tmp_path, ".", limits=limits)
    assert failure.value.name == "a.xlsx/Long.tsv"


async def test_sheets_count_as_files(tmp_path: Path) -> None:
    write(tmp_path, {"sales.xlsx": SALES})
    with pytest.raises(InputError, match="more than 1 files"):
        await texts(tmp_path, "sales.xlsx", limits=InputLimits(files=1))
