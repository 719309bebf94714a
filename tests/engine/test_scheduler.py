import random
from collections.abc import Iterable, Sequence

import pytest

from concertmaster.engine.events import SubtaskStatus
from concertmaster.engine.plan.plan import Subtask
from concertmaster.engine.scheduler import Decision, Grant, Scheduler, Skip, Start
from fakes import subtask


def started(decisions: Iterable[Decision]) -> list[str]:
    return [item.subtask.id for item in decisions if isinstance(item, Start)]


def skipped(decisions: Iterable[Decision]) -> list[str]:
    return [item.subtask.id for item in decisions if isinstance(item, Skip)]


def test_subtasks_without_dependencies_start_at_once() -> None:
    scheduler = Scheduler(slots=8)
    decisions = scheduler.revise([subtask("a"), subtask("b", depends_on=["a"]), subtask("c")])
    assert started(decisions) == ["a", "c"]


def test_a_subtask_starts_when_its_own_dependencies_have_ended_and_waits_for_no_others() -> None:
    scheduler = Scheduler(slots=8)
    scheduler.revise([subtask("slow"), subtask("fast"), subtask("next", depends_on=["fast"])])
    assert started(scheduler.ended("fast", "succeeded")) == ["next"]


def test_a_subtask_with_two_dependencies_waits_for_both() -> None:
    scheduler = Scheduler(slots=8)
    scheduler.revise([subtask("a"), subtask("b"), subtask("c", depends_on=["a", "b"])])
    assert started(scheduler.ended("a", "succeeded")) == []
    assert started(scheduler.ended("b", "partial")) == ["c"]


def test_a_dependency_named_twice_counts_once() -> None:
    scheduler = Scheduler(slots=8)
    scheduler.revise([subtask("a"), subtask("b", depends_on=["a", "a"])])
    assert started(scheduler.ended("a", "succeeded")) == ["b"]


def test_slots_go_to_higher_priority_first() -> None:
    scheduler = Scheduler(slots=1)
    plan = [subtask("low", priority="low"), subtask("mid"), subtask("high", priority="high")]
    assert started(scheduler.revise(plan)) == ["high"]
    assert started(scheduler.ended("high", "succeeded")) == ["mid"]
    assert started(scheduler.ended("mid", "succeeded")) == ["low"]


def test_a_reserved_slot_is_for_high_priority_until_it_is_released() -> None:
    scheduler = Scheduler(slots=2)
    scheduler.reserved = 1
    low = [subtask("low1", priority="low"), subtask("low2", priority="low")]
    assert started(scheduler.revise(low)) == ["low1"]
    high = subtask("high", priority="high")
    assert started(scheduler.revise([*low, high])) == ["high"]
    assert started(scheduler.ended("high", "succeeded")) == []
    scheduler.reserved = 0
    assert started(scheduler.revise([*low, high])) == ["low2"]


def test_dependants_of_a_decisive_subtask_wait_until_that_is_decided_on() -> None:
    scheduler = Scheduler(slots=8, holds_for_decisions=True)
    plan = [
        subtask("a", decisive=True),
        subtask("b", depends_on=["a"]),
        subtask("c", decisive=True),
        subtask("d", depends_on=["c"]),
    ]
    assert started(scheduler.revise(plan)) == ["a", "c"]
    assert scheduler.ended("a", "succeeded") == scheduler.ended("c", "failed") == []
    assert not scheduler.over
    added = subtask("e", depends_on=["a"])
    assert scheduler.revise([*plan, added]) == []
    assert started(scheduler.decided(["a"])) == ["b", "e"]
    assert started(scheduler.stop_holding()) == ["d"]


def test_among_equal_priorities_the_longest_remaining_chain_goes_first() -> None:
    scheduler = Scheduler(slots=1)
    plan = [
        subtask("leaf"),
        subtask("root"),
        subtask("child", depends_on=["root"]),
        subtask("grandchild", depends_on=["child"]),
    ]
    assert started(scheduler.revise(plan)) == ["root"]


def test_a_dependant_that_needs_all_is_skipped_when_a_dependency_failed() -> None:
    scheduler = Scheduler(slots=8)
    scheduler.revise([subtask("a"), subtask("b", depends_on=["a"], needs_all=True)])
    decisions = scheduler.ended("a", "failed")
    assert decisions == [Skip(subtask("b", depends_on=["a"], needs_all=True), ("a",))]
    assert scheduler.over


