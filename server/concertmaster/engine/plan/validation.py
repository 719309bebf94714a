"""What a plan of a run may say, what is wrong with one that says otherwise."""

import itertools
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from typing import Any

from concertmaster.engine.plan.plan import (
    ID_PATTERN,
    MOST_PARTS,
    PRIORITIES,
    Map,
    Plan,
    PlanMode,
    Revise,
    Strategy,
    Subtask,
    Vote,
    strategy_schema,
)
from concertmaster.llm.fencing import quoted
from concertmaster.llm.messages import JsonSchema, closed_object


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRules:
    """What a plan of one run may refer to."""

    workers: Collection[str]
    inputs: Collection[str]
    max_subtasks: int
    custom_workers: int = 0
    """How many workers it may bring along."""
    taken: Collection[str] = ()
    """Names that these may not have, besides those of the workers."""
    mode: PlanMode | None = None
    """The mode that it must have; None leaves the choice to the planner."""


def plan_problems(plan: Plan, rules: PlanRules) -> list[str]:
    """Return one sentence for each reason why `plan` cannot be run; none if it can."""
    if plan.direct_answer is not None:
        return _direct_answer_problems(plan)
    workers = [*rules.workers, *(worker.name for worker in plan.custom_workers)]
    problems = [*_size_problems(plan, rules), *_custom_worker_problems(plan, rules)]
    problems += _reference_problems(plan, rules, workers)
    for subtask in plan.subtasks:
        problems += strategy_problems(subtask, workers)
    if cycle := find_cycle(plan.subtasks):
        problems.append(f"The dependencies form a cycle: {' → '.join(cycle)}.")
    return problems


def _direct_answer_problems(plan: Plan) -> list[str]:
    if plan.subtasks:
        return ["direct_answer is set, so subtasks must be empty; or set direct_answer to null."]
    if not str(plan.direct_answer).strip():
        return ["direct_answer is empty; write the answer, or null and subtasks."]
    return []


def _size_problems(plan: Plan, rules: PlanRules) -> list[str]:
    if not plan.subtasks:
        return ["The plan has neither subtasks nor a direct_answer."]
    if len(plan.subtasks) > rules.max_subtasks:
        return [f"The plan has {len(plan.subtasks)} subtasks; at most {rules.max_subtasks}."]
    return []


def _custom_worker_problems(plan: Plan, rules: PlanRules) -> list[str]:
    problems: list[str] = []
    names = [worker.name for worker in plan.custom_workers]
    if len(names) > rules.custom_workers:
        problems.append(
            f"The plan brings {len(names)} custom workers; this run allows "
            f"{rules.custom_workers or 'none'}."
        )
    problems += [
        f"The custom worker {name!r} needs another name: this one is taken."
        for name in sorted(set(names))
        if name in rules.workers or name in rules.taken or names.count(name) > 1
    ]
    return problems


def _reference_problems(plan: Plan, rules: PlanRules, workers: Collection[str]) -> list[str]:
    ids = [subtask.id for subtask in plan.subtasks]
    repeated = sorted({name for name in ids if ids.count(name) > 1})
    problems = [f"Several subtasks have the id {name!r}." for name in repeated]
    for subtask in plan.subtasks:
        at = f"Subtask {subtask.id!r}"
        if subtask.worker not in workers:
            problems.append(
                f"{at} names the worker {subtask.worker!r}, which does not exist; "
                f"available: {', '.join(sorted(workers))}."
            )
        if subtask.id in subtask.depends_on:
            problems.append(f"{at} depends on itself.")
        problems += [
            f"{at} depends on {name!r}, which is no subtask of the plan."
            for name in subtask.depends_on
            if name not in ids
        ]
        problems += [
            f"{at} wants the input {quoted(name)}, which does not exist; "
            f"available: {', '.join(map(quoted, sorted(rules.inputs))) or 'none'}."
            for name in subtask.inputs
            if name not in rules.inputs
        ]
        if not subtask.objective.strip():
            problems.append(f"{at} has an empty objective.")
    return problems


