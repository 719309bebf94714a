"""The conditions of a document, and what follows from each, for whom."""

import re

from concertmaster.llm.offline.parties import concerned, parties
from concertmaster.llm.offline.passages import Reading, Sentence
from concertmaster.llm.offline.quotes import group, quoted, section

_CONDITION = re.compile(
    r"\b(?:if|unless|in the event (?:of|that)|in case of|provided that|as soon as|upon|failing|"
    r"otherwise|except (?:in|where|if|for))\b|^where\b",
    re.IGNORECASE,
)
_CHANGE = re.compile(
    r"\b(?:therefore|as a result|consequently|means that|leads? to|results? in|because of|"
    r"so that|will (?:increase|decrease|change|cost|save|reduce|require))\b",
    re.IGNORECASE,
)


def extract(reading: Reading) -> str:
    """Return what happens under which condition, and what a document itself says follows."""
    names = parties(reading)
    conditions: list[str] = []
    effects: list[str] = []
    for sentence in reading.sentences:
        if found := _CONDITION.search(sentence.text):
            conditions.append(_consequence(sentence, found, names))
        elif _CHANGE.search(sentence.text):
            effects.append(quoted(sentence))
    return section(
        "Implications",
        reading.name,
        group("What follows when", conditions),
        group("Stated effects", effects),
    )


def _consequence(sentence: Sentence, found: re.Match[str], names: tuple[str, ...]) -> str:
    text = sentence.text
    if found[0].lower() == "otherwise":
        before = text[: found.start()].rstrip(" ,;")
        condition, effect = f"{before}, otherwise", text[found.end() :]
    elif found.start() > 0:
        condition, effect = text[found.start() :], text[: found.start()]
    else:
        condition, _, effect = text.partition(", ")
    who = concerned(text, names)
    concerns = f"; concerns {', '.join(who)}" if who else ""
    if not effect.strip(" ,;"):
        return f"{quoted(sentence)}{concerns}"
    condition = condition.strip(" ,;.")
    effect = effect.strip(" ,;.").removesuffix(" and").removesuffix(" or")
    return f"**{condition}** → {effect} ({sentence.place}{concerns})"
