"""A trace in pages, each of which is a tree of its own."""

import json
from typing import Any

from concertmaster.errors import RequestError
from concertmaster.runs.trace import Span

TRACE_CHARS = 40_000
"""About how long a page of a trace is at most."""


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
        self._room = TRACE_CHARS

    def take(self, span: Span) -> dict[str, Any] | None:
        """Return the span with as many of its parts as are on the page; none if nothing is."""
        number, self.total = self.total, self.total + 1
        facts = self._facts(span, number)
        spans = [taken for part in span.spans if (taken := self.take(part)) is not None]
        if not facts and not spans:
            return None
        named = facts or {"name": span.name, "kind": span.kind, "status": span.status}
        return named | {"spans": spans}

    def _facts(self, span: Span, number: int) -> dict[str, Any]:
        if number < self._offset:
            return {}
        if self._room <= 0:
            self.end = number if self.end is None else self.end
            return {}
        facts = span.model_dump(mode="json", exclude={"spans"})
        self._room -= len(json.dumps(facts, ensure_ascii=False))
        return facts
