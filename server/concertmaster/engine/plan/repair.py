"""How a plan that cannot be run is mended by rule, when its planner did not mend it."""

import difflib
import itertools
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from concertmaster.engine.plan.plan import PRIORITIES, SINGLE, CustomWorker, Plan, Subtask, free_id
from concertmaster.engine.plan.validation import PlanRules, find_cycle, strategy_problems

GENERAL_WORKERS = ("analyst", "researcher", "writer")
"""Workers that can take over a subtask whose own worker does not exist, in order of preference."""


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
    custom = _allowed(plan.custom_workers, rules, warnings)
    workers = [*rules.workers, *(worker.name for worker in custom)]
    subtasks = _with_known_workers(_distinct(plan.subtasks, warnings), workers, warnings)
    subtasks = _shortened(subtasks, rules, left_out)
    subtasks = _with_known_references(subtasks, rules, warnings)
    subtasks = _with_possible_strategies(subtasks, workers, warnings)
    subtasks = _without_cycles(subtasks, warnings)
    if not subtasks:
        subtasks = [_whole_task(task, rules)]
        warnings.append("The plan had nothing that could be run; one worker got the whole task.")
    repaired = plan.model_copy(
        update={
            "direct_answer": None,
            "mode": rules.mode or plan.mode,
            "subtasks": tuple(subtasks),
            "custom_workers": custom,
        }
    )
    return RepairedPlan(plan=repaired, warnings=tuple(warnings), left_out=tuple(left_out))


def _whole_task(task: str, rules: PlanRules) -> Subtask:
    worker = _stand_in("", rules.workers)
    return Subtask(id="s1", worker=worker, objective=task, inputs=tuple(rules.inputs))


def _allowed(
    custom: Iterable[CustomWorker], rules: PlanRules, warnings: list[str]
) -> tuple[CustomWorker, ...]:
    allowed: dict[str, CustomWorker] = {}
    for worker in custom:
        taken = {*rules.workers, *rules.taken, *allowed}
        if len(allowed) < rules.custom_workers and worker.name not in taken:
            allowed[worker.name] = worker
        else:
            warnings.append(f"The custom worker {worker.name!r} was left out.")
    return tuple(allowed.values())


def _distinct(subtasks: Sequence[Subtask], warnings: list[str]) -> list[Subtask]:
    kept: dict[str, Subtask] = {}
    for subtask in subtasks:
        if not subtask.objective.strip():
            warnings.append(f"Subtask {subtask.id!r} had no objective and was left out.")
            continue
        name = free_id(subtask.id, kept)
        if name != subtask.id:
            warnings.append(f"A second subtask {subtask.id!r} was renamed {name!r}.")
        kept[name] = subtask.model_copy(update={"id": name})
    return list(kept.values())


def _with_known_workers(
    subtasks: Iterable[Subtask], workers: Collection[str], warnings: list[str]
) -> list[Subtask]:
    mended: list[Subtask] = []
    for subtask in subtasks:
        worker = subtask.worker
        if worker not in workers:
            worker = _stand_in(worker, workers)
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
    ranked = sorted(subtasks, key=lambda subtask: PRIORITIES.index(subtask.priority))
    best = ranked[: rules.max_subtasks]
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


def _with_possible_strategies(
    subtasks: Iterable[Subtask], workers: Collection[str], warnings: list[str]
) -> list[Subtask]:
    mended: list[Subtask] = []
    for subtask in subtasks:
        if problems := strategy_problems(subtask, workers):
            warnings.append(f"{' '.join(problems)} One worker does it, once.")
            subtask = subtask.model_copy(update={"strategy": SINGLE})
        mended.append(subtask)
    return mended


def _without_cycles(subtasks: Sequence[Subtask], warnings: list[str]) -> list[Subtask]:
    mended = {subtask.id: subtask for subtask in subtasks}
    while cycle := find_cycle(mended.values()):
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
