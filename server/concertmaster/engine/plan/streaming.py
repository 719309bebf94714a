"""A plan while it is being written: subtasks that are complete can start before the rest."""

from collections.abc import Callable, Mapping
from graphlib import TopologicalSorter

from pydantic import ValidationError
from pydantic_core import from_json

from concertmaster.engine.plan.plan import Plan, Subtask, free_id
from concertmaster.engine.plan.validation import (
    PlanRules,
    implied_dependencies,
    plan_problems,
    same_work,
)

_CLOSING = "]}"
"""What ends a plan right behind a complete subtask."""


class PlanReader:
    """Finds the subtasks that are complete in the text of a plan, as it grows."""

    def __init__(self) -> None:
        self._read = 0

    def read(self, text: str) -> Plan | None:
        """Return the plan so far, if one more of its subtasks has become complete in `text`.

        Text that is shorter than the last is that of another attempt, read from its start.
        """
        if len(text) < self._read:
            self._read = 0
        found = None
        while (at := text.find("}", self._read)) >= 0:
            self._read = at + 1
            found = _plan_up_to(text[: at + 1]) or found
        self._read = len(text)
        return found


def _plan_up_to(text: str) -> Plan | None:
    """Return the plan that `text` is the beginning of, if it ends where a subtask does."""
    start = text.find("{")
    try:
        plan = Plan.model_validate(from_json(text[start:] + _CLOSING, allow_inf_nan=False))
    except (ValueError, ValidationError):
        return None
    return plan if plan.subtasks else None


class Drafts:
    """The subtasks of an unfinished plan that can be started, whatever the rest of it says.

    `start` is told the plan as far as it can be run, each time that there is more of it.
    """

    def __init__(self, rules: PlanRules, start: Callable[[Plan], None]) -> None:
        self._rules = rules
        self._start = start
        self._reader = PlanReader()
        self._started: dict[str, Subtask] = {}

    def read(self, text: str) -> None:
        """Take in what has been written of the plan."""
        plan = self._reader.read(text)
        if plan is None or plan.direct_answer is not None:
            return
        before = len(self._started)
        for subtask in plan.subtasks:
            self._take_in(subtask, plan)
        if len(self._started) > before:
            self._start(self._runnable(plan, list(self._started.values())))

    def _take_in(self, subtask: Subtask, plan: Plan) -> None:
        """Count a subtask as started, unless something speaks against it so far."""
        if any(
            subtask.id == each.id or same_work(subtask, each) for each in self._started.values()
        ):
            return
        if implied_dependencies(subtask, plan.subtasks).subtask_ids:
            # It will have to wait for those in the whole plan.
            return
        candidate = self._runnable(plan, [*self._started.values(), subtask])
        if not plan_problems(candidate, self._rules):
            self._started[subtask.id] = subtask

    def _runnable(self, plan: Plan, subtasks: list[Subtask]) -> Plan:
        # Workers that the plan brings along may still change with the rest of it.
        mode = self._rules.mode or plan.mode
        return plan.model_copy(
            update={"mode": mode, "subtasks": tuple(subtasks), "custom_workers": ()}
        )


def settle(plan: Plan, started: Mapping[str, Subtask]) -> Plan:
    """Return `plan` with the ids under which its subtasks were started, where they were.

    Other subtasks get other ids than those: what has been done under an id is in the journal, and
    must not pass for other work.
    """
    subtasks = {subtask.id: subtask for subtask in plan.subtasks}
    same = {name for name in subtasks.keys() & started if _same_work(subtasks[name], started[name])}
    begun = {name: item for name, item in started.items() if name not in same}
    names: dict[str, str] = {}
    settled: dict[str, Subtask] = {}
    order = TopologicalSorter({item.id: item.depends_on for item in plan.subtasks}).static_order()
    for old in order:
        depends_on = tuple(names[name] for name in subtasks[old].depends_on)
        subtask = subtasks[old].model_copy(update={"depends_on": depends_on})
        if old not in started or not _same_work(subtask, started[old]):
            name = _begun_as(subtask, begun)
            if name:
                del begun[name]
            elif old in started:
                name = free_id(old, {*subtasks, *names.values(), *started})
            subtask = subtask.model_copy(update={"id": name or old})
        names[old] = subtask.id
        settled[old] = subtask
    return plan.model_copy(update={"subtasks": tuple(settled[name] for name in subtasks)})


def _begun_as(subtask: Subtask, begun: Mapping[str, Subtask]) -> str:
    """Return the id under which the work of a subtask was started; empty if it was not."""
    return next(
        (
            name
            for name, item in begun.items()
            if _same_work(subtask.model_copy(update={"id": name}), item)
        ),
        "",
    )


def _same_work(one: Subtask, other: Subtask) -> bool:
    """Tell whether two subtasks of one id ask the same worker for the same."""
    beside_the_work = {"why", "priority", "decisive"}
    return one.model_dump(exclude=beside_the_work) == other.model_dump(exclude=beside_the_work)
