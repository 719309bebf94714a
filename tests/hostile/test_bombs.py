"""Attempts to use up time or memory with something small."""

import gzip
import io
import re
import tarfile
import zipfile
import zlib
from collections.abc import AsyncGenerator
from pathlib import Path

import anyio
import httpx2
import pytest

from arxiv_endpoint import arxiv_endpoint
from concertmaster.errors import InputError
from concertmaster.llm.messages import Document
from concertmaster.tools.builtin.files import ListFiles, ReadFile, SearchFiles
from concertmaster.tools.builtin.public_http import MAX_BYTES
from concertmaster.tools.builtin.python import MAX_PRINTED_BYTES, Python
from concertmaster.tools.inputs import read_inputs
from concertmaster.tools.roots import Roots
from concertmaster.tools.scope import ToolScope
from hostile_world import SECRET, Trap, World, outcome
from spreadsheets import ods, ods_row, workbook, xlsx
from web import page

pytestmark = pytest.mark.anyio

SECONDS = 30


async def endless(packing: str) -> AsyncGenerator[bytes]:
    """Yield a page that has no end, packed."""
    wbits = {"gzip": 31, "deflate": 15, "identity": 0}[packing]
    pack = zlib.compressobj(wbits=wbits) if wbits else None
    zeros = b"0" * 1_000_000
    while True:
        await anyio.lowlevel.checkpoint()
        yield pack.compress(zeros) if pack else zeros


class Endless(httpx2.AsyncByteStream):
    def __init__(self, packing: str) -> None:
        self._packing = packing

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        async for chunk in endless(self._packing):
            yield chunk


@pytest.mark.parametrize("media_type", ["text/plain", "application/json"])
@pytest.mark.parametrize("packing", ["identity", "gzip", "deflate"])
async def test_a_page_without_end_ends(packing: str, media_type: str) -> None:
    headers = {"content-type": media_type, "content-encoding": packing}
    trap = Trap(lambda _: httpx2.Response(200, headers=headers, stream=Endless(packing)))
    with anyio.fail_after(SECONDS):
        text = await trap.fetch("http://site.example/")
    assert len(text) < MAX_BYTES + 200


PACKINGS = ["gzip, gzip", "gzip,gzip,gzip", "deflate, gzip", "br", "zstd", "x"]


@pytest.mark.parametrize("packing", PACKINGS)
async def test_a_page_in_several_layers_is_not_unpacked(packing: str) -> None:
    layers = gzip.compress(gzip.compress(gzip.compress(SECRET.encode())))
    headers = {"content-type": "text/plain", "content-encoding": packing}
    trap = Trap(lambda _: httpx2.Response(200, headers=headers, stream=httpx2.ByteStream(layers)))
    assert "packed in a way that is refused" in await trap.fetch("http://site.example/")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_without_end_end(status: int) -> None:
    trap = Trap(
        lambda request: httpx2.Response(status, headers={"location": f"{request.url.path}x"})
    )
    assert "leads on more than 5 times" in await trap.fetch("http://site.example/")
    assert len(trap.connected) == 6


HTML = {
    "deep": b"<div>" * 100_000,
    "deep and closed": b"<b>" * 20_000 + b"x" + b"</b>" * 20_000,
    "tables": b"<table><tr><td>" * 5_000,
    "links": b"<a href=/x>" * 50_000,
    "attributes": b"<p " + b"a=b " * 100_000 + b">x",
    "entities": b"<!DOCTYPE x [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;'>]><p>&b;&b;",
    "comments": b"<!--" * 100_000,
    "zeros": b"\0" * 1_000_000,
    "one word": b"<p>" + b"a" * 1_000_000,
}


@pytest.mark.parametrize("content", HTML.values(), ids=HTML)
async def test_no_page_keeps_its_reader_busy(content: bytes) -> None:
    with anyio.fail_after(SECONDS):
        text = await Trap(page(content, "text/html")).fetch("http://site.example/")
    assert len(text) < 2 * MAX_BYTES


