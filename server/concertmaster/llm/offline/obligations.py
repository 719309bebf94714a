"""Who must, may and must not do what, and the risks in it."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from concertmaster.llm.offline.findings import Finding, Severity, ranked
from concertmaster.llm.offline.parties import parties, subject
from concertmaster.llm.offline.passages import Reading, Sentence
from concertmaster.llm.offline.quotes import group, quotation, quoted, section

_FORBIDS = re.compile(
    r"\b(?:(?:shall|must|may|will|can) not|cannot|(?:is|are) (?:prohibited|forbidden|not "
    r"(?:allowed|permitted|entitled))|neither party (?:may|shall|will))\b",
    re.IGNORECASE,
)
_OBLIGES = re.compile(
    r"\b(?:shall|must|(?:is|are|be) (?:required|obliged|obligated|bound) to|undertakes? to|agrees? "
    r"to|(?:is|are) responsible for|ha(?:s|ve) to|(?:is|are) (?:payable|due))\b",
    re.IGNORECASE,
)
_PERMITS = re.compile(
    r"\b(?:may|(?:is|are) (?:entitled|permitted|allowed) to|ha(?:s|ve) the right to)\b",
    re.IGNORECASE,
)
_KINDS = ((_FORBIDS, "must not"), (_OBLIGES, "must"), (_PERMITS, "may"))


@dataclass(frozen=True, slots=True)
class _Risk:
    words: re.Pattern[str]
    severity: Severity
    name: str
    advice: str


def _risk(words: str, severity: Severity, name: str, advice: str) -> _Risk:
    return _Risk(re.compile(words, re.IGNORECASE), severity, name, advice)


_RISKS = (
    _risk(
        r"\b(?:indemn\w+|liab\w+)\b.{0,200}\b(?:unlimited|without limit)|unlimited (?:liab|indemn)",
        "critical",
        "Unlimited liability",
        "agree on a limit in money, and on insurance for it.",
    ),
    _risk(
        r"\bindemnif\w+|\bshall indemnify|\bhold harmless",
        "high",
        "Indemnity",
        "check what it covers, whether it is mutual and whether there is a limit.",
    ),
    _risk(
        r"\b(?:renews?|renewed|extend(?:s|ed)?|prolong(?:s|ed)?)\b.{0,200}\bautomatic|"
        r"\bautomatic(?:ally)?\b.{0,200}\b(?:renew|extend|prolong)",
        "high",
        "Automatic renewal",
        "note the last day for notice, and ask for a shorter renewal.",
    ),
    _risk(
        r"\bpenalt(?:y|ies)\b|\bliquidated damages\b|\b(?:exit|cancellation|termination) fees?\b",
        "high",
        "Penalty or exit fee",
        "work out what it costs at the worst moment, and ask for it to fall with time.",
    ),
    _risk(
        r"\bmay\b.{0,200}\b(?:change|amend|modify)\b.{0,200}"
        r"\b(?:at any time|sole discretion|without notice)",
        "high",
        "Change by one side",
        "ask for consent, or for a right to leave when it happens.",
    ),
    _risk(
        r"\bnon-compet\w+|\bexclusiv(?:e|ity|ely)\b(?! jurisdiction)",
        "high",
        "Exclusivity",
        "check for how long and for what it binds.",
    ),
    _risk(
        r"\bliab\w+\b.{0,200}\b(?:limited|capped|exclude|exceed)|"
        r"\b(?:not|neither party is) liable\b",
        "high",
        "Liability limited or excluded",
        "compare the limit with the damage that could be done.",
    ),
    _risk(
        r"\bincreas\w+\b.{0,200}\b(?:fee|price|charge|rate)s?\b|\b(?:fee|price|charge)s?\b.{0,200}\bincreas\w+",
        "medium",
        "Price increase",
        "ask for a limit or an index, and for a right to leave.",
    ),
    _risk(
        r"\binterest (?:at|of)\b|\blate (?:payment|fee)",
        "medium",
        "Interest on late payment",
        "make sure that invoices are paid in time.",
    ),
    _risk(
        r"\bsuspend\w*\b",
        "medium",
        "Suspension",
        "ask for notice and for an exception while a debt is disputed.",
    ),
    _risk(
        r"\b(?:only|sole|exclusive) remed(?:y|ies)\b",
        "medium",
        "No other remedy",
        "check that what is left makes up for the damage.",
    ),
    _risk(
        r"\b(?:lapses?|forfeit\w*|waives?|waiver)\b",
        "medium",
        "Loss of a right",
        "put the time limit into the calendar.",
    ),
    _risk(
        r"\bterminate\b.{0,200}\b(?:immediate effect|for convenience|at any time|without cause)",
        "medium",
        "Termination at short notice",
        "plan for what has to go on when it happens.",
    ),
    _risk(
        r"\bmay (?:use|share|disclose)\b.{0,200}\bdata\b",
        "medium",
        "Use of data",
        "check what is allowed by law, and object in time if you may.",
    ),
    _risk(
        r"\b(?:governed by|jurisdiction)\b",
        "low",
        "Law and courts",
        "check whether a dispute there can be afforded.",
    ),
)


def extract(reading: Reading) -> str:
    """Return duties, prohibitions and rights by party, and the risks with the worst first."""
    names = parties(reading)
    by_who: defaultdict[str, list[str]] = defaultdict(list)
    for sentence in reading.sentences:
        if (rule := _rule(sentence, names)) is not None:
            by_who[rule].append(quoted(sentence))
    groups = [group(who, quotes) for who, quotes in sorted(by_who.items())]
    risks = [str(finding) for finding in ranked(_risks(reading))]
    return "\n\n".join(
        [
            section("Obligations", reading.name, *groups),
            section("Risks", reading.name, "\n".join(risks)),
        ]
    )


def _rule(sentence: Sentence, names: Sequence[str]) -> str | None:
    """Return `Supplier must`, `Client may` or the like; None where nothing is ruled."""
    if sentence.in_table:
        return None
    for words, verb in _KINDS:
        if found := words.search(sentence.text):
            if found[0].lower().startswith("neither party"):
                return f"Both parties {verb}"
            return f"{subject(sentence.text, found.start(), names)} {verb}"
    return None


def _risks(reading: Reading) -> list[Finding]:
    return [
        Finding(
            severity=risk.severity,
            file=reading.name,
            line=sentence.place.line,
            what=_told(risk, sentence),
            fix=risk.advice,
        )
        for sentence in reading.sentences
        for risk in _applying(sentence)
    ]


def _told(risk: _Risk, sentence: Sentence) -> str:
    section = f" ({sentence.place.section})" if sentence.place.section else ""
    return f"{risk.name}{section}: {quotation(sentence)}"


def _applying(sentence: Sentence) -> list[_Risk]:
    """Return the risks that a sentence holds; of several about liability, the worst."""
    found = [risk for risk in _RISKS if risk.words.search(sentence.text)]
    about_liability = [risk for risk in found if risk in _LIABILITY]
    return [risk for risk in found if risk not in about_liability[1:]]


_LIABILITY = tuple(
    risk
    for risk in _RISKS
    if risk.name in ("Unlimited liability", "Indemnity", "Liability limited or excluded")
)
