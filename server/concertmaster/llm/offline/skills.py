"""What the offline model can do, and which of it a worker is for."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from concertmaster.llm.messages import WorkerCard
from concertmaster.llm.offline import (
    code_checks,
    data,
    facts,
    implications,
    obligations,
    structure,
    uses,
)
from concertmaster.llm.offline.findings import Finding
from concertmaster.llm.offline.lookups import READ, SEARCH, Wish
from concertmaster.llm.offline.loops import definitions_of, slow_loops
from concertmaster.llm.offline.passages import Reading
from concertmaster.llm.offline.sources import Source
from concertmaster.llm.offline.summary import summarize

Priority = Literal["high", "medium", "low"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Skill:
    words: re.Pattern[str]
    """What tasks and workers call it."""
    objective: str
    priority: Priority
    narrows: bool = True
    """A task that names this wants nothing but what it names."""
    whole: bool = False
    """Comprises the other skills of its kind, so it is for when none of them can be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeSkill(_Skill):
    """Finds one sort of fault in Python code."""

    rules: tuple[str, ...]
    """Beginnings of the codes of ruff's rules."""
    check: Callable[[Sequence[Source], Sequence[Source]], list[Finding]] = code_checks.nothing
    """Finds what ruff has no rules for, with what the sources beside tell."""
    wishes: tuple[Wish, ...] = ()
    """What else in the roots would help with that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentSkill(_Skill):
    """Extracts one sort of content from documents."""

    extract: Callable[[Reading], str]
    """Returns Markdown that begins with a heading of level three."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSkill(_Skill):
    """Describes tables, with the tool `python`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NameSkill(_Skill):
    """Finds where names are defined and used, with tools that look into files."""


Skill = CodeSkill | DocumentSkill | DataSkill | NameSkill


def _words(*stems: str) -> re.Pattern[str]:
    return re.compile(r"\b(?:" + "|".join(stems) + r")", re.IGNORECASE)


def _check_all(sources: Sequence[Source], beside: Sequence[Source]) -> list[Finding]:
    checks = (code_checks.secrets, slow_loops, code_checks.untested)
    return [finding for check in checks for finding in check(sources, beside)]


def _extract_all(reading: Reading) -> str:
    return "\n\n".join(skill.extract(reading) for skill in DOCUMENT_SKILLS)


_SECURITY = ("S",)
_PERFORMANCE = ("PERF", "C4", "C901", "PLR0911", "PLR0912", "PLR0915", "ASYNC")
_BUGS = ("F", "E9", "B", "PLE", "PLW", "E711", "E712", "E721", "E722")
_STYLE = ("E4", "E7", "E9", "W", "F", "N", "B", "SIM", "UP", "RET", "PIE", "A", "ERA")
_TESTS = ("PT", "B011", "F631")
_DOCUMENTATION = ("D1", "D3", "D402", "D419", "FIX")

CODE_SKILLS = (
    CodeSkill(
        words=_words(
            "secur",
            "vulnerab",
            "inject",
            "exploit",
            "attack",
            "secrets?\\b",
            "passwords?\\b",
            "credential",
            "cryptograph",
            "deseriali",
            "authenticat",
            "owasp",
        ),
        objective="Find security faults: injection, secrets in code, unsafe calls",
        priority="high",
        rules=_SECURITY,
        check=code_checks.secrets,
    ),
    CodeSkill(
        words=_words(
            "performan",
            "slow",
            "fast",
            "speed",
            "quadratic",
            "nested loop",
            "scalab",
            "complexity",
            "optimi[sz]",
            "memory",
        ),
        objective="Find what gets slow: nested loops, queries in loops, needless copies",
        priority="high",
        rules=_PERFORMANCE,
        check=slow_loops,
        wishes=(definitions_of,),
    ),
    CodeSkill(
        words=_words(
            "bugs?\\b", "correctness", "logic errors?", "error handling", "race condition"
        ),
        objective="Find likely bugs: undefined names, swallowed errors, shared defaults",
        priority="high",
        narrows=False,
        rules=_BUGS,
    ),
    CodeSkill(
        words=_words("test", "coverage", "assertion", "untested"),
        objective="Find functions without tests and tests that check nothing",
        priority="medium",
        rules=_TESTS,
        check=code_checks.untested,
        wishes=(code_checks.tests_of,),
    ),
    CodeSkill(
        words=_words(
            "style",
            "readab",
            "naming",
            "idiom",
            "convention",
            "maintainab",
            "clean",
            "dead code",
        ),
        objective="Find what makes the code hard to read and change",
        priority="medium",
        rules=_STYLE,
    ),
    CodeSkill(
        words=_words("docstring", "documentation", "comments?\\b", "api doc"),
        objective="Find public code without documentation, and open notes in comments",
        priority="low",
        rules=_DOCUMENTATION,
    ),
)

CODE_REVIEW = CodeSkill(
    words=_words("code.?review", "reviews? .*\\bcode", "code quality", "lint"),
    objective="Find faults of security, speed, correctness, tests, style and documentation",
    priority="high",
    whole=True,
    rules=tuple(
        dict.fromkeys((*_SECURITY, *_PERFORMANCE, *_BUGS, *_TESTS, *_STYLE, *_DOCUMENTATION))
    ),
    check=_check_all,
    wishes=(definitions_of, code_checks.tests_of),
)

DOCUMENT_SKILLS = (
    DocumentSkill(
        words=_words(
            "summar",
            "key points?",
            "gist",
            "main (?:message|points?)",
            "abstract",
            "overview",
            "tl;?dr",
            "short version",
            "condens",
        ),
        objective="Pick the sentences that say most",
        priority="high",
        extract=summarize,
    ),
    DocumentSkill(
        words=_words(
            "obligat",
            "dut(?:y|ies)\\b",
            "risk",
            "liab",
            "indemn",
            "terminat",
            "penalt",
            "warrant",
            "complian",
            "must (?:we|i|they|the)\\b",
            "rights\\b",
            "notice periods?",
            "requirements?\\b",
            "allowed",
            "forbidden",
            "breach",
        ),
        objective="List who must, may and must not do what, and the risks",
        priority="high",
        extract=obligations.extract,
    ),
    DocumentSkill(
        words=_words(
            "facts?\\b",
            "figures?\\b",
            "numbers?\\b",
            "amounts?\\b",
            "dates?\\b",
            "deadlines?\\b",
            "prices?\\b",
            "fees?\\b",
            "costs?\\b",
            "percent",
            "quantit",
            "statistic",
            "timeline",
            "how (?:much|many|long)",
            "when\\b",
        ),
        objective="Extract amounts, percentages, quantities, dates, deadlines and definitions",
        priority="high",
        extract=facts.extract,
    ),
    DocumentSkill(
        words=_words(
            "implicat",
            "consequen",
            "impact",
            "next steps?",
            "what if",
            "conditions?\\b",
            "scenario",
            "what .*\\bmeans?\\b",
        ),
        objective="List the conditions and what follows from each, for whom",
        priority="medium",
        extract=implications.extract,
    ),
    DocumentSkill(
        words=_words(
            "structure",
            "outline",
            "table of contents",
            "headings?\\b",
            "sections?\\b",
            "cross-ref",
            "organi[sz]ed",
        ),
        objective="Map sections and clauses, and find broken references and gaps",
        priority="medium",
        extract=structure.extract,
    ),
)

DOCUMENT_ANALYSIS = DocumentSkill(
    words=_words("contract", "agreement", "document", "legal", "polic(?:y|ies)", "reports?\\b"),
    objective="Extract key points, duties, risks, facts, conditions and structure",
    priority="high",
    whole=True,
    extract=_extract_all,
)

DATA_DESCRIPTION = DataSkill(
    words=_words(
        "tables?\\b",
        "columns?\\b",
        "rows?\\b",
        "csv\\b",
        "data\\b",
        "statistics?\\b",
        "averages?\\b",
        "medians?\\b",
        "totals?\\b",
    ),
    objective="Describe each column: range, median, mean, sum, or the most frequent values",
    priority="high",
)
"""For every worker that may calculate, and that no other skill is for."""

NAME_SEARCH = NameSkill(
    words=uses.ASKS, objective="Find where this is defined and used", priority="high"
)
"""For every worker that may search files, and that no other skill is for."""

SKILLS: tuple[Skill, ...] = (
    *CODE_SKILLS,
    *DOCUMENT_SKILLS,
    DATA_DESCRIPTION,
    NAME_SEARCH,
    CODE_REVIEW,
    DOCUMENT_ANALYSIS,
)

_MAKES = re.compile(
    r"\W*(?:\w+ (?:and|or) )?(?:write|create|generate|implement|fix|translate|run|draft|build|"
    r"develop|change|refactor|draw)s?\b",
    re.IGNORECASE,
)
"""How the description of a worker begins that makes something, which rules cannot."""

_ENOUGH = 3


def skill_of(card: WorkerCard) -> Skill | None:
    """Return what the offline model can do in the place of a worker; None where nothing."""
    named = [skill for skill in SKILLS if not isinstance(skill, DataSkill | NameSkill)]
    points = [(_points(skill, card), skill) for skill in named]
    best, skill = max(points, key=lambda pair: pair[0])
    if best >= _ENOUGH and not _MAKES.match(card.description):
        return skill
    if data.TOOL in card.tools:
        return DATA_DESCRIPTION
    searches = {SEARCH, READ} <= set(card.tools) and not _MAKES.match(card.description)
    return NAME_SEARCH if searches else None


def _points(skill: Skill, card: WorkerCard) -> int:
    """Return how well a worker's card fits a skill; its name says most."""
    if skill.words.search(card.name):
        return 100
    if any(skill.words.search(text) for text in card.not_for):
        return 0
    named = {found.lower() for found in skill.words.findall(card.description)}
    return len(named) + sum(1 for text in card.best_for if skill.words.search(text))