ENTITIES = "".join(f"<!ENTITY e{n} '{f'&e{n - 1};' * 10}'>" for n in range(1, 12))
XML = {
    "external entity": "<!DOCTYPE feed [<!ENTITY x SYSTEM 'file://{base}/secret.txt'>]>",
    "external subset": "<!DOCTYPE feed SYSTEM 'file://{base}/secret.txt'>",
    "parameter entity": "<!DOCTYPE feed [<!ENTITY % x SYSTEM 'file://{base}/secret.txt'> %x;]>",
    "many laughs": f"<!DOCTYPE feed [<!ENTITY e0 'ha'>{ENTITIES}<!ENTITY x '&e11;'>]>",
}
FEED = """{head}<feed xmlns="http://www.w3.org/2005/Atom"><entry><id>http://arxiv.org/abs/1</id>
<title>&x;</title><summary>&x;</summary><published>2020-01-01T00:00:00Z</published>
<updated>2020-01-01T00:00:00Z</updated></entry></feed>"""


@pytest.mark.parametrize("head", XML.values(), ids=XML)
async def test_no_feed_reads_a_file_or_grows(world: World, head: str) -> None:
    with arxiv_endpoint(FEED.format(head=world.spell(head)).encode()) as (tool, _):
        with anyio.fail_after(SECONDS):
            text = await outcome(tool, {"query": "x"}, ToolScope())
    assert SECRET not in text
    assert len(text) < 10_000


PATTERNS = [
    "(a+)+$",
    "(a*)*$",
    "(a|aa)+$",
    "(a|a?)+$",
    "(.*a){20}$",
    "([a-zA-Z]+)*$",
    "(a?){50}a{50}$",
    "^(([a-z])+.)+[A-Z]([a-z])+$",
    "(x+x+)+y",
    ".*.*.*.*.*=.*",
    "(?:a|b|ab)*c",
    "(?i)(A+)+b",
]


@pytest.mark.parametrize("pattern", PATTERNS)
async def test_no_pattern_takes_long(pattern: str) -> None:
    scope = ToolScope(inputs=(Document(name="a", text="a" * 20_000 + "!"),))
    with anyio.fail_after(SECONDS):
        await outcome(SearchFiles(), {"pattern": pattern}, scope)


GLOBS = [
    "*a" * 60 + "b",
    "**/" * 200 + "b",
    "**/*a" * 60 + "b",
    "[!b]*" * 60 + "b",
    "?*" * 60 + "b",
]


@pytest.mark.parametrize("pattern", GLOBS, ids=range(len(GLOBS)))
async def test_no_pattern_of_names_takes_long(tmp_path: Path, pattern: str) -> None:
    folder = tmp_path.joinpath(*["a" * 100] * 8)
    folder.mkdir(parents=True)
    (folder / ("a" * 200)).write_text("")
    with anyio.fail_after(SECONDS):
        reply = await outcome(ListFiles(), {"pattern": pattern}, ToolScope(roots=(tmp_path,)))
    assert "Nothing that may be read" in reply


@pytest.mark.parametrize("rule", GLOBS, ids=range(len(GLOBS)))
def test_no_rule_of_git_takes_long(tmp_path: Path, rule: str) -> None:
    folder = tmp_path.joinpath(*["a" * 100] * 8)
    folder.mkdir(parents=True)
    (folder / ("a" * 200)).write_text("")
    (tmp_path / ".gitignore").write_text(rule)
    assert len(list(Roots([tmp_path]).files())) == 1


CODE = [
    "while True: pass",
    "def f(): f()\nf()",
    "f = lambda: f()\nf()",
    "x = 'a' * 10 ** 12",
    "x = [0] * 10 ** 12",
    "x = 10 ** 10 ** 10",
    "x = 1 << 10 ** 12",
    "x = []\nwhile True: x.append('a' * 10 ** 6)",
    "x = 'a'\nwhile True: x += x",
    "x = {}\nwhile True: x[len(x)] = 'a' * 10 ** 6",
    "while True: print('a' * 1000)",
    "print('a' * 10 ** 9)",
    "print(list(range(10 ** 9)))",
    "sorted(range(10 ** 10))",
    "x = [[]]\nfor _ in range(40): x = [x, x]\nprint(x)",
    "import re\nre.match('(a+)+$', 'a' * 40 + 'b')\nwhile True: pass",
    "import json\nprint(len(json.dumps('a' * 10 ** 10)))",
    "sum(1 for a in range(10 ** 6) for b in range(10 ** 6))",
]


