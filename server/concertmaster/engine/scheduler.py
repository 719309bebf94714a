"""Which work goes next. A pure state machine: events in, decisions out, no I/O, no clock.

A subtask is ready the moment its own dependencies have ended. Ready subtasks get slots in
order of priority, then of the longest chain of subtasks that hangs on them, then of the plan.
While the plan is still being written, slots can be reserved for subtasks of high priority. What
depends on a decisive subtask can be held until it has been decided what to do next.
A running subtask asks for a slot for each piece of its work; the first takes the one that it
was started with, and the others wait in the same order as subtasks do.
"""

import heapq
import itertools
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from types import MappingProxyType
from typing import NamedTuple

from concertmaster.engine.events import SubtaskStatus
from concertmaster.engine.plan.plan import PRIORITIES, Subtask

NONE_ENDED: Mapping[str, SubtaskStatus] = MappingProxyType({})
_USABLE: frozenset[SubtaskStatus] = frozenset({"succeeded", "partial"})


@dataclass(frozen=True, slots=True)
class Start:
    """Run this subtask now."""

    subtask: Subtask


@dataclass(frozen=True, slots=True)
class Grant:
    """A piece of a running subtask that asked for a slot has one now."""

    piece: object


@dataclass(frozen=True, slots=True)
class Skip:
    """Do not run this subtask, because what it needs is not there."""

    subtask: Subtask
    missing: tuple[str, ...]
    """The dependencies that ended without a usable result."""


Decision = Start | Grant | Skip


class _Waiting(NamedTuple):
    """A subtask, or a piece of a running one, that waits for a slot; the least goes first."""

    order: tuple[int, int, int, int]
    number: int
    subtask_id: str
    work: object

    @property
    def is_important(self) -> bool:
        _, priority, _, _ = self.order
        return priority == 0


class Scheduler:
    """The subtasks of one run and what has become of them.

    Give it the plan with `revise`, and feed it `ended` for every subtask it told to start; it
    answers with what to do next.
    """

    def __init__(self, *, slots: int, holds_for_decisions: bool = False) -> None:
        """With `holds_for_decisions`, dependants of decisive subtasks wait until `decided`."""
        self._subtasks: dict[str, Subtask] = {}
        self._free = slots
        self._waits_for: dict[str, int] = {}
        self._dependants: dict[str, list[str]] = defaultdict(list)
        self._order: dict[str, tuple[int, int, int]] = {}
        self._numbers = itertools.count()
        self._queue: list[_Waiting] = []
        self._held: dict[str, int] = {}
        """The slots that each running subtask has."""
        self._idle: set[str] = set()
        """Running subtasks that keep their last slot while no piece of theirs is at work."""
        self._asked: dict[str, int] = defaultdict(int)
        """The pieces of each running subtask that wait for a slot."""
        self._ended: dict[str, SubtaskStatus] = {}
        self._holds = holds_for_decisions
        self._undecided: set[str] = set()
        """Decisive subtasks that have ended and whose dependants still wait for a decision."""
        self.reserved = 0
        """Free slots that only subtasks of high priority may take."""
        self._deferred: frozenset[str] = frozenset()

    def defer(self, subtask_ids: Collection[str]) -> list[Decision]:
        """Start none of these until they are not deferred any more; return what to do next.

        What was deferred before and is not among them may start.
        """
        self._deferred = frozenset(subtask_ids)
        self._queue = [entry._replace(order=self._place(entry.subtask_id)) for entry in self._queue]
        heapq.heapify(self._queue)
        return self._fill()

    @property
    def stalled(self) -> bool:
        """Tell whether nothing runs and what is left to start is deferred."""
        return not self._held and bool(self._queue)

    @property
    def over(self) -> bool:
        """Tell whether every subtask has ended."""
        return len(self._ended) == len(self._subtasks)

    @property
    def all_started(self) -> bool:
        """Tell whether no subtask is left to start."""
        return len(self._ended) + len(self._held) == len(self._subtasks)

    def ended(self, subtask_id: str, status: SubtaskStatus) -> list[Decision]:
        """Take in that a running subtask has ended, and return what to do next."""
        self._free += self._held.pop(subtask_id)
        self._idle.discard(subtask_id)
        self._asked.pop(subtask_id, None)
        return [*self._advance(self._end(subtask_id, status)), *self._fill()]

    def ask(self, subtask_id: str, piece: object) -> list[Decision]:
        """Take in that a running subtask has a piece of work, and return what to do next.

        The piece may begin when a decision grants it a slot: perhaps one of these.
        """
        if subtask_id in self._idle:
            self._idle.remove(subtask_id)
            return [Grant(piece)]
        self._asked[subtask_id] += 1
        self._push(subtask_id, piece)
        return self._fill()

    def give_back(self, subtask_id: str) -> list[Decision]:
        """Take in that a piece of a running subtask is done, and return what to do next.

        The last slot of a subtask stays with it until it has ended, so that what depends on
        it is ready by the time that the slot goes to the most important work; unless a piece
        has returned to it while another has it.
        """
        last = self._held[subtask_id] == 1 and not self._asked[subtask_id]
        if last and self._free >= 0:
            self._idle.add(subtask_id)
            return []
        self._held[subtask_id] -= 1
        self._free += 1
        return self._fill()

    def step_aside(self, subtask_id: str) -> list[Decision]:
        """Take in that a piece does without its slot, and return what to do next.

        It has to `ask` for one before it goes on, or to `return_to` it.
        """
        self._held[subtask_id] -= 1
        self._free += 1
        return self._fill()

    def return_to(self, subtask_id: str) -> None:
        """Take in that a piece which stepped aside is given up, and is about to give back a slot.

        It may be one more than there are, so that whoever is stopped has to wait for none.
        """
        self._held[subtask_id] += 1
        self._free -= 1

    def withdraw(self, subtask_id: str, piece: object) -> list[Decision]:
        """Take in that a piece that asked for a slot will not be done; return what to do next."""
        waiting = [entry for entry in self._queue if entry.work is not piece]
        if len(waiting) == len(self._queue):
            return self.give_back(subtask_id)
        self._queue = waiting
        heapq.heapify(self._queue)
        self._asked[subtask_id] -= 1
        return []

    def decided(self, subtask_ids: Collection[str]) -> list[Decision]:
        """Take in that it has been decided what to do after these, and return what to do next."""
        ready: list[str] = []
        for name in self._undecided & set(subtask_ids):
            self._undecided.remove(name)
            ready += self._release(name)
        return [*self._advance(ready), *self._fill()]

    def stop_holding(self) -> list[Decision]:
        """Take in that nothing more will be decided, and return what to do next."""
        self._holds = False
        return self.decided(self._undecided) if self._undecided else []

    def revise(
        self,
        subtasks: Sequence[Subtask],
        *,
        ended: Mapping[str, SubtaskStatus] = NONE_ENDED,
        undecided: Collection[str] = (),
    ) -> list[Decision]:
        """Take in the plan from here on, and return what to do next.

        What has not been started and is not in it is forgotten; what has been must be in it.
        Of what is new in it, what is among `ended` has ended already; of that, `undecided` are
        those decisive subtasks after which nothing has been decided yet.
        """
        if self._holds:
            self._undecided |= set(undecided) - self._ended.keys()
        for subtask in self._unstarted():
            del self._subtasks[subtask.id]
        pieces = [entry for entry in self._queue if entry.subtask_id in self._held]
        self._queue.clear()
        skips = self._take_in(subtasks, ended)
        # What a piece is worth may have changed with what now hangs on its subtask.
        self._queue += [entry._replace(order=self._place(entry.subtask_id)) for entry in pieces]
        heapq.heapify(self._queue)
        return [*skips, *self._fill()]

    def stop(self) -> list[Subtask]:
        """Return the subtasks that have not been started, and start none of them any more."""
        unstarted = self._unstarted()
        self._ended |= dict.fromkeys((subtask.id for subtask in unstarted), "skipped")
        self._queue = [entry for entry in self._queue if entry.subtask_id in self._held]
        heapq.heapify(self._queue)
        return unstarted

    def _unstarted(self) -> list[Subtask]:
        started = self._held.keys() | self._ended.keys()
        return [subtask for name, subtask in self._subtasks.items() if name not in started]

    def _take_in(
        self, subtasks: Sequence[Subtask], ended: Mapping[str, SubtaskStatus]
    ) -> list[Decision]:
        """Add the subtasks that are new, and order all of them as they are in the plan now."""
        new = [subtask for subtask in subtasks if subtask.id not in self._subtasks]
        self._subtasks |= {subtask.id: subtask for subtask in new}
        self._ended |= {item.id: ended[item.id] for item in new if item.id in ended}
        self._dependants.clear()
        for subtask in subtasks:
            for name in dict.fromkeys(subtask.depends_on):
                self._dependants[name].append(subtask.id)
        chain = self._chains()
        self._order = {
            subtask.id: (PRIORITIES.index(subtask.priority), -chain[subtask.id], position)
            for position, subtask in enumerate(subtasks)
        }
        released = self._ended.keys() - self._undecided
        for subtask in new:
            self._waits_for[subtask.id] = len(set(subtask.depends_on) - released)
        return self._advance(
            [item.id for item in new if not self._waits_for[item.id] and item.id not in self._ended]
        )

    def _end(self, subtask_id: str, status: SubtaskStatus) -> list[str]:
        """Record an end, and return the subtasks that wait for nothing any more."""
        self._ended[subtask_id] = status
        if self._holds and self._subtasks[subtask_id].decisive:
            self._undecided.add(subtask_id)
            return []
        return self._release(subtask_id)

    def _release(self, subtask_id: str) -> list[str]:
        """Return the subtasks that wait for nothing any more, now that they need not for this."""
        ready: list[str] = []
        for dependant in self._dependants[subtask_id]:
            self._waits_for[dependant] -= 1
            if not self._waits_for[dependant] and dependant not in self._ended:
                ready.append(dependant)
        return ready

    def _advance(self, ready: list[str]) -> list[Decision]:
        """Queue subtasks whose dependencies have ended; or skip them, and see what follows."""
        skips: list[Decision] = []
        while ready:
            subtask = self._subtasks[ready.pop()]
            if missing := self._missing(subtask):
                skips.append(Skip(subtask, missing))
                ready += self._end(subtask.id, "skipped")
            else:
                self._push(subtask.id, subtask)
        return skips

    def _missing(self, subtask: Subtask) -> tuple[str, ...]:
        """Return the dependencies without which `subtask` is not to run.

        One that does not need them all runs even with none, and is told what failed.
        """
        if not subtask.needs_all:
            return ()
        return tuple(name for name in subtask.depends_on if self._ended[name] not in _USABLE)

    def _push(self, subtask_id: str, work: object) -> None:
        entry = _Waiting(self._place(subtask_id), next(self._numbers), subtask_id, work)
        heapq.heappush(self._queue, entry)

    def _fill(self) -> list[Decision]:
        decisions: list[Decision] = []
        while self._queue and self._free > 0 and not self._queue[0].order[0]:
            if self._free <= self.reserved and not self._queue[0].is_important:
                break
            entry = heapq.heappop(self._queue)
            self._free -= 1
            self._held[entry.subtask_id] = self._held.get(entry.subtask_id, 0) + 1
            if isinstance(entry.work, Subtask):
                self._idle.add(entry.subtask_id)
                decisions.append(Start(entry.work))
            else:
                self._asked[entry.subtask_id] -= 1
                decisions.append(Grant(entry.work))
        return decisions

    def _place(self, subtask_id: str) -> tuple[int, int, int, int]:
        """Return what decides when work for a subtask is done: what is deferred comes last."""
        return (int(self._is_deferred(subtask_id)), *self._order[subtask_id])

    def _is_deferred(self, subtask_id: str) -> bool:
        return subtask_id in self._deferred and subtask_id not in self._held

    def _chains(self) -> dict[str, int]:
        """Return, for each subtask, how many subtasks the longest chain from it has."""
        graph: dict[str, Collection[str]] = {
            name: self._dependants[name] for name in list(self._subtasks)
        }
        chains: dict[str, int] = {}
        for name in TopologicalSorter(graph).static_order():
            chains[name] = 1 + max((chains[after] for after in graph[name]), default=0)
        return chains