def test_a_dependant_that_does_not_need_all_runs_when_a_dependency_failed() -> None:
    scheduler = Scheduler(slots=8)
    scheduler.revise([subtask("a"), subtask("b", depends_on=["a"])])
    assert started(scheduler.ended("a", "failed")) == ["b"]


def test_skipping_goes_on_down_the_chain() -> None:
    chain = [
        subtask("a"),
        subtask("b", depends_on=["a"], needs_all=True),
        subtask("c", depends_on=["b"], needs_all=True),
        subtask("d", depends_on=["c"]),
    ]
    scheduler = Scheduler(slots=8)
    scheduler.revise(chain)
    decisions = scheduler.ended("a", "failed")
    assert skipped(decisions) == ["b", "c"]
    assert started(decisions) == ["d"]


def test_a_failure_leaves_siblings_where_they_are() -> None:
    scheduler = Scheduler(slots=8)
    scheduler.revise([subtask("a"), subtask("b"), subtask("c", depends_on=["b"])])
    assert scheduler.ended("a", "failed") == []
    assert started(scheduler.ended("b", "succeeded")) == ["c"]


def test_a_plan_without_subtasks_is_over_from_the_start() -> None:
    scheduler = Scheduler(slots=8)
    assert scheduler.revise([]) == []
    assert scheduler.over


def random_plan(random_numbers: random.Random) -> list[Subtask]:
    size = random_numbers.randint(1, 32)
    subtasks: list[Subtask] = []
    for number in range(size):
        earlier = [item.id for item in subtasks]
        depends_on = random_numbers.sample(
            earlier, k=min(len(earlier), random_numbers.randint(0, 3))
        )
        subtasks.append(
            subtask(
                f"s{number}",
                depends_on=depends_on,
                needs_all=random_numbers.random() < 0.3,
                priority=random_numbers.choice(["high", "medium", "low"]),
            )
        )
    return random_numbers.sample(subtasks, k=size)


@pytest.mark.parametrize("block", range(20))
def test_any_graph_ends_with_each_subtask_run_or_skipped_once_and_in_order(block: int) -> None:
    for seed in range(100 * block, 100 * (block + 1)):
        run_to_the_end(random.Random(seed))


def run_to_the_end(random_numbers: random.Random) -> None:
    plan = random_plan(random_numbers)
    slots = random_numbers.randint(1, 8)
    scheduler = Scheduler(slots=slots)
    running: list[str] = []
    ended: dict[str, SubtaskStatus] = {}

    def take(decisions: Sequence[Decision]) -> None:
        for decision in decisions:
            assert not isinstance(decision, Grant)
            assert decision.subtask.id not in ended
            assert decision.subtask.id not in running
            assert all(name in ended for name in decision.subtask.depends_on)
            if isinstance(decision, Start):
                running.append(decision.subtask.id)
            else:
                assert decision.subtask.needs_all
                ended[decision.subtask.id] = "skipped"
        assert len(running) <= slots

    statuses: list[SubtaskStatus] = ["succeeded", "succeeded", "partial", "failed"]
    take(scheduler.revise(plan))
    while running:
        name = running.pop(random_numbers.randrange(len(running)))
        ended[name] = random_numbers.choice(statuses)
        take(scheduler.ended(name, ended[name]))
    assert scheduler.over
    assert set(ended) == {item.id for item in plan}


def test_what_is_deferred_starts_only_when_it_is_not_any_more() -> None:
    scheduler = Scheduler(slots=8)
    scheduler.defer(["b", "c"])
    plan = [subtask("a"), subtask("b", priority="high"), subtask("c")]
    assert started(scheduler.revise(plan)) == ["a"]
    assert not scheduler.stalled
    assert started(scheduler.ended("a", "succeeded")) == []
    assert scheduler.stalled
    assert started(scheduler.defer(["c"])) == ["b"]
    assert not scheduler.stalled
    assert started(scheduler.defer([])) == ["c"]


def test_pieces_of_running_subtasks_get_slots_before_what_is_deferred() -> None:
    scheduler = Scheduler(slots=2)
    scheduler.defer(["b"])
    scheduler.revise([subtask("a", priority="low"), subtask("b", priority="high")])
    assert scheduler.ask("a", "first") == [Grant("first")]
    assert scheduler.ask("a", "second") == [Grant("second")]