@pytest.mark.parametrize("code", CODE)
async def test_no_code_gets_more_than_its_share(code: str) -> None:
    with anyio.fail_after(SECONDS):
        reply = await outcome(Python(seconds=0.5), {"code": code}, ToolScope())
    assert re.search("Error|gave up", reply)
    assert len(reply) < MAX_PRINTED_BYTES + 5_000


DATA = {
    "a.json": "[" * 200_000,
    "b.json": '{"a":' * 200_000,
    "c.json": "9" * 100_000,
    "d.csv": "a," * 100_000,
    "e.csv": "a\n" + "x" * 500_000,
    "f.csv": 'a\n"' + "x,\n" * 200_000,
    "g.jsonl": "[" * 200_000,
}


@pytest.mark.parametrize(("name", "text"), DATA.items(), ids=DATA)
async def test_data_that_cannot_be_read_does_no_harm(name: str, text: str) -> None:
    scope = ToolScope(inputs=(Document(name=name, text=text),))
    with anyio.fail_after(SECONDS):
        assert "1" in await outcome(Python(), {"code": "print(len(texts))"}, scope)


def packed(kind: str) -> bytes:
    """Return an archive of the secret, with a name that leads out of its folder."""
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("../../secret.txt", SECRET)
    elif kind == "tar":
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            member = tarfile.TarInfo("../../secret.txt")
            member.size = len(SECRET)
            archive.addfile(member, io.BytesIO(SECRET.encode()))
    else:
        buffer.write(gzip.compress(SECRET.encode()))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["zip", "tar", "gz"])
async def test_no_archive_is_unpacked(world: World, kind: str) -> None:
    (world.root / f"deep/a.{kind}").write_bytes(packed(kind))
    reply = await outcome(ReadFile(), {"path": f"deep/a.{kind}"}, world.scope)
    assert "it is no UTF-8 text" in reply
    with pytest.raises(InputError, match="no UTF-8 text"):
        await read_inputs([f"deep/a.{kind}"], roots=[world.root])


ONE = '<row r="1"><c r="A1" t="inlineStr"><is><t>{}</t></is></c></row>'
SPREADSHEETS = {
    "two cells far apart": workbook(
        {"S": ONE + '<row r="1048576"><c r="XFD1048576"><v>1</v></c></row>'}
    ),
    "nothing, packed": workbook({"S": " " * 100_000_000}),
    "one cell, packed": workbook({"S": ONE.format("x" * 60_000_000)}),
    "rows said to be there": ods(ods_row("a", repeated=1_048_576)),
    "cells said to be there": ods(ods_row(*["a" * 1000] * 100, repeated=1_048_576)),
    "sheets": xlsx(**{f"s{number}": [["x"]] for number in range(5_000)}),
}


@pytest.mark.parametrize("content", SPREADSHEETS.values(), ids=SPREADSHEETS)
async def test_no_spreadsheet_takes_long_or_ends_the_process(world: World, content: bytes) -> None:
    (world.root / "a.xlsx").write_bytes(content)
    with anyio.fail_after(SECONDS), pytest.raises(InputError):
        await read_inputs(["a.xlsx"], roots=[world.root])


@pytest.mark.parametrize("head", XML.values(), ids=XML)
async def test_no_spreadsheet_reads_a_file_or_grows(world: World, head: str) -> None:
    head = world.spell(head).replace("DOCTYPE feed", "DOCTYPE worksheet")
    (world.root / "a.xlsx").write_bytes(workbook({"S": ONE.format("&x;")}, head=head))
    with anyio.fail_after(SECONDS), pytest.raises(InputError, match="unrecognized entity"):
        await read_inputs(["a.xlsx"], roots=[world.root])
