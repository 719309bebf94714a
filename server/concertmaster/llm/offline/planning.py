"""The offline plan: the task and its inputs matched with what workers declare."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from concertmaster.errors import ModelRequestError
from concertmaster.llm.messages import Document, PlanBrief, WorkerCard
from concertmaster.llm.offline.data import is_table
from concertmaster.llm.offline.passages import words
from concertmaster.llm.offline.skills import (
    SKILLS,
    CodeSkill,
    DataSkill,
    NameSkill,
    Skill,
    skill_of,
)
from concertmaster.llm.offline.sources import is_code, is_python
from concertmaster.llm.offline.uses import names_asked_for

FINDINGS_FORM = "A list with the worst first: severity, file:line, what is wrong, how to mend it."
EXTRACTS_FORM = "Markdown with a quotation and its line for everything that is said."

_FINDS = re.compile(
    r"\b(?:review|check|find|look|problem|bug|fault|issue|error|mistake|wrong|audit|inspect|analy|"
    r"assess|evaluat|improv|quality|lint|read|extract|list|show|which|what|who|when|how|where|why|"
    r"explain|report|describ|understand|identif|compare|tell|go through)",
    re.IGNORECASE,
)
_JUDGES = re.compile(
    r"\b(?:review|problem|bug|fault|issue|mistake|audit|inspect|analy|assess|improv|quality)",
    re.IGNORECASE,
)
_MAKES = re.compile(
    r"\b(?:write|rewrite|translate|convert|implement|create|generate|draft|refactor|fix|port|build|"
    r"develop|design|invent)\b",
    re.IGNORECASE,
)
_ABOUT_CODE = re.compile(
    r"\b(?:code|modules?|functions?|class(?:es)?|python|scripts?|programs?|apps?|repo(?:sitory)?)\b",
    re.IGNORECASE,
)
_ABOUT_DOCUMENTS = re.compile(
    r"\b(?:contracts?|agreements?|documents?|texts?|letters?|reports?|polic(?:y|ies)|papers?|"
    r"articles?|minutes|terms|clauses?|readme)\b",
    re.IGNORECASE,
)
_FILE_NAME = re.compile(r"\S*(?:/\S+|\.\w{1,5}\b)")

_RANK = {"high": 0, "medium": 1, "low": 2}


@dataclass(frozen=True, slots=True)
class _Candidate:
    card: WorkerCard
    skill: Skill
    inputs: tuple[str, ...]
    objective: str
    reason: str = ""


def make_plan(brief: PlanBrief) -> str:
    """Return a plan as JSON, of the subtasks that rules can do.

    Raises:
        ModelRequestError: there are none; it says why, and what rules can do.
    """
    task = _FILE_NAME.sub(" ", brief.task)
    candidates = _candidates(brief, task)
    if not candidates or _only_makes(task):
        raise ModelRequestError(_cannot(brief, candidates))
    chosen = sorted(_chosen(candidates, task), key=_importance)
    kept, left_out = chosen[: brief.max_subtasks], chosen[brief.max_subtasks :]
    return json.dumps(
        {
            "analysis": _analysis(brief, task, kept, left_out),
            "direct_answer": None,
            "mode": "static",
            "why": "By rules, what each worker finds does not change what the others look for.",
            "subtasks": [_subtask(number, item) for number, item in enumerate(kept, start=1)],
        },
        ensure_ascii=False,
    )


def _candidates(brief: PlanBrief, task: str) -> list[_Candidate]:
    """Return the workers that rules can stand in for, each with the inputs it is for."""
    python, documents = _inputs(brief.inputs, task)
    tables = [name for name in documents if is_table(name)]
    if any(isinstance(skill_of(card), DataSkill) for card in brief.workers):
        documents = [name for name in documents if name not in tables]
    names = [] if _JUDGES.search(task) else names_asked_for(brief.task)
    candidates: list[_Candidate] = []
    for card in brief.workers:
        skill = skill_of(card)
        match skill:
            case NameSkill():
                if names:
                    candidates.append(_name_search(card, skill, brief.inputs, names))
                continue
            case CodeSkill():
                inputs = python
            case DataSkill():
                inputs = tables
            case _:
                inputs = documents
        if skill is not None and inputs:
            objective = f"{skill.objective}, in {_listed(inputs)}."
            candidates.append(_Candidate(card, skill, tuple(inputs), objective))
    return candidates


def _name_search(
    card: WorkerCard, skill: Skill, inputs: Iterable[Document], names: Iterable[str]
) -> _Candidate:
    quoted = ", ".join(f"`{name}`" for name in names)
    objective = f"{skill.objective}: {quoted}."
    return _Candidate(card, skill, tuple(document.name for document in inputs), objective)


def _inputs(inputs: Iterable[Document], task: str) -> tuple[list[str], list[str]]:
    """Return the names of the Python files and of the documents that the task is about."""
    names = [document.name for document in inputs]
    python = [name for name in names if is_python(name)]
    documents = [name for name in names if not is_code(name)]
    about_code = _ABOUT_CODE.search(task) is not None
    about_documents = _ABOUT_DOCUMENTS.search(task) is not None
    if python and about_code and not about_documents:
        return python, []
    if documents and about_documents and not about_code:
        return [], documents
    return python, documents


def _only_makes(task: str) -> bool:
    named = any(skill.words.search(task) for skill in SKILLS if not isinstance(skill, NameSkill))
    return bool(_MAKES.search(task)) and not named and not _FINDS.search(task)


def _chosen(candidates: Sequence[_Candidate], task: str) -> list[_Candidate]:
    """Return the candidates that the task wants: one for each skill, or those it names."""
    by_name = [item for item in candidates if _names(task, item.card.name)]
    if by_name:
        return [_because(item, "the task names this worker") for item in by_name]
    best = _best_of_each_skill(candidates, task)
    named = [
        _because(item, f"the task says “{found[0].strip()}”")
        for item in best
        if (found := item.skill.words.search(task))
    ]
    if any(item.skill.narrows and not item.skill.whole for item in named):
        return [item for item in named if not item.skill.whole]
    usual = [item for item in best if item.skill.narrows and not item.skill.whole]
    wanted = [*usual, *(item for item in named if not item.skill.whole)] or best
    return [
        item if item.reason else _because(item, "the task names no speciality") for item in wanted
    ]


def _importance(item: _Candidate) -> tuple[int, int]:
    return (_RANK[item.skill.priority], SKILLS.index(item.skill))


def _names(task: str, worker: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(worker)}(?![\w-])", task, re.IGNORECASE) is not None


def _because(candidate: _Candidate, reason: str) -> _Candidate:
    return replace(candidate, reason=reason)


def _best_of_each_skill(candidates: Iterable[_Candidate], task: str) -> list[_Candidate]:
    best: dict[Skill, tuple[int, _Candidate]] = {}
    for item in candidates:
        fit = _shared_words(item.card, task)
        if item.skill not in best or fit > best[item.skill][0]:
            best[item.skill] = (fit, item)
    return [item for _, item in best.values()]


def _shared_words(card: WorkerCard, task: str) -> int:
    declared = set(words(" ".join((card.name, card.description, *card.best_for))))
    return len({word for word in words(task) if len(word) > 3} & declared)


def _subtask(number: int, item: _Candidate) -> dict[str, object]:
    specialities = ", ".join(item.card.best_for[:3]) or item.card.description
    is_code_skill = isinstance(item.skill, CodeSkill)
    return {
        "id": f"s{number}",
        "worker": item.card.name,
        "objective": item.objective,
        "why": f"{item.reason[0].upper()}{item.reason[1:]}; this one is for {specialities}.",
        "depends_on": [],
        "priority": item.skill.priority,
        "inputs": list(item.inputs),
        "expects": FINDINGS_FORM if is_code_skill else EXTRACTS_FORM,
        "needs_all": False,
    }


def _listed(names: Sequence[str], most: int = 5) -> str:
    more = [f"{len(names) - most} more"] if len(names) > most else []
    return ", ".join([*names[:most], *more])


def _analysis(
    brief: PlanBrief, task: str, kept: Sequence[_Candidate], left_out: Sequence[_Candidate]
) -> str:
    used = {name for item in kept for name in item.inputs}
    unused = [document.name for document in brief.inputs if document.name not in used]
    parts = [
        f"Planned by rules, without a language model: {len(kept)} independent subtasks on "
        f"{_listed(sorted(used)) or 'what may be read'}."
    ]
    if unused:
        parts.append(f"Not used, as no rule fits the task and them: {_listed(unused)}.")
    if left_out:
        names = ", ".join(item.card.name for item in left_out)
        parts.append(f"Left out, as there may be at most {brief.max_subtasks} subtasks: {names}.")
    if _MAKES.search(task):
        parts.append("Nothing is written or changed; that needs a language model.")
    return " ".join(parts)


def _cannot(brief: PlanBrief, candidates: Sequence[_Candidate]) -> str:
    """Return why there is no plan, and what would help."""
    names = _listed([document.name for document in brief.inputs])
    if not brief.inputs:
        reason = (
            "no inputs were given, and without a language model it works on those alone, but for "
            "telling where a name is (“Where is `load_orders` used?”)"
        )
    elif candidates:
        reason = "it only finds and extracts; it does not write or change anything"
    elif all(is_code(item.name) and not is_python(item.name) for item in brief.inputs):
        reason = f"it reviews Python code and reads documents, and {names} is neither"
    else:
        reason = f"none of the workers that may be used does anything with {names} that rules can"
    return (
        "No language model is configured, and the offline model, which works by fixed rules, "
        f"cannot do this because {reason}. It can review Python files (“Review this code for "
        "problems”) and analyse documents in Markdown or plain text (“Analyse this contract”), "
        "given as inputs. For everything else, set ANTHROPIC_API_KEY or CONCERTMASTER_API_KEY."
    )
