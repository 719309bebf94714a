"""Which subtask goes next. A pure state machine: events in, decisions out, no I/O, no clock.

A subtask is ready the moment its own dependencies have ended. Ready subtasks get slots in
order of priority, then of the longest chain of subtasks that hangs on them, then of the plan.
"""

import heapq
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter

from concertmaster.engine.events import SubtaskStatus
from concertmaster.engine.plan import Subtask

_RANK = {"high": 0, "medium": 1, "low": 2}
_USABLE: frozenset[SubtaskStatus] = frozenset({"succeeded", "partial"})


@dataclass(frozen=True, slots=True)
class Start:
    """Run this subtask now."""

    subtask: Subtask


@dataclass(frozen=True, slots=True)
class Skip:
    """Do not run this subtask, because what it needs is not there."""

    subtask: Subtask
    missing: tuple[str, ...]
    """The dependencies that ended without a usable result."""


Decision = Start | Skip


class Scheduler:
    """The subtasks of one run and what has become of them.

    Feed it `ended` for every subtask it told to start; it answers with what to do next.
    The first decisions come from `begin`.
    """

    def __init__(self, subtasks: Sequence[Subtask], *, slots: int) -> None:
        self._subtasks = {subtask.id: subtask for subtask in subtasks}
        self._free = slots
        self._waits_for = {subtask.id: len(set(subtask.depends_on)) for subtask in subtasks}
        self._dependants: dict[str, list[str]] = defaultdict(list)
        for subtask in subtasks:
            for name in dict.fromkeys(subtask.depends_on):
                self._dependants[name].append(subtask.id)
        chain = self._chains()
        self._order = {
            subtask.id: (_RANK[subtask.priority], -chain[subtask.id], position)
            for position, subtask in enumerate(subtasks)
        }
        self._ready: list[tuple[tuple[int, int, int], str]] = []
        self._ended: dict[str, SubtaskStatus] = {}

    @property
    def over(self) -> bool:
        """Tell whether every subtask has ended."""
        return len(self._ended) == len(self._subtasks)

    def begin(self) -> list[Decision]:
        """Return the first decisions."""
        for name, count in self._waits_for.items():
            if count == 0:
                self._push(name)
        return self._fill()

    def ended(self, subtask_id: str, status: SubtaskStatus) -> list[Decision]:
        """Take in that a running subtask has ended, and return what to do next."""
        self._free += 1
        return [*self._settle(subtask_id, status), *self._fill()]

    def _settle(self, subtask_id: str, status: SubtaskStatus) -> list[Decision]:
        """Record an end and everything that follows from it without a slot: skipped subtasks."""
        decisions: list[Decision] = []
        settled: list[tuple[str, SubtaskStatus]] = [(subtask_id, status)]
        while settled:
            name, status = settled.pop()
            self._ended[name] = status
            for dependant in self._dependants[name]:
                self._waits_for[dependant] -= 1
                if self._waits_for[dependant]:
                    continue
                if missing := self._missing(self._subtasks[dependant]):
                    decisions.append(Skip(self._subtasks[dependant], missing))
                    settled.append((dependant, "skipped"))
                else:
                    self._push(dependant)
        return decisions

    def _missing(self, subtask: Subtask) -> tuple[str, ...]:
        """Return the dependencies without which `subtask` is not to run.

        One that does not need them all runs even with none, and is told what failed.
        """
        if not subtask.needs_all:
            return ()
        return tuple(name for name in subtask.depends_on if self._ended[name] not in _USABLE)

    def _push(self, name: str) -> None:
        heapq.heappush(self._ready, (self._order[name], name))

    def _fill(self) -> list[Decision]:
        decisions: list[Decision] = []
        while self._ready and self._free:
            _, name = heapq.heappop(self._ready)
            self._free -= 1
            decisions.append(Start(self._subtasks[name]))
        return decisions

    def _chains(self) -> dict[str, int]:
        """Return, for each subtask, how many subtasks the longest chain from it has."""
        graph: dict[str, Collection[str]] = {
            name: self._dependants[name] for name in list(self._subtasks)
        }
        chains: dict[str, int] = {}
        for name in TopologicalSorter(graph).static_order():
            chains[name] = 1 + max((chains[after] for after in graph[name]), default=0)
        return chains
