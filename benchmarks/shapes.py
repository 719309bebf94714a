"""Plans of known shape, with a duration for each subtask, and how long they should take."""

import heapq
import random
from collections import defaultdict
from dataclasses import dataclass
from graphlib import TopologicalSorter

from concertmaster.engine.plan.plan import Subtask
from concertmaster.engine.scheduler import Decision, Scheduler, Start


@dataclass(frozen=True, slots=True)
class Shape:
    """A plan and how long each of its subtasks takes, in seconds."""

    name: str
    subtasks: tuple[Subtask, ...]
    seconds: dict[str, float]

    @property
    def critical_path(self) -> float:
        """Return the time of the longest chain: no schedule is faster."""
        graph = {item.id: item.depends_on for item in self.subtasks}
        ends: dict[str, float] = defaultdict(float)
        for name in TopologicalSorter(graph).static_order():
            ends[name] = self.seconds[name] + max((ends[other] for other in graph[name]), default=0)
        return max(ends.values())

    def ideal(self, slots: int) -> float:
        """Return how long the scheduler's own decisions take when nothing else costs time."""
        scheduler = Scheduler(slots=slots)
        now = 0.0
        running: list[tuple[float, str]] = []

        def start(decisions: list[Decision]) -> None:
            for decision in decisions:
                if isinstance(decision, Start):
                    name = decision.subtask.id
                    heapq.heappush(running, (now + self.seconds[name], name))

        start(scheduler.revise(self.subtasks))
        while running:
            now, name = heapq.heappop(running)
            start(scheduler.ended(name, "succeeded"))
        return now

    def bound(self, slots: int) -> float:
        """Return the time that no schedule on `slots` slots can beat."""
        return max(self.critical_path, sum(self.seconds.values()) / slots)


def subtask(name: str, *depends_on: str) -> Subtask:
    """Return a subtask whose worker is all its own, so that it can have its own duration."""
    return Subtask(id=name, worker=name, objective=name, depends_on=depends_on)


def crossing_chains() -> Shape:
    """Return two chains of two, one slow then fast, the other fast then slow."""
    plan = (subtask("a1"), subtask("b1"), subtask("a2", "a1"), subtask("b2", "b1"))
    return Shape("two crossing chains", plan, {"a1": 0.2, "a2": 1.0, "b1": 1.0, "b2": 0.2})


def random_graph(size: int, *, seed: int) -> Shape:
    """Return a random graph whose durations are spread as model calls are."""
    numbers = random.Random(seed)
    plan: list[Subtask] = []
    for position in range(size):
        earlier = [item.id for item in plan]
        count = min(len(earlier), numbers.choice([0, 1, 1, 2, 3]))
        plan.append(subtask(f"s{position}", *numbers.sample(earlier, k=count)))
    seconds = {item.id: min(1.5, 0.3 * numbers.lognormvariate(0, 0.7)) for item in plan}
    return Shape(f"random graph of {size}", tuple(plan), seconds)


def fan_out(size: int) -> Shape:
    """Return subtasks that depend on nothing."""
    numbers = random.Random(size)
    plan = tuple(subtask(f"s{position}") for position in range(size))
    return Shape(f"fan-out of {size}", plan, {item.id: numbers.uniform(0.2, 1.0) for item in plan})


def all_shapes() -> list[Shape]:
    """Return the shapes that are measured."""
    return [
        crossing_chains(),
        random_graph(16, seed=1),
        random_graph(16, seed=2),
        random_graph(32, seed=3),
        random_graph(32, seed=4),
        fan_out(50),
    ]
