"""Amounts, percentages, quantities, dates, deadlines and definitions of a document."""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from concertmaster.llm.offline.passages import Reading, Sentence
from concertmaster.llm.offline.quotes import group, quoted, section
from concertmaster.llm.offline.summary import STOP_WORDS

VALUE_CHARS = 120
"""How much of a sentence is quoted around a value."""

_MONTH = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|"
    r"Sept?(?:ember)?|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)\.?"
)
_NUMBER = r"(?<![\d.,])\d{1,15}(?:[.,]\d{1,9}){0,9}"
_SCALE = r"(?:\s?(?:thousand|million|billion|bn|m|k)\b)?"
_CURRENCY = r"(?:EUR|USD|GBP|CHF|JPY|CAD|AUD|€|\$|£|¥)"
_UNIT = r"(?:minutes?|hours?|days?|weeks?|months?|quarters?|years?)"

_DATE = re.compile(
    rf"\b(?:\d{{4}}-\d{{2}}-\d{{2}}|\d{{1,2}}(?:st|nd|rd|th)?\s+(?:of\s+)?{_MONTH},?\s+\d{{4}}"
    rf"|{_MONTH}\s+\d{{1,2}}(?:st|nd|rd|th)?,?\s+\d{{4}}|\d{{1,2}}[./]\d{{1,2}}[./]\d{{4}}"
    rf"|{_MONTH}\s+\d{{4}})\b"
)
_AMOUNT = re.compile(
    rf"{_CURRENCY}\s?{_NUMBER}{_SCALE}"
    rf"|\b{_NUMBER}{_SCALE}\s?(?:{_CURRENCY}|euros?\b|dollars?\b|pounds?\b|francs?\b)"
)
_PERCENTAGE = re.compile(rf"{_NUMBER}\s?(?:%|per ?cent\b)")
_PERIOD = re.compile(
    rf"\b(?:{_NUMBER}|one|two|three|four|five|six|seven|eight|nine|ten|twelve)\s(?:\(\d+\)\s)?"
    rf"(?:(?:business|working|calendar|consecutive|contract)\s)?{_UNIT}\b",
    re.IGNORECASE,
)
_REFERENCE = re.compile(
    rf"\b(?:clauses?|sections?|articles?|schedules?)\s+{_NUMBER}(?:(?:,| and| or)+\s+{_NUMBER})*"
)
_QUANTITY = re.compile(
    rf"(?<!\S){_NUMBER}(?:\s+(?!(?:{'|'.join(sorted(STOP_WORDS))})\b)[a-z]{{3,}}\b){{1,2}}"
)
_LIMIT = re.compile(
    r"\b(?:within|no later than|not later than|at least|at the latest|before|until|by|due on|"
    r"for more than|prior to|after|deadline|expires?)\b",
    re.IGNORECASE,
)
_DEFINITION = re.compile(r"^[\"“]([^\"”]+)[\"”]\s+(?:means|refers to|is|are|has the meaning)\b")

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


@dataclass(frozen=True, slots=True)
class _Fact:
    value: str
    sentence: Sentence
    at: int


def extract(reading: Reading) -> str:
    """Return the figures, dates, deadlines and definitions of a document, each with its place."""
    taken = {name: list(_facts(reading, words)) for name, words in _SORTS}
    return section(
        "Facts and figures",
        reading.name,
        *(
            group(name, _lines(sorted(facts, key=_when) if name == "Dates" else facts))
            for name, facts in taken.items()
        ),
        group("Deadlines and periods", _deadlines(reading)),
        group("Definitions", _definitions(reading)),
    )


_SORTS = (
    ("Amounts", (_AMOUNT,)),
    ("Percentages", (_PERCENTAGE,)),
    ("Dates", (_DATE,)),
    ("Quantities", (_DATE, _AMOUNT, _PERCENTAGE, _PERIOD, _REFERENCE, _QUANTITY)),
)
"""What is looked for; only the last pattern counts, where no earlier one has matched."""


def _facts(reading: Reading, patterns: tuple[re.Pattern[str], ...]) -> Iterator[_Fact]:
    *others, pattern = patterns
    for sentence in reading.sentences:
        text = sentence.text
        for other in others:
            text = other.sub(lambda found: "#" * len(found[0]), text)
        for found in pattern.finditer(text):
            yield _Fact(" ".join(found[0].split()), sentence, found.start())


def _lines(facts: list[_Fact]) -> list[str]:
    """Return a line for each value, with the first sentence that has it and its other lines."""
    by_value: defaultdict[str, list[_Fact]] = defaultdict(list)
    for fact in facts:
        by_value[fact.value].append(fact)
    lines: list[str] = []
    for value, (first, *others) in by_value.items():
        elsewhere = dict.fromkeys(other.sentence.place.line for other in others)
        elsewhere.pop(first.sentence.place.line, None)
        again = f"; again in line {', '.join(map(str, elsewhere))}" if elsewhere else ""
        lines.append(f"**{value}** — {quoted(first.sentence, first.at, chars=VALUE_CHARS)}{again}")
    return lines


def _when(fact: _Fact) -> tuple[int, ...]:
    """Return year, month and day as far as they are known."""
    numbers = [int(number) for number in re.findall(r"\d+", fact.value)]
    if month := re.search(r"[A-Z][a-z]{2}", fact.value):
        *day, year = numbers
        return (year, _MONTHS.index(month[0].lower()) + 1, *day)
    if "-" in fact.value:
        return tuple(numbers)
    # Day and month of `03/04/2026` cannot be told apart, so it goes to the end of its year.
    return (numbers[-1], 13)


def _deadlines(reading: Reading) -> list[str]:
    lines: list[str] = []
    for sentence in reading.sentences:
        found = _PERIOD.search(sentence.text) or _DATE.search(sentence.text)
        if found and not sentence.in_table and _LIMIT.search(sentence.text):
            lines.append(quoted(sentence, found.start()))
    return lines


def _definitions(reading: Reading) -> list[str]:
    return [quoted(sentence) for sentence in reading.sentences if _DEFINITION.match(sentence.text)]
