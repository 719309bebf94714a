"""Who a sentence is about."""

import re
from collections.abc import Sequence

from concertmaster.llm.offline.passages import Reading

_DEFINED = re.compile(
    r"\(\s*(?:the|each an?|together,? the)?\s*[\"“]([^\"”]{2,40})[\"”]\s*\)", re.IGNORECASE
)
_SHARED = ("either party", "each party", "neither party", "both parties", "the parties")
_NOT_PARTIES = re.compile(
    r"agreement|contract|date|services?$|terms?$|fees?$|period", re.IGNORECASE
)
_BOUNDARY = re.compile(r"[,;:]|\b(?:if|and|but|where|that|which|unless|when|then)\b", re.IGNORECASE)

SUBJECT_WORDS = 6


def parties(reading: Reading) -> tuple[str, ...]:
    """Return the names that a document gives its parties, such as `Supplier`."""
    names = [
        name
        for sentence in reading.sentences
        for name in _DEFINED.findall(sentence.text)
        if not _NOT_PARTIES.search(name)
    ]
    return tuple(dict.fromkeys(names))


def subject(text: str, end: int, names: Sequence[str]) -> str:
    """Return who the words before `end` speak of: the party named last, or the last few words."""
    before = text[:end]
    mentioned = [
        (found.start(), name)
        for name in (*names, *_SHARED)
        for found in re.finditer(rf"\b{re.escape(name)}\b", before, re.IGNORECASE)
    ]
    if mentioned:
        return max(mentioned)[1].capitalize()
    clause = _BOUNDARY.split(before)[-1].split() or before.split()
    return " ".join(clause[-SUBJECT_WORDS:]).strip("“”\"'(),").capitalize() or "Somebody"


def concerned(text: str, names: Sequence[str]) -> list[str]:
    """Return the parties that a sentence mentions."""
    return [
        name
        for name in (*names, *_SHARED)
        if re.search(rf"\b{re.escape(name)}\b", text, re.IGNORECASE)
    ]
