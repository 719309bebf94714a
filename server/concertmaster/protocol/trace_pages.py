"""A trace in pages, each of which is a tree of its own."""

import json
from itertools import chain
from typing import Any, cast

from concertmaster.errors import RequestError
from concertmaster.protocol.lines import one_line
from concertmaster.runs.trace import Span

TRACE_CHARS = 9_500
"""How long a page of a trace is at most: there are clients that cut what is over 10,000."""

_FRAME_CHARS = 1_500
"""What a page may need for where it goes on, and for the spans that hold what is on it."""

_TEXTS = (2_000, 400, 80, 20)
"""To how many characters the texts of a span are cut that does not fit on a page of its own."""


def trace_page(span: Span, *, uri: str, offset: int = 0) -> str:
    """Return the spans from number `offset` on, as many as fit, counted as they are listed.

    Spans before that are named where they hold some of the page. What comes next is said.

    Raises:
        RequestError: there are no spans from `offset` on.
    """
    page = _Page(offset)
    tree = page.take(span)
    if tree is None:
        raise RequestError(f"offset is {offset}, but the trace has {page.total} spans.")
    if page.end is not None:
        tree |= {"next_offset": page.end, "total": page.total, "next": f"{uri}?offset={page.end}"}
    return json.dumps(tree, ensure_ascii=False)


class _Page:
    def __init__(self, offset: int) -> None:
        self.total = 0
        self.end: int | None = None
        """The number of the first span that did not fit."""
        self._offset = offset
        self._room = TRACE_CHARS - _FRAME_CHARS
        self._empty = True

    def take(self, span: Span) -> dict[str, Any] | None:
        """Return the span with as many of its parts as are on the page; none if nothing is."""
        number, self.total = self.total, self.total + 1
        facts = self._facts(span, number)
        spans = [taken for part in span.spans if (taken := self.take(part)) is not None]
        if not facts and not spans:
            return None
        named = facts or {
            "name": one_line(span.name, 100),
            "kind": span.kind,
            "status": span.status,
        }
        return named | {"spans": spans}

    def _facts(self, span: Span, number: int) -> dict[str, Any]:
        if number < self._offset or self.end is not None:
            return {}
        facts = span.model_dump(mode="json", exclude={"spans"})
        if self._empty:
            facts = self._fitting(facts)
        size = _size(facts)
        if size > self._room and not self._empty:
            self.end = number
            return {}
        self._room -= size
        self._empty = False
        return facts

    def _fitting(self, facts: dict[str, Any]) -> dict[str, Any]:
        """Return the facts of a span, with its texts cut as far as a page of its own needs it."""
        shortened = (_cut(facts, text, items=text // 10) for text in _TEXTS)
        fits = (cut for cut in chain((facts,), shortened) if _size(cut) <= self._room)
        return next(fits, facts | {"attributes": {"left_out": "too long for a page"}})


def _size(facts: dict[str, Any]) -> int:
    """Return how long a span is on a page, with what surrounds it there."""
    return len(json.dumps(facts | {"spans": []}, ensure_ascii=False)) + len(", ")


def _cut(value: Any, text: int, *, items: int) -> Any:
    """Return a JSON value whose texts have at most `text` characters, its lists so many items."""
    match value:
        case str():
            return one_line(value, text) if len(value) > text else value
        case list():
            kept = cast("list[Any]", value)
            more = [f"… and {len(kept) - items} more."] if len(kept) > items else []
            return [*(_cut(item, text, items=items) for item in kept[:items]), *more]
        case dict():
            facts = cast("dict[str, Any]", value)
            return {name: _cut(item, text, items=items) for name, item in facts.items()}
        case _:
            return value
