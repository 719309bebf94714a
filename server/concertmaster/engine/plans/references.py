"""Objectives that speak of the results of other subtasks without depending on them."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from concertmaster.engine.plans.plan import Plan, Subtask
from concertmaster.engine.plans.rules import find_cycle

_RESULTS = (
    r"(?:findings|results?|outputs?|analys[ei]s|conclusions?|answers?|reports?|reviews?|"
    r"summar(?:y|ies))"
)
_USE = re.compile(
    r"\b(?:summari[sz]\w*|compar\w*|combin\w*|merg\w*|consolidat\w*|synthesi[sz]\w*|integrat\w*|"
    r"aggregat\w*|collat\w*|compil\w*|rank\w*|prioriti[sz]\w*|reconcil\w*|contrast\w*|"
    r"us(?:e|es|ing)|based on|bas(?:e|ing) (?:it|this|them) on|build(?:s|ing)? on|"
    r"draw(?:s|ing)? on|according to|given|from|check\w*|verif\w*|evaluat\w*|review\w*)\b",
    re.IGNORECASE,
)
"""What is done to a result in order to go on from it."""

_LEAVE = re.compile(
    r"\b(?:leav\w*|left|belongs?|not|without|except|other than|instead|covers?|covered|handles?|"
    r"handled|does|do|done by|separate\w*|unlike|only|outside)\b",
    re.IGNORECASE,
)
"""What sets a boundary to another subtask, which is no dependency."""

_ALL_RESULTS = re.compile(
    r"\b(?:summari[sz]e|combine|merge|consolidate|synthesi[sz]e|integrate|aggregate|collate|compile|"
    r"compare|contrast|reconcile|rank|prioriti[sz]e|based on|using|draw(?:ing)? on|from)\s+"
    r"(?:all\s+|both\s+)?(?:of\s+)?(?:the|these|those|all|both)\s+"
    r"(?P<before>(?:(?:above|previous|prior|earlier|preceding|other|collected|combined|gathered|"
    r"individual|various)\s+)*)" + _RESULTS + r"\b"
    r"(?P<of>\s+(?:of|from|by)\s+(?:the|all|all the|both|these|those)\s+"
    r"(?:(?:other|previous|prior|earlier|preceding|above|first|two|three)\s+)*"
    r"(?:subtasks?|workers?|steps?|specialists?|reviewers?|analysts?|agents?|tasks?)\b)?"
    r"(?P<more>\s+(?:(?:of|from|that|which|reported|described|stated|given|on|about)\b|"
    r"in\s+(?:the|this|these|that|\S+\.\w+)\b))?",
    re.IGNORECASE,
)
"""Results that no input is said to have, and that nobody else is named for."""

_SENTENCE = re.compile(r"(?<=[.!?;])\s+|\n+")


@dataclass(frozen=True, slots=True)
class Implied:
    """Subtasks whose results an objective speaks of, and whether it can only mean them."""

    subtask_ids: tuple[str, ...] = ()
    certain: bool = True


def with_implied_dependencies(
    plan: Plan, *, fixed: Collection[str] = ()
) -> tuple[Plan, tuple[str, ...]]:
    """Return the plan in which subtasks depend on the results they speak of, and warnings.

    Where it is not certain, there is a warning alone. What is `fixed` stays as it is.
    """
    subtasks = {subtask.id: subtask for subtask in plan.subtasks}
    warnings: list[str] = []
    for subtask in plan.subtasks:
        if subtask.id in fixed:
            continue
        implied = implied_dependencies(subtask, tuple(subtasks.values()))
        if not implied.subtask_ids:
            continue
        named = ", ".join(map(repr, implied.subtask_ids))
        depending = subtask.model_copy(
            update={"depends_on": (*subtask.depends_on, *implied.subtask_ids)}
        )
        candidate = subtasks | {subtask.id: depending}
        if implied.certain and not find_cycle(candidate.values()):
            subtasks = candidate
            warnings.append(
                f"Subtask {subtask.id!r} speaks of the results of {named} and did not depend on "
                "them; it now waits for them."
            )
        else:
            warnings.append(
                f"Subtask {subtask.id!r} seems to speak of the results of {named}, and does not "
                "get them, since it does not depend on them."
            )
    return plan.model_copy(update={"subtasks": tuple(subtasks.values())}), tuple(warnings)


def implied_dependencies(subtask: Subtask, subtasks: Sequence[Subtask]) -> Implied:
    """Return the subtasks among `subtasks` that one speaks of and does not depend on."""
    others = [each for each in subtasks if each.id != subtask.id]
    named = _named(subtask, others)
    if named:
        known = set(subtask.depends_on)
        return Implied(tuple(each.id for each in others if each.id in named - known))
    found = _all_results(subtask.objective)
    if subtask.depends_on or not others or found is None:
        return Implied()
    before = [each.id for each in subtasks[: subtasks.index(subtask)]]
    # The results may be some that its inputs tell of, unless it has none or says whose they are.
    certain = bool(found["before"].strip() or found["of"]) or not subtask.inputs
    return Implied(tuple(before or (each.id for each in others)), certain)


def _named(subtask: Subtask, others: Sequence[Subtask]) -> set[str]:
    """Return the others that the objective names as those whose results it is about."""
    return {
        other.id
        for sentence in _SENTENCE.split(subtask.objective)
        for other in others
        if _uses(sentence, other, others)
    }


def _uses(sentence: str, other: Subtask, others: Sequence[Subtask]) -> bool:
    names = [re.escape(other.id)]
    if sum(each.worker == other.worker for each in others) == 1:
        names.append(re.escape(other.worker))
    name = rf"(?<![\w.-])(?:{'|'.join(names)})(?![\w-]|\.\w)"
    result = rf"\b{_RESULTS}\s+(?:of|from|by)\s+(?:the\s+)?(?:(?:subtask|worker|step)\s+)?{name}"
    if re.search(rf"{result}|{name}['\u2019]s\s+{_RESULTS}\b", sentence, re.IGNORECASE):
        return True
    # An id such as s1 is hardly a word of the language; one such as `data` may be.
    if not any(char.isdigit() for char in other.id):
        return False
    found = re.search(rf"(?<![\w.-]){re.escape(other.id)}(?![\w-]|\.\w)", sentence)
    if found is None or _LEAVE.search(sentence):
        return False
    return _USE.search(sentence[: found.start()]) is not None


def _all_results(objective: str) -> re.Match[str] | None:
    for found in _ALL_RESULTS.finditer(objective):
        if found["of"] or not found["more"]:
            return found
    return None
