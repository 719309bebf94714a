"""How a document is built, and where that is broken."""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator

from concertmaster.llm.offline.findings import Finding
from concertmaster.llm.offline.passages import Heading, Reading
from concertmaster.llm.offline.quotes import group, quotation, section

_REFERENCE = re.compile(
    r"\b(?:clauses?|sections?|articles?|§§?)\s*(\d+(?:\.\d+)*(?:(?:,\s*|\s*,?\s*(?:and|or)\s+)"
    r"\d+(?:\.\d+)*)*)(?!\s+of\s+(?!this\b|the (?:agreement|contract)\b))",
    re.IGNORECASE,
)
_GAP = re.compile(
    r"_{4,}|\[(?:date|name|amount|address|tbd|tba|to be [^\]]*|insert[^\]]*|\.{3}|…|●|•|x+)\]"
    r"|\bTBD\b|\bto be (?:agreed|determined|confirmed|defined)\b",
    re.IGNORECASE,
)


def extract(reading: Reading) -> str:
    """Return the outline of a document, and its broken references, gaps and doubled headings."""
    size = (
        f"{reading.lines} lines, {reading.words} words, {len(reading.headings)} headings, "
        f"{len(reading.numbers)} numbered sections and clauses, {reading.tables} tables."
    )
    faults = [*_broken_references(reading), *_gaps(reading), *_doubled(reading)]
    return section(
        "Structure",
        reading.name,
        size,
        group("Outline", _outline(reading)),
        "\n".join(str(fault) for fault in faults),
    )


def _outline(reading: Reading) -> list[str]:
    sizes: Counter[int] = Counter()
    lines = [heading.line for heading in reading.headings]
    for sentence in reading.sentences:
        above = bisect_right(lines, sentence.place.line)
        sizes[lines[above - 1] if above else 0] += len(sentence.text.split())
    return [
        f"{'  ' * (heading.level - 1)}- {heading.text} (line {heading.line}, "
        f"{sizes[heading.line]} words)"
        for heading in reading.headings
    ]


def _broken_references(reading: Reading) -> Iterator[Finding]:
    if not reading.numbers:
        return
    for sentence in reading.sentences:
        for found in _REFERENCE.finditer(sentence.text):
            for number in re.findall(r"\d+(?:\.\d+)*", found[1]):
                if number not in reading.numbers:
                    yield Finding(
                        severity="medium",
                        file=reading.name,
                        line=sentence.place.line,
                        what=f"Refers to {number}, which there is not: {quotation(sentence)}",
                        fix="find out what was meant; it may be a leftover of an older version.",
                    )


def _gaps(reading: Reading) -> Iterator[Finding]:
    for sentence in reading.sentences:
        if found := _GAP.search(sentence.text):
            yield Finding(
                severity="low",
                file=reading.name,
                line=sentence.place.line,
                what=f"Left open: {quotation(sentence, found.start())}",
                fix="fill it in before anybody relies on the document.",
            )


def _doubled(reading: Reading) -> Iterator[Finding]:
    first: dict[str, Heading] = {}
    for heading in reading.headings:
        known = first.setdefault(heading.text.casefold(), heading)
        if known is not heading:
            yield Finding(
                severity="low",
                file=reading.name,
                line=heading.line,
                what=f"The heading “{heading.text}” is also in line {known.line}",
                fix="rename one of them, or merge the sections.",
            )
