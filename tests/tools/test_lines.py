"""What becomes of the lines that a server writes."""

import codecs

import pytest
from mcp.shared.message import SessionMessage
from mcp.types import jsonrpc_message_adapter

from concertmaster.tools.mcp import connection as lines
from concertmaster.tools.mcp.connection import ENCODING, is_cut

CUT = '\n{"jsonrpc": "2.0", "method": "concertmaster/line-too-long"}\n'


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LINE_CHARS", 4)


@pytest.mark.parametrize(
    ("chunks", "texts"),
    [
        ([b"abcd", b"\nab", b"cd\n"], ["abcd", "\nab", "cd\n"]),
        ([b"a\nb\nc\nd\nabcd"], ["a\nb\nc\nd\nabcd"]),
        ([b"\xc3", b"\xa4\n", b"\xff\n"], ["", "ä\n", "\ufffd\n"]),
        ([b"\xe2\x80\xa8" * 4], ["\u2028" * 4]),
        ([b"ab", b"cde", b"f\n", b"g\n"], ["ab", CUT, "", ""]),
        ([b"a\nbcdef", b"\n"], [CUT, ""]),
    ],
)
def test_text_passes_until_a_line_is_too_long(chunks: list[bytes], texts: list[str]) -> None:
    decoder = codecs.getincrementaldecoder(ENCODING)("strict")
    assert [decoder.decode(chunk) for chunk in chunks] == texts


def test_the_message_that_a_line_was_cut_is_known() -> None:
    for text, known in [(CUT, True), ('{"jsonrpc": "2.0", "method": "other"}', False)]:
        message = SessionMessage(jsonrpc_message_adapter.validate_json(text))
        assert is_cut(message) == known
    assert not is_cut(ValueError("no JSON"))
