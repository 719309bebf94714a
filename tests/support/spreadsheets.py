"""Spreadsheets, written by hand so that they can hold what no program would write."""

import io
import zipfile
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape, quoteattr

Cell = str | float | bool | None

_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_RELATIONS = "http://schemas.openxmlformats.org/package/2006/relationships"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_TYPES = """<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">
<Default Extension="xml" ContentType="application/xml"/></Types>"""
_STYLES = f"""<styleSheet xmlns="{_MAIN}"><cellXfs count="2"><xf numFmtId="0"/>
<xf numFmtId="14" applyNumberFormat="1"/></cellXfs></styleSheet>"""

DATE = ' s="1"'
"""The style of a cell that holds a date."""


def archive(parts: Mapping[str, str | bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in parts.items():
            packed.writestr(name, content)
    return file.getvalue()


def workbook(sheets: Mapping[str, str], *, head: str = "") -> bytes:
    """Return an .xlsx file of sheets whose rows are given as XML."""
    numbered = list(enumerate(sheets.items(), start=1))
    listed = "".join(
        f'<sheet name={quoteattr(name)} sheetId="{number}" r:id="s{number}"/>'
        for number, (name, _) in numbered
    )
    relations = "".join(
        f'<Relationship Id="s{number}" Type="{_OFFICE}/worksheet" '
        f'Target="worksheets/sheet{number}.xml"/>'
        for number, _ in numbered
    )
    styles = f'<Relationship Id="styles" Type="{_OFFICE}/styles" Target="styles.xml"/>'
    root = f'<Relationship Id="w" Type="{_OFFICE}/officeDocument" Target="xl/workbook.xml"/>'
    return archive(
        {
            "[Content_Types].xml": _TYPES,
            "_rels/.rels": f'<Relationships xmlns="{_RELATIONS}">{root}</Relationships>',
            "xl/workbook.xml": f'<workbook xmlns="{_MAIN}" xmlns:r="{_OFFICE}">'
            f"<sheets>{listed}</sheets></workbook>",
            "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{_RELATIONS}">'
            f"{relations}{styles}</Relationships>",
            "xl/styles.xml": _STYLES,
        }
        | {
            f"xl/worksheets/sheet{number}.xml": f'{head}<worksheet xmlns="{_MAIN}">'
            f"<sheetData>{rows}</sheetData></worksheet>"
            for number, (_, rows) in numbered
        }
    )


def xlsx(**sheets: Sequence[Sequence[Cell]]) -> bytes:
    """Return an .xlsx file of sheets by name."""
    return workbook(
        {
            name: "".join(
                f'<row r="{number}">{"".join(map(_xlsx_cell, row))}</row>'
                for number, row in enumerate(rows, start=1)
            )
            for name, rows in sheets.items()
        }
    )


def _xlsx_cell(cell: Cell) -> str:
    match cell:
        case None:
            return "<c/>"
        case bool():
            return f'<c t="b"><v>{cell:d}</v></c>'
        case str():
            return f'<c t="inlineStr"><is><t>{escape(cell)}</t></is></c>'
        case _:
            return f"<c><v>{cell}</v></c>"


def ods(rows: str) -> bytes:
    """Return an .ods file of one sheet, `Data`, whose rows are given as XML."""
    space = "urn:oasis:names:tc:opendocument:xmlns"
    names = {"office": "office", "table": "table", "text": "text"}
    spaces = " ".join(f'xmlns:{name}="{space}:{part}:1.0"' for name, part in names.items())
    return archive(
        {
            "mimetype": "application/vnd.oasis.opendocument.spreadsheet",
            "META-INF/manifest.xml": f'<m:manifest xmlns:m="{space}:manifest:1.0"/>',
            "content.xml": f"<office:document-content {spaces}><office:body><office:spreadsheet>"
            f'<table:table table:name="Data">{rows}</table:table>'
            "</office:spreadsheet></office:body></office:document-content>",
        }
    )


def ods_row(*cells: str, repeated: int = 1) -> str:
    return (
        f'<table:table-row table:number-rows-repeated="{repeated}">'
        + "".join(
            f'<table:table-cell office:value-type="string"><text:p>{escape(cell)}</text:p>'
            "</table:table-cell>"
            for cell in cells
        )
        + "</table:table-row>"
    )
