"""Code review: ruff's rules through the `lint` tool, and checks on the syntax tree."""

import re
from collections.abc import Iterable, Mapping, Sequence

from concertmaster.llm.messages import Document, Request, ToolCall, ToolOutcome, WorkBrief
from concertmaster.llm.offline.answers import Answer
from concertmaster.llm.offline.findings import Finding, counted, grouped, ranked
from concertmaster.llm.offline.lookups import SourcesBeside, can_look_up
from concertmaster.llm.offline.outcomes import outcomes_of
from concertmaster.llm.offline.rules import advice
from concertmaster.llm.offline.skills import CodeSkill
from concertmaster.llm.offline.sources import Source, is_test, parse

SHOWN = 100
"""Findings that a review lists; how many more there are, it says."""

NOT_REVIEWED = "Not reviewed: "
"""How a line begins that names an input which was not looked at."""

IGNORED_RULES = frozenset({"D104", "D105", "D107", "S404"})
"""Rules that say nothing worth a reader's time."""

_TOOL = "lint"
_FINDING = re.compile(r"(\d+): (\S+) (.+?)(?: \[fix: (.+)\])?")


def review_code(skill: CodeSkill, brief: WorkBrief, request: Request) -> Answer:
    """Return the tool calls that a review needs or, once they are made, its findings."""
    files = [document for document in brief.inputs if document.name.endswith((".py", ".pyi"))]
    notes = [
        f"{document.name} is no Python; the offline model only reviews Python code"
        for document in brief.inputs
        if document not in files
    ]
    if not files:
        reasons = "; ".join(notes) or "it was given no files"
        return Answer.refused(f"The offline model could not do this review: {reasons}.")
    done = outcomes_of(request.messages)
    sources = parse(files)
    beside = _beside(skill, sources, brief, request, done)
    lints = _lint_calls(skill, files) if _may_lint(request) else []
    missing = [call for call in [*lints, *beside.calls] if call.id not in done]
    if missing:
        return Answer(stop_reason="tool_use", tool_calls=tuple(missing))
    findings = skill.check(sources, beside.sources())
    outcomes = [done[call.id] for call in lints]
    notes += _not_linted(files, outcomes)
    for document, outcome in zip(files, outcomes, strict=False):
        if not outcome.failed:
            findings += _lint_findings(document.name, outcome.text)
    return Answer(text=_report(files, findings, notes))


def _may_lint(request: Request) -> bool:
    return any(tool.name == _TOOL for tool in request.tools)


def _beside(
    skill: CodeSkill,
    sources: Sequence[Source],
    brief: WorkBrief,
    request: Request,
    done: Mapping[str, ToolOutcome],
) -> SourcesBeside:
    wishes = skill.wishes if can_look_up(request.tools) else ()
    lookups = [lookup for wish in wishes if (lookup := wish(sources))]
    return SourcesBeside(lookups, inputs=brief.inputs, done=done)


def _lint_calls(skill: CodeSkill, files: Iterable[Document]) -> list[ToolCall]:
    return [
        ToolCall(
            id=f"lint-{number}",
            name=_TOOL,
            arguments={"file": document.name, "rules": list(skill.rules)},
        )
        for number, document in enumerate(files, start=1)
    ]


def _not_linted(files: Sequence[Document], outcomes: Sequence[ToolOutcome]) -> list[str]:
    if not outcomes:
        reason = "by ruff, because this worker may not use the tool `lint`"
        return [f"{document.name} {reason}" for document in files]
    return [
        f"{document.name} by ruff: {outcome.text.rstrip('.')}"
        for document, outcome in zip(files, outcomes, strict=True)
        if outcome.failed
    ]


def _lint_findings(file: str, report: str) -> list[Finding]:
    findings: list[Finding] = []
    for line in report.splitlines():
        found = _FINDING.fullmatch(line)
        if found is None or _is_noise(file, found[2]):
            continue
        number, rule, message, hint = found.groups()
        known = advice(rule)
        findings.append(
            Finding(
                severity=known.severity,
                file=file,
                line=int(number),
                what=message.replace(". ", "; "),
                fix=known.fix or _own_words(hint) or f"see what `ruff rule {rule}` says.",
                rule=rule,
            )
        )
    return findings


def _is_noise(file: str, rule: str) -> bool:
    return rule in IGNORED_RULES or (is_test(file) and rule.startswith(("S101", "D1")))


def _own_words(hint: str | None) -> str:
    """Return ruff's hint as the end of our sentence."""
    return f"{hint[0].lower()}{hint[1:]}." if hint else ""


def _report(files: Sequence[Document], findings: Iterable[Finding], notes: Sequence[str]) -> str:
    names = ", ".join(document.name for document in files)
    shown = ranked(grouped(findings))
    lines = [f"{counted(shown)} in {names}." if shown else f"No findings in {names}.", ""]
    lines += [str(finding) for finding in shown[:SHOWN]]
    if len(shown) > SHOWN:
        lines.append(f"- {len(shown) - SHOWN} more of {shown[SHOWN].severity} severity or less")
    lines += [f"- {NOT_REVIEWED}{note}." for note in notes]
    return "\n".join(lines).strip()
