"""Findings: one line of Markdown each, which people read and the synthesis reads back."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

Severity = Literal["critical", "high", "medium", "low"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)

SEPARATE = 3
"""Findings of one rule in one file that get a line each; more than these share one.

Those of low severity always do."""

_LINE = re.compile(
    r"(?:-|\d+\.) \*\*(?P<severity>critical|high|medium|low)\*\* "
    r"(?P<file>.+?):(?P<line>\d+) — (?P<what>.+?)"
    r"(?: \((?P<rule>[\w-]+)(?:; also lines (?P<also>[\d, ]+))?\))?\."
    r" Fix: (?P<fix>.+?)(?: \[(?P<workers>[^\]]*)\])?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something wrong at one place of an input."""

    severity: Severity
    file: str
    line: int
    what: str
    fix: str
    rule: str = ""
    also: tuple[int, ...] = ()
    """Further lines of the same file where it is wrong in the same way."""
    workers: tuple[str, ...] = ()
    """Who found it, where that is known."""

    def __str__(self) -> str:
        also = f"; also lines {', '.join(map(str, self.also))}" if self.also else ""
        rule = f" ({self.rule}{also})" if self.rule else ""
        workers = f" [{', '.join(self.workers)}]" if self.workers else ""
        what = " ".join(self.what.split()).rstrip(".")
        fix = " ".join(self.fix.split())
        return f"- **{self.severity}** {self.file}:{self.line} — {what}{rule}. Fix: {fix}{workers}"


def read_finding(line: str) -> Finding | None:
    """Return the finding that a line of text is, if it is one."""
    found = _LINE.fullmatch(line.strip())
    if found is None:
        return None
    also = found["also"] or ""
    workers = found["workers"] or ""
    return Finding(
        severity=cast("Severity", found["severity"]),
        file=found["file"],
        line=int(found["line"]),
        what=found["what"],
        fix=found["fix"],
        rule=found["rule"] or "",
        also=tuple(int(number) for number in also.split(",") if number.strip()),
        workers=tuple(name.strip() for name in workers.split(",") if name.strip()),
    )


def ranked(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings with the worst first, then by place."""
    return sorted(
        findings,
        key=lambda item: (SEVERITIES.index(item.severity), item.file, item.line, item.rule),
    )


def grouped(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings with those of one rule in one file put together where they are many."""
    alike: defaultdict[tuple[str, str, str], list[Finding]] = defaultdict(list)
    for item in findings:
        alike[item.severity, item.file, item.rule].append(item)
    result: list[Finding] = []
    for (severity, _, rule), items in alike.items():
        if not rule or len(items) <= (1 if severity == "low" else SEPARATE):
            result += items
            continue
        first, *others = sorted(items, key=lambda item: item.line)
        lines = sorted({item.line for item in others} - {first.line})
        result.append(replace(first, also=tuple(lines)))
    return result


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings with what several workers found at one place told once."""
    by_place: dict[tuple[str, int, str], Finding] = {}
    for item in findings:
        key = (item.file, item.line, item.rule or item.what)
        if (known := by_place.get(key)) is None:
            by_place[key] = item
            continue
        by_place[key] = replace(
            min(known, item, key=lambda item: SEVERITIES.index(item.severity)),
            also=tuple(sorted({*known.also, *item.also})),
            workers=tuple(dict.fromkeys((*known.workers, *item.workers))),
        )
    return list(by_place.values())


def counted(findings: Iterable[Finding]) -> str:
    """Return how many findings there are of each severity, as `2 critical, 1 low`."""
    counts = Counter(item.severity for item in findings)
    return ", ".join(f"{counts[name]} {name}" for name in SEVERITIES if counts[name])
