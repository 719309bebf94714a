"""The plan of a run: its shape, what makes it valid, and how one that is not is mended."""

import difflib
import itertools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any, Literal

from pydantic import Field, ValidationError

from concertmaster.errors import InvalidPlanError
from concertmaster.llm.protocol import Frozen, JsonSchema

Priority = Literal["high", "medium", "low"]
"""How much the answer depends on a subtask; decides who gets a slot first."""

GENERAL_WORKERS = ("analyst", "researcher", "writer")
"""Workers that can take over a subtask whose own worker does not exist, in order of preference."""


class Subtask(Frozen):
    """One unit of a plan: a worker, its objective, and what it depends on."""

    id: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,39}$")
    worker: str = Field(min_length=1)
    objective: str = Field(min_length=1)
    why: str = ""
    depends_on: tuple[str, ...] = ()
    priority: Priority = "medium"
    inputs: tuple[str, ...] = ()
    """Names of the run's inputs that the worker gets; it gets no others."""
    expects: str = ""
    """What the result should look like."""
    needs_all: bool = False
    """Skip this subtask when a dependency failed, rather than run it with the failure named."""
    timeout_seconds: float | None = Field(default=None, gt=0)
    max_tokens: int | None = Field(default=None, gt=0)


class Plan(Frozen):
    """The subtasks of a run, or the direct answer that makes them unnecessary."""

    analysis: str = ""
    direct_answer: str | None = None
    subtasks: tuple[Subtask, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRules:
    """What a plan of one run may refer to."""

    workers: Collection[str]
    inputs: Collection[str]
    max_subtasks: int


def read_plan(text: str) -> Plan:
    """Return the plan that a planner's JSON reply describes, not yet checked against rules.

    Raises:
        InvalidPlanError: it is no JSON, or not of a plan's shape.
    """
    try:
        return Plan.model_validate_json(_strip_fence(text))
    except ValidationError as exc:
        raise InvalidPlanError(shape_problems(exc)) from None


def shape_problems(error: ValidationError) -> list[str]:
    """Return one sentence for each thing that is wrong with a plan's shape."""
    problems: list[str] = []
    for item in error.errors(include_url=False, include_input=False):
        where = ".".join(str(part) for part in item["loc"])
        problems.append(f"{where}: {item['msg']}." if where else f"{item['msg']}.")
    return problems


def _strip_fence(text: str) -> str:
    fenced = re.fullmatch(r"\s*```(?:json)?\s*\n(.*)\n\s*```\s*", text, flags=re.DOTALL)
    return fenced.group(1) if fenced else text


def plan_problems(plan: Plan, rules: PlanRules) -> list[str]:
    """Return one sentence for each reason why `plan` cannot be run; none if it can."""
    if plan.direct_answer is not None:
        return _direct_answer_problems(plan)
    problems = [*_size_problems(plan, rules), *_reference_problems(plan, rules)]
    if cycle := _cycle(plan.subtasks):
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


def _reference_problems(plan: Plan, rules: PlanRules) -> list[str]:
    ids = [subtask.id for subtask in plan.subtasks]
    repeated = sorted({name for name in ids if ids.count(name) > 1})
    problems = [f"Several subtasks have the id {name!r}." for name in repeated]
    for subtask in plan.subtasks:
        at = f"Subtask {subtask.id!r}"
        if subtask.worker not in rules.workers:
            problems.append(
                f"{at} names the worker {subtask.worker!r}, which does not exist; "
                f"available: {', '.join(sorted(rules.workers))}."
            )
        if subtask.id in subtask.depends_on:
            problems.append(f"{at} depends on itself.")
        problems += [
            f"{at} depends on {name!r}, which is no subtask of the plan."
            for name in subtask.depends_on
            if name not in ids
        ]
        problems += [
            f"{at} wants the input {name!r}, which does not exist; "
            f"available: {', '.join(sorted(rules.inputs)) or 'none'}."
            for name in subtask.inputs
            if name not in rules.inputs
        ]
        if not subtask.objective.strip():
            problems.append(f"{at} has an empty objective.")
    return problems


def _cycle(subtasks: Iterable[Subtask]) -> list[str]:
    graph = {
        subtask.id: [name for name in subtask.depends_on if name != subtask.id]
        for subtask in subtasks
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as exc:
        return [str(name) for name in reversed(exc.args[1])]
    return []


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairedPlan:
    """A plan that can be run, and what was changed to make it so, a sentence each."""

    plan: Plan
    warnings: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    """Work that the plan had and the run will not do."""


def repair_plan(plan: Plan, rules: PlanRules, *, task: str) -> RepairedPlan:
    """Return the plan that can be run and is nearest to `plan`.

    A plan that has nothing to keep becomes one subtask with the whole task.
    """
    warnings: list[str] = []
    left_out: list[str] = []
    if plan.subtasks and plan.direct_answer is not None:
        warnings.append("The plan had subtasks and a direct answer; the subtasks are run.")
    subtasks = _with_known_workers(_distinct(plan.subtasks, warnings), rules, warnings)
    subtasks = _shortened(subtasks, rules, left_out)
    subtasks = _with_known_references(subtasks, rules, warnings)
    subtasks = _without_cycles(subtasks, warnings)
    if not subtasks:
        subtasks = [_whole_task(task, rules)]
        warnings.append("The plan had nothing that could be run; one worker got the whole task.")
    repaired = plan.model_copy(update={"direct_answer": None, "subtasks": tuple(subtasks)})
    return RepairedPlan(plan=repaired, warnings=tuple(warnings), left_out=tuple(left_out))


def _whole_task(task: str, rules: PlanRules) -> Subtask:
    worker = _stand_in("", rules.workers)
    return Subtask(id="s1", worker=worker, objective=task, inputs=tuple(rules.inputs))


ID_CHARS = 40
"""The longest id of a subtask."""


def _distinct(subtasks: Sequence[Subtask], warnings: list[str]) -> list[Subtask]:
    kept: dict[str, Subtask] = {}
    for subtask in subtasks:
        if not subtask.objective.strip():
            warnings.append(f"Subtask {subtask.id!r} had no objective and was left out.")
            continue
        name, number = subtask.id, 2
        while name in kept:
            suffix = f"_{number}"
            name = subtask.id[: ID_CHARS - len(suffix)] + suffix
            number += 1
        if name != subtask.id:
            warnings.append(f"A second subtask {subtask.id!r} was renamed {name!r}.")
        kept[name] = subtask.model_copy(update={"id": name})
    return list(kept.values())


def _with_known_workers(
    subtasks: Iterable[Subtask], rules: PlanRules, warnings: list[str]
) -> list[Subtask]:
    mended: list[Subtask] = []
    for subtask in subtasks:
        worker = subtask.worker
        if worker not in rules.workers:
            worker = _stand_in(worker, rules.workers)
            warnings.append(
                f"Subtask {subtask.id!r} named the unknown worker {subtask.worker!r}; "
                f"{worker!r} does it."
            )
        mended.append(subtask.model_copy(update={"worker": worker}))
    return mended


def _stand_in(name: str, workers: Collection[str]) -> str:
    near = difflib.get_close_matches(name, workers, n=1, cutoff=0.8)
    general = [worker for worker in GENERAL_WORKERS if worker in workers]
    return (near or general or sorted(workers))[0]


def _shortened(subtasks: list[Subtask], rules: PlanRules, left_out: list[str]) -> list[Subtask]:
    """Keep the subtasks of highest priority, and among equals the first."""
    rank = {"high": 0, "medium": 1, "low": 2}
    best = sorted(subtasks, key=lambda subtask: rank[subtask.priority])[: rules.max_subtasks]
    kept = {subtask.id for subtask in best}
    left_out.extend(
        f"Subtask {subtask.id!r} was left out, because a run has at most "
        f"{rules.max_subtasks}: {subtask.objective}"
        for subtask in subtasks
        if subtask.id not in kept
    )
    return [subtask for subtask in subtasks if subtask.id in kept]


def _with_known_references(
    subtasks: Sequence[Subtask], rules: PlanRules, warnings: list[str]
) -> list[Subtask]:
    ids = {subtask.id for subtask in subtasks}
    mended: list[Subtask] = []
    for subtask in subtasks:
        others = ids - {subtask.id}
        depends_on = tuple(name for name in subtask.depends_on if name in others)
        inputs = tuple(name for name in subtask.inputs if name in rules.inputs)
        dropped = [name for name in subtask.depends_on if name not in others]
        dropped += [name for name in subtask.inputs if name not in rules.inputs]
        warnings += [
            f"Subtask {subtask.id!r} referred to {name!r}, which it cannot have; "
            "the reference was dropped."
            for name in dropped
        ]
        mended.append(subtask.model_copy(update={"depends_on": depends_on, "inputs": inputs}))
    return mended


def _without_cycles(subtasks: Sequence[Subtask], warnings: list[str]) -> list[Subtask]:
    mended = {subtask.id: subtask for subtask in subtasks}
    while cycle := _cycle(mended.values()):
        # The edge that points from an earlier subtask of the plan to a later one is the
        # likelier mistake: planners write in the order of the work.
        order = list(mended)
        waiting, awaited = max(
            itertools.pairwise(cycle),
            key=lambda edge: order.index(edge[1]) - order.index(edge[0]),
        )
        subtask = mended[waiting]
        kept = tuple(name for name in subtask.depends_on if name != awaited)
        mended[waiting] = subtask.model_copy(update={"depends_on": kept})
        warnings.append(
            f"The dependencies formed a cycle; {waiting!r} no longer waits for {awaited!r}."
        )
    return list(mended.values())


def plan_schema(rules: PlanRules) -> JsonSchema:
    """Return the JSON Schema that a planner's reply must have under `rules`."""
    names: Mapping[str, Any] = {"type": "array", "items": {"type": "string"}}
    inputs = {"type": "array", "items": {"enum": sorted(rules.inputs)}} if rules.inputs else names
    subtask = {
        "id": {"type": "string", "description": "s1, s2, …"},
        "worker": {"enum": sorted(rules.workers)},
        "objective": {"type": "string"},
        "why": {"type": "string"},
        "depends_on": names,
        "priority": {"enum": ["high", "medium", "low"]},
        "inputs": inputs,
        "expects": {"type": "string"},
        "needs_all": {"type": "boolean"},
    }
    plan = {
        "analysis": {"type": "string"},
        "direct_answer": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "subtasks": {"type": "array", "items": _closed(subtask)},
    }
    return _closed(plan)


def _closed(properties: Mapping[str, Any]) -> JsonSchema:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }
