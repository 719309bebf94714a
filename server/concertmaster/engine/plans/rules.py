"""What a plan of a run may say, what is wrong with one that says otherwise."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any

from concertmaster.engine.plans.plan import ID_PATTERN, Plan, PlanMode, Subtask
from concertmaster.engine.plans.strategy import (
    MOST_PARTS,
    Map,
    Revise,
    Strategy,
    Vote,
    strategy_schema,
)
from concertmaster.llm.fencing import quoted
from concertmaster.llm.protocol import JsonSchema, closed_object


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
