"""A bound on the lines that a server which is a process writes.

The SDK keeps what such a server writes until the line ends, however long that takes, and is
told in which encoding it is. So the bound is an encoding: UTF-8 in which a line that gets too
long is cut, and followed by a message that says so. What is no UTF-8 becomes `�`: after an
error, the SDK would read on for nobody.
"""

import codecs
import json
from typing import TYPE_CHECKING

from mcp.shared.message import SessionMessage
from mcp.types import JSONRPCNotification

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

ENCODING = "utf_8_in_bounded_lines"

LINE_CHARS = 20_000_000
"""The longest line."""

_TOO_LONG = "concertmaster/line-too-long"


def is_cut(message: SessionMessage | Exception) -> bool:
    """Tell whether a message says that a line was too long, and that nothing follows it."""
    match message:
        case SessionMessage(message=JSONRPCNotification(method=method)):
            return method == _TOO_LONG
        case _:
            return False


class _Decoder(codecs.IncrementalDecoder):
    def __init__(self, errors: str = "strict") -> None:
        super().__init__(errors)
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._chars = 0
        """The length of the line that has not ended yet."""

    def decode(self, input: "ReadableBuffer", final: bool = False) -> str:  # noqa: A002 (codecs calls it so)
        """Return the text, until a line is too long."""
        if self._chars > LINE_CHARS:
            return ""
        text = self._utf8.decode(input, final)
        _, ended, line = text.rpartition("\n")
        self._chars = len(line) if ended else self._chars + len(line)
        if self._chars <= LINE_CHARS:
            return text
        return "\n{}\n".format(json.dumps({"jsonrpc": "2.0", "method": _TOO_LONG}))


def _find(name: str) -> codecs.CodecInfo | None:
    if name != ENCODING:
        return None
    utf_8 = codecs.lookup("utf-8")
    return codecs.CodecInfo(utf_8.encode, utf_8.decode, incrementaldecoder=_Decoder, name=name)


codecs.register(_find)
