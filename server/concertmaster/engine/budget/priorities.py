"""Which subtasks a budget reaches for, the most important first."""

from collections.abc import Mapping, Sequence
from graphlib import TopologicalSorter

from concertmaster.engine.budget.account import NOTHING, Amount
from concertmaster.engine.plans.plan import PRIORITIES, Subtask


def beyond(
    subtasks: Sequence[Subtask], amounts: Mapping[str, Amount], available: Amount
) -> frozenset[str]:
    """Return the subtasks that what is available does not reach for, the least important ones.

    The most important one is within reach in any case. A subtask is as important as the most
    important one that depends on it, so that none within reach depends on one that is not.
    """
    known = {item.id: item for item in subtasks}
    graph = {item.id: [name for name in item.depends_on if name in known] for item in subtasks}
    order = list(TopologicalSorter(graph).static_order())
    importance = {item.id: PRIORITIES.index(item.priority) for item in subtasks}
    for name in reversed(order):
        for needed in graph[name]:
            importance[needed] = min(importance[needed], importance[name])
    taken = NOTHING
    ranked = sorted(order, key=importance.__getitem__)
    for position, name in enumerate(ranked):
        taken += amounts[name]
        if not taken.within(available):
            return frozenset(ranked[max(position, 1) :])
    return frozenset()