def strategy_problems(subtask: Subtask, workers: Collection[str]) -> list[str]:
    """Return what keeps a subtask from being done by its strategy, a sentence each."""
    at = f"The strategy of subtask {subtask.id!r}"
    problems = [
        f"{at} names the worker {name!r}, which does not exist; "
        f"available: {', '.join(sorted(workers))}."
        for name in strategy_workers(subtask.strategy)
        if name and name not in workers
    ]
    match subtask.strategy:
        case Vote(decide="rubric", criteria=()):
            problems.append(f"{at} scores answers by a rubric, but names no criteria.")
        case Vote(decide="rubric", criteria=criteria) if len(
            {criterion.name for criterion in criteria}
        ) < len(criteria):
            problems.append(f"{at} names a criterion twice.")
        case Vote(voters=(_,)):
            problems.append(f"{at} has one voter; it takes two to vote.")
        case Map(over="contexts", contexts=()):
            problems.append(f"{at} goes over contexts, but names none.")
        case Map(over="contexts", contexts=contexts) if len(contexts) > MOST_PARTS:
            problems.append(_too_many_parts(at, len(contexts)))
        case Map(over="inputs" | "sections") if not subtask.inputs:
            problems.append(f"{at} goes over inputs, but the subtask has none.")
        case Map(over="inputs") if len(subtask.inputs) > MOST_PARTS:
            problems.append(_too_many_parts(at, len(subtask.inputs)))
        case _:
            pass
    return problems


def _too_many_parts(at: str, parts: int) -> str:
    return f"{at} has {parts} parts; one subtask may have {MOST_PARTS}."


def strategy_workers(strategy: Strategy) -> list[str]:
    """Return the workers that a strategy names; an empty name is the subtask's own."""
    match strategy:
        case Revise():
            return [strategy.critic]
        case Vote():
            return [voter.worker for voter in strategy.voters]
        case _:
            return []


def find_cycle(subtasks: Iterable[Subtask]) -> list[str]:
    """Return the ids along a cycle of dependencies; none where there is no cycle."""
    graph = {
        subtask.id: [name for name in subtask.depends_on if name != subtask.id]
        for subtask in subtasks
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as exc:
        return [str(name) for name in reversed(exc.args[1])]
    return []


def plan_schema(rules: PlanRules) -> JsonSchema:
    """Return the JSON Schema that a planner's reply must have under `rules`."""
    text = {"type": "string"}
    plan = {
        "analysis": text,
        "direct_answer": {"anyOf": [text, {"type": "null"}]},
        "mode": {"enum": [rules.mode] if rules.mode else ["static", "adaptive"]},
        "why": text,
        "verify": {"enum": ["none", "report", "mend"]},
        "subtasks": {"type": "array", "items": subtask_schema(rules)},
    }
    if rules.custom_workers:
        worker = {"name": text, "description": text, "instructions": text, "why": text}
        # Written first, because subtasks refer to them.
        custom = {"custom_workers": {"type": "array", "items": closed_object(worker)}}
        plan = custom | plan
    return closed_object(plan)


def subtask_schema(rules: PlanRules) -> JsonSchema:
    """Return the JSON Schema of one subtask under `rules`."""
    text = {"type": "string"}
    names: Mapping[str, Any] = {"type": "array", "items": text}
    inputs = {"type": "array", "items": {"enum": sorted(rules.inputs)}} if rules.inputs else names
    worker: Mapping[str, Any] = {"enum": sorted(rules.workers)}
    if rules.custom_workers:
        # The name of a custom worker is not known before the plan is written.
        worker = {"anyOf": [worker, text]}
    return closed_object(
        {
            "id": {"type": "string", "description": "s1, s2, …", "pattern": ID_PATTERN},
            "worker": worker,
            "objective": {"type": "string", "minLength": 1},
            "why": text,
            "depends_on": names,
            "priority": {"enum": ["high", "medium", "low"]},
            "inputs": inputs,
            "expects": text,
            "needs_all": {"type": "boolean"},
            "decisive": {"type": "boolean"},
            "strategy": strategy_schema(),
        }
    )


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
