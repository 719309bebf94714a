"""A document read: its headings, clauses and sentences, each with its line.

Markdown is parsed by markdown-it. Numbers and bullets of lists are left in the text, since
in contracts they are the numbers of clauses; a plain text with numbered or capitalised
titles is read in the same way.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markdown_it import MarkdownIt
from markdown_it.token import Token

from concertmaster.llm.messages import Document

TITLE_CHARS = 80
"""The longest line of a plain text that can be a title."""

SENTENCE_CHARS = 1000
"""Where a sentence is cut that does not end, so that no search in it takes long."""

_MARKER = re.compile(
    r"\s*(?:[-*+•]\s+|(?P<number>\d+(?:\.\d+)+)[.)]?\s+(?=\W*[A-Z])|(?P<item>\d+)[.)]\s+"
    r"|\((?P<letter>[a-z]{1,4}|\d{1,2})\)\s+)"
)
_NUMBER = re.compile(
    r"(?:§\s*|(?:article|section|clause)\s+)?(\d+(?:\.\d+)*)[.):]?\s+", re.IGNORECASE
)
_TITLE = re.compile(
    r"(?:(?:article|section|clause|schedule|annex|appendix|part)\s+\w+|\d+(?:\.\d+)*[.)]?)\b.*",
    re.IGNORECASE,
)
_ABBREVIATIONS = (
    "e.g.", "i.e.", "mr.", "mrs.", "ms.", "dr.", "no.", "art.", "sec.", "inc.", "ltd.", "co.",
    "vs.", "approx.", "st.", "nr.", "cf.", "corp.", "dept.", "est.", "fig.", "para.", "pp.",
    "jan.", "feb.", "mar.", "apr.", "jun.", "jul.", "aug.", "sep.", "sept.", "oct.", "nov.", "dec.",
)  # fmt: skip
_LONGEST_ABBREVIATION = max(map(len, _ABBREVIATIONS))
_SENTENCE_END = re.compile(r"[.!?][\"'”\u2019)\]]*(\s+)(?=[\"'“\u2018(\[]?[A-Z0-9])")
_WORD = re.compile(r"[^\W\d_][\w\u2019'-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where something is said."""

    line: int
    section: str
    """The number of the clause, or else the heading it stands below."""

    def __str__(self) -> str:
        return f"line {self.line}, {self.section}" if self.section else f"line {self.line}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading:
    """A heading of a document."""

    line: int
    level: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentence:
    """A sentence, or the row of a table."""

    place: Place
    text: str
    in_table: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A document as the extractors see it."""

    name: str
    lines: int
    headings: tuple[Heading, ...]
    sentences: tuple[Sentence, ...]
    numbers: frozenset[str]
    """Numbers of all sections and clauses."""
    tables: int

    @property
    def words(self) -> int:
        """Return how many words the sentences have."""
        return sum(len(sentence.text.split()) for sentence in self.sentences)


def words(text: str) -> list[str]:
    """Return the words of a text, in lower case."""
    return [word.lower() for word in _WORD.findall(text)]


def read(document: Document) -> Reading:
    """Return what `document` consists of."""
    parser = MarkdownIt("commonmark").enable("table").disable(["list", "code", "html_block"])
    reader = _Reader(parser, document.text)
    for token, content in pairwise(parser.parse(document.text)):
        reader.take(token, content)
    return Reading(
        name=document.name,
        lines=len(document.text.splitlines()),
        headings=tuple(reader.headings),
        sentences=tuple(reader.sentences),
        numbers=frozenset(reader.numbers),
        tables=reader.tables,
    )


class _Reader:
    """Takes a document's blocks one after another."""

    def __init__(self, parser: MarkdownIt, text: str) -> None:
        self.headings: list[Heading] = []
        self.sentences: list[Sentence] = []
        self.numbers: set[str] = set()
        self.tables = 0
        self._parser = parser
        # Where a text marks its headings, a short line is no title.
        self._is_marked = (
            re.search(r"^ {0,3}#{1,6} |^ {0,3}[=-]{3,}$", text, re.MULTILINE) is not None
        )
        self._cells: list[str] = []

    def take(self, token: Token, content: Token) -> None:
        """Take in a token, where `content` is the one after it."""
        line = token.map[0] + 1 if token.map else 0
        match token.type:
            case "heading_open":
                self._add_heading(line, int(token.tag[1]), self._plain(content.content))
            case "paragraph_open":
                for start, text in _split(content.content.splitlines(), line):
                    self._add_passage(start, text)
            case "table_open":
                self.tables += 1
            case "tr_open":
                self._cells = []
                self._row = line
            case "th_open" | "td_open":
                self._cells.append(self._plain(content.content))
            case "tr_close":
                self._add_row()
            case _:
                pass

    def _plain(self, text: str) -> str:
        """Return a text without its Markdown marks, line breaks kept."""
        tokens = self._parser.parseInline(text)[0].children or []
        return "".join("\n" if "break" in token.type else token.content for token in tokens)

    def _add_heading(self, line: int, level: int, text: str) -> None:
        text = " ".join(text.split())
        if number := _NUMBER.match(text):
            self.numbers.add(number[1])
        self.headings.append(Heading(line=line, level=level, text=text))

    def _add_row(self) -> None:
        text = " | ".join(cell for cell in self._cells if cell)
        if not text:
            return
        place = Place(line=self._row, section=self._heading())
        self.sentences.append(Sentence(place=place, text=text, in_table=True))

    def _add_passage(self, line: int, text: str) -> None:
        if not self._is_marked and _is_title(text):
            self._add_heading(line, 2, text)
            return
        section = self._heading()
        if marker := _MARKER.match(text):
            number = marker["number"] or marker["item"]
            if number:
                self.numbers.add(number)
                section = number
            text = text[marker.end() :]
        for offset, sentence in _sentences(self._plain(text)):
            place = Place(line=line + offset, section=section)
            self.sentences.append(Sentence(place=place, text=sentence))

    def _heading(self) -> str:
        return self.headings[-1].text if self.headings else ""


def _split(lines: Sequence[str], start: int) -> Iterator[tuple[int, str]]:
    """Yield the clauses and list items of a paragraph, with the lines they begin on."""
    begins = [number for number, line in enumerate(lines) if number == 0 or _MARKER.match(line)]
    for begin, end in pairwise([*begins, len(lines)]):
        yield start + begin, "\n".join(lines[begin:end])


def _is_title(text: str) -> bool:
    text = text.strip()
    if "\n" in text or len(text) > TITLE_CHARS or text.endswith((".", ";", ",", ":")):
        return False
    return text.isupper() or _TITLE.fullmatch(text) is not None


def _sentences(text: str) -> Iterator[tuple[int, str]]:
    """Yield the sentences of a passage, with how many lines below its start each begins."""
    begin, line = 0, 0
    for end in _ends(text):
        for piece in range(begin, end, SENTENCE_CHARS):
            part = text[piece : min(piece + SENTENCE_CHARS, end)]
            if sentence := " ".join(part.split()):
                yield line, sentence
            line += part.count("\n")
        begin = end


def _ends(text: str) -> Iterable[int]:
    for found in _SENTENCE_END.finditer(text):
        before = text[max(0, found.start() - _LONGEST_ABBREVIATION) : found.start() + 1]
        last = before.split()[-1].lower().lstrip('(“"')
        is_initial = len(last) == 2 and last[0].isalpha()
        if last not in _ABBREVIATIONS and not is_initial:
            yield found.end()
    yield len(text)
