"""Long texts in pages, so that no reply is longer than clients can take."""

import bisect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from concertmaster.errors import RequestError

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A part of a longer text."""

    text: str
    start: int
    total: int
    """Characters of the whole text."""

    @property
    def next_offset(self) -> int | None:
        """Return where the next page begins; None if this is the last."""
        end = self.start + len(self.text)
        return end if end < self.total else None

    @property
    def whole(self) -> bool:
        """Tell whether nothing of the text is missing."""
        return len(self.text) == self.total


EMPTY_PAGE = Page(text="", start=0, total=0)


def page_of(text: str, *, offset: int, limit: int) -> Page:
    """Return at most `limit` characters of `text` from `offset`, cut where a reader would.

    Raises:
        RequestError: the text ends before `offset`.
    """
    if offset and offset >= len(text):
        raise RequestError(
            f"offset is {offset}, but the text has {len(text)} characters. "
            "Leave offset out to read it from its beginning."
        )
    part = text[offset : offset + limit]
    if offset + limit < len(text):
        part = part[: _boundary(part)]
    return Page(text=part, start=offset, total=len(text))


def _boundary(part: str) -> int:
    """Return where to cut `part`: after a paragraph, line, sentence or word near its end."""
    least = len(part) * 2 // 3
    for separator in ("\n\n", "\n", ". ", " "):
        if (found := part.rfind(separator, least)) != -1:
            return found + len(separator)
    return len(part)


def longest_page(
    text: str, *, offset: int, most: int, make: Callable[[Page], T], size: Callable[[T], int]
) -> T:
    """Return what `make` makes of the longest page with which its size is at most `most`."""

    def attempt(limit: int) -> T:
        return make(page_of(text, offset=offset, limit=limit))

    rest = len(text) - offset
    if rest <= most and size(whole := attempt(most)) <= most:
        return whole
    limits = range(1, min(rest, most))
    best = bisect.bisect_right(limits, most, key=lambda limit: size(attempt(limit)))
    return attempt(limits[max(best - 1, 0)])
