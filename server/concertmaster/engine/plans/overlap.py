"""Subtasks of a plan that do the same: those that certainly do are one, others a warning."""

import itertools
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from concertmaster.engine.plans.plan import PRIORITIES, Plan, Subtask

ALIKE = 0.85
"""How much of two objectives' words must agree for them to count as alike."""


def merged(plan: Plan) -> tuple[Plan, list[str]]:
    """Return the plan with each work once, and a sentence for each subtask that became another.

    What depended on one that is gone depends on the one that is left.
    """
    kept: dict[str, Subtask] = {}
    became: dict[str, str] = {}
    for subtask in plan.subtasks:
        subtask = _after(subtask, became)
        twin = next((each for each in kept.values() if same_work(each, subtask)), None)
        if twin is None:
            kept[subtask.id] = subtask
        else:
            became[subtask.id] = twin.id
            kept[twin.id] = _joined(twin, subtask)
    subtasks = tuple(_after(subtask, became) for subtask in kept.values())
    warnings = [
        f"Subtask {name!r} was to do the same as {twin!r}; it is done once."
        for name, twin in became.items()
    ]
    return plan.model_copy(update={"subtasks": subtasks}), warnings


def _after(subtask: Subtask, became: dict[str, str]) -> Subtask:
    """Return the subtask with dependencies on what became of those that are gone."""
    if became.keys().isdisjoint(subtask.depends_on):
        return subtask
    depends_on = tuple(dict.fromkeys(became.get(name, name) for name in subtask.depends_on))
    return subtask.model_copy(update={"depends_on": depends_on})


def _joined(one: Subtask, other: Subtask) -> Subtask:
    return one.model_copy(
        update={
            "priority": min(one.priority, other.priority, key=PRIORITIES.index),
            "decisive": one.decisive or other.decisive,
            "needs_all": one.needs_all and other.needs_all,
        }
    )


def same_work(one: Subtask, other: Subtask) -> bool:
    """Tell whether two subtasks ask for the same, of the same worker, in the same words."""
    return (
        _words(one.objective) == _words(other.objective)
        and _words(one.expects) == _words(other.expects)
        and set(one.inputs) == set(other.inputs)
        and set(one.depends_on) == set(other.depends_on)
        and _way(one) == _way(other)
    )


# Each subtask of a plan is compared with each other one.
@lru_cache(maxsize=1024)
def _words(text: str) -> tuple[str, ...]:
    return tuple(word.rstrip(".,;:!?") for word in text.casefold().split())


def _way(subtask: Subtask) -> object:
    """Return how a subtask is done: worker, strategy and limits."""
    what = {"id", "objective", "why", "expects", "inputs", "depends_on"}
    return subtask.model_dump(exclude=what | {"priority", "decisive", "needs_all"})


_SYNONYMS = {
    "examine": "analyse analyze analysis assess audit check evaluate examine examination inspect "
    "investigate look review scan scrutinise scrutinize screen study find identify detect",
    "fault": "bug defect error fault flaw issue mistake problem quality shortcoming weakness "
    "weaknesse wrong concern",
    "write": "compose create draft prepare produce write",
    "summary": "overview recap summarise summarize summary digest",
    "text": "text document documentation paper",
    "code": "code codebase source sourcecode program",
}
_MEANINGS = {word: key for key, words in _SYNONYMS.items() for word in words.split()}
"""What words of objectives come to, of those that planners take for one another."""

_FILLERS = (
    "a all an and any are as at be by carefully closely every for from general given how if in "
    "into is it its of on or out over overall please potential possible provided that the their "
    "them there these this those thoroughly to up what whether which with"
)
"""Words that make no difference to what an objective is about."""

_FILLER_WORDS = frozenset(_FILLERS.split())


def overlaps(subtasks: Sequence[Subtask]) -> list[str]:
    """Return a sentence for each two subtasks that seem to do the same."""
    words = {subtask.id: Counter(_words(subtask.objective)) for subtask in subtasks}
    meanings = {subtask.id: _meaning(subtask.objective) for subtask in subtasks}
    inputs = {subtask.id: frozenset(subtask.inputs) for subtask in subtasks}
    after = {subtask.id: frozenset(subtask.depends_on) for subtask in subtasks}
    return [
        f"Subtasks {one!r} and {other!r} seem to do the same with the same inputs."
        for one, other in itertools.combinations(words, 2)
        if inputs[one] == inputs[other]
        and (
            _alike(words[one], words[other])
            or (after[one] == after[other] and _mean_the_same(meanings[one], meanings[other]))
        )
    ]


@lru_cache(maxsize=1024)
def _meaning(objective: str) -> frozenset[str]:
    """Return what an objective is about, without how it happens to be put."""
    words = (word.strip("\"'()[]`*") for word in _words(objective))
    plain = (_singular(word) for word in words if word and word not in _FILLER_WORDS)
    return frozenset(_MEANINGS.get(word, word) for word in plain)


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _mean_the_same(one: frozenset[str], other: frozenset[str]) -> bool:
    """Tell whether two objectives are about the same; one word alone is about nothing."""
    return one == other and len(one) > 1


def _alike(one: Counter[str], other: Counter[str]) -> bool:
    """Tell whether two objectives have nearly the same words."""
    # In whatever order: to align two long texts takes a while, and nothing else goes on meanwhile.
    enough = ALIKE * (one.total() + other.total()) / 2
    # Most are not, which the words that only one of them has tell much sooner.
    if one.total() - len(one.keys() - other.keys()) < enough:
        return False
    return (one & other).total() >= enough
