"""The offline synthesis: findings merged and ranked, extracts in order, gaps named."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from concertmaster.llm.messages import SynthesisBrief, WorkResult
from concertmaster.llm.offline.code_review import NOT_REVIEWED
from concertmaster.llm.offline.documents import NOT_READ
from concertmaster.llm.offline.findings import Finding, counted, merged, ranked, read_finding

SHOWN_LOW = 15
"""Findings of low severity that an answer lists; how many more there are, it says."""

SECTION_LINES = 40
"""Lines of one section that an answer has; the rest is in the worker's result."""

SUMMARY_LINES = 8

_ORDER = ("Key points", "Obligations", "Facts and figures", "Implications", "Structure")
_KEY_POINTS = "Key points"
_RISKS = "Risks"
_HEADING = re.compile(r"### (?P<title>[^:]+?)(?:: (?P<name>.+))?")
_NOTE = re.compile(rf"- ({re.escape(NOT_REVIEWED)}|{re.escape(NOT_READ)}).+")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Section:
    """A part of a worker's result."""

    result: WorkResult
    title: str
    name: str
    lines: tuple[str, ...]


def merge_results(brief: SynthesisBrief) -> str:
    """Return one answer made of the results, which names what is missing."""
    findings = [item for result in brief.results for item in _findings(result)]
    sections = [part for result in brief.results for part in _sections(result)]
    parts = [
        _executive_summary(sections, findings),
        _ranking(merged(findings)),
        *(_shown(part) for part in _ordered(sections)),
        _missing(brief.results),
    ]
    return "\n\n".join(part for part in parts if part) or "The workers found nothing."


def _findings(result: WorkResult) -> list[Finding]:
    lines = (read_finding(line) for line in result.text.splitlines())
    return [
        item if item.workers else replace(item, workers=(result.worker,))
        for item in lines
        if item is not None
    ]


def _sections(result: WorkResult) -> list[_Section]:
    """Return the parts of a result, without its findings and notes, which are told elsewhere."""
    blocks: list[tuple[str, str, list[str]]] = [("", "", [])]
    for line in result.text.splitlines():
        if heading := _HEADING.fullmatch(line):
            blocks.append((heading["title"], heading["name"] or "", []))
        elif read_finding(line) is None and not _NOTE.fullmatch(line):
            blocks[-1][2].append(line)
    has_findings = any(read_finding(line) for line in result.text.splitlines())
    return [
        _Section(result=result, title=title, name=name, lines=tuple(lines))
        for title, name, lines in blocks
        # What a review says above its findings only counts them.
        if "".join(lines).strip() and (title or not has_findings)
    ]


def _executive_summary(sections: Iterable[_Section], findings: Sequence[Finding]) -> str:
    lines = [
        line
        for part in sections
        if part.title == _KEY_POINTS
        for line in [line for line in part.lines if line.startswith("- ")][:SUMMARY_LINES]
    ]
    once = ranked(merged(findings))
    if once:
        files = len({item.file for item in once})
        first = once[0]
        lines.append(
            f"- {counted(once)} findings in {files} {'file' if files == 1 else 'files'}. "
            f"The first to look at: {first.file}:{first.line}, {first.what.rstrip('.')}."
        )
    return "## Summary\n\n" + "\n".join(lines) if lines else ""


def _ranking(findings: Sequence[Finding]) -> str:
    if not findings:
        return ""
    low = [item for item in ranked(findings) if item.severity == "low"]
    lines = [str(item) for item in ranked(findings) if item.severity != "low"]
    lines += [str(item) for item in low[:SHOWN_LOW]]
    if len(low) > SHOWN_LOW:
        lines.append(f"- … and {len(low) - SHOWN_LOW} more of low severity in the workers' results")
    return "## Findings, the worst first\n\n" + "\n".join(lines)


def _ordered(sections: Iterable[_Section]) -> list[_Section]:
    others = [part for part in sections if part.title != _KEY_POINTS]
    rank = {title: number for number, title in enumerate(_ORDER)}
    return sorted(others, key=lambda part: rank.get(part.title, len(rank)))


def _shown(part: _Section) -> str:
    title = f"{part.title}: {part.name}" if part.name else part.title or part.result.worker
    lines = "\n".join(part.lines).strip().splitlines()
    shown = lines[:SECTION_LINES]
    if len(lines) > SECTION_LINES:
        shown += [
            "",
            f"({len(lines) - SECTION_LINES} more lines in the result of subtask "
            f"{part.result.subtask_id}.)",
        ]
    return "\n".join([f"## {title}", "", *shown])


def _missing(results: Iterable[WorkResult]) -> str:
    lines: list[str] = []
    for result in results:
        if result.status != "succeeded":
            reason = result.problem or "no reason is known"
            lines.append(f"- {result.worker} ({result.subtask_id}) is {result.status}: {reason}")
        lines += [line for line in result.text.splitlines() if _NOTE.fullmatch(line)]
    return "## What is missing\n\n" + "\n".join(dict.fromkeys(lines)) if lines else ""
