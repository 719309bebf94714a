"""Slots for the pieces of running subtasks, and plans that change while they run."""

import random
from collections.abc import Iterable, Sequence

import pytest

from concertmaster.engine.events import SubtaskStatus
from concertmaster.engine.plan.plan import Subtask
from concertmaster.engine.scheduler import Decision, Grant, Scheduler, Skip, Start
from fakes import subtask

RANK = {"high": 0, "medium": 1, "low": 2}


def names(decisions: Iterable[Decision]) -> list[object]:
    return [
        decision.piece if isinstance(decision, Grant) else decision.subtask.id
        for decision in decisions
    ]


def begun(*subtasks: Subtask, slots: int) -> Scheduler:
    scheduler = Scheduler(slots=slots)
    scheduler.revise(subtasks)
    return scheduler


def test_the_first_piece_takes_the_slot_its_subtask_was_started_with() -> None:
    scheduler = begun(subtask("a"), subtask("b"), slots=1)
    assert names(scheduler.ask("a", "a1")) == ["a1"]


def test_further_pieces_wait_until_a_slot_is_free() -> None:
    scheduler = begun(subtask("a"), subtask("b"), slots=2)
    scheduler.ask("a", "a1")
    scheduler.ask("b", "b1")
    assert scheduler.ask("a", "a2") == []
    assert scheduler.give_back("b") == []
    assert names(scheduler.ended("b", "succeeded")) == ["a2"]


def test_a_subtask_keeps_its_last_slot_between_two_pieces() -> None:
    scheduler = begun(subtask("a"), subtask("b"), slots=1)
    scheduler.ask("a", "a1")
    assert scheduler.give_back("a") == []
    assert names(scheduler.ask("a", "a2")) == ["a2"]
    assert scheduler.give_back("a") == []
    assert names(scheduler.ended("a", "succeeded")) == ["b"]


def test_a_slot_beyond_the_last_goes_to_the_most_important_work() -> None:
    low, high = subtask("a", priority="low"), subtask("b", priority="high")
    scheduler = begun(low, subtask("c"), slots=2)
    scheduler.ask("a", "a1")
    scheduler.ended("c", "succeeded")
    assert names(scheduler.ask("a", "a2")) == ["a2"]
    scheduler.ask("a", "a3")
    assert scheduler.revise([low, subtask("c"), high]) == []
    assert names(scheduler.give_back("a")) == ["b"]


def test_a_piece_that_is_withdrawn_is_granted_nothing() -> None:
    scheduler = begun(subtask("a"), slots=1)
    scheduler.ask("a", "a1")
    scheduler.ask("a", "a2")
    scheduler.withdraw("a", "a2")
    assert scheduler.give_back("a") == []
    assert names(scheduler.ask("a", "a3")) == ["a3"]


def test_a_piece_that_is_withdrawn_when_it_has_just_got_a_slot_gives_it_back() -> None:
    scheduler = begun(subtask("a"), subtask("b"), subtask("c"), slots=2)
    scheduler.ask("a", "a1")
    scheduler.ask("a", "a2")
    assert names(scheduler.ended("b", "succeeded")) == ["a2"]
    assert names(scheduler.withdraw("a", "a2")) == ["c"]


def test_a_piece_that_steps_aside_leaves_even_the_last_slot_to_others_and_waits_for_one() -> None:
    scheduler = begun(subtask("a"), subtask("b"), slots=1)
    scheduler.ask("a", "a1")
    assert names(scheduler.step_aside("a")) == ["b"]
    assert scheduler.ask("a", "a1 again") == []
    assert names(scheduler.ended("b", "succeeded")) == ["a1 again"]


def test_a_piece_that_is_given_up_while_it_was_aside_leaves_as_many_slots_as_there_were() -> None:
    scheduler = begun(*(subtask(name) for name in ("a", "b", "c", "d")), slots=1)
    scheduler.ask("a", "a1")
    assert names(scheduler.step_aside("a")) == ["b"]
    scheduler.return_to("a")
    scheduler.give_back("a")
    assert scheduler.ended("a", "failed") == []
    assert names(scheduler.ended("b", "succeeded")) == ["c"]


def test_a_subtask_that_ends_gives_all_of_its_slots_back() -> None:
    scheduler = begun(subtask("a"), slots=3)
    for piece in ("a1", "a2", "a3"):
        scheduler.ask("a", piece)
    scheduler.give_back("a")
    scheduler.ended("a", "failed")
    more = [subtask(name) for name in ("b", "c", "d", "e")]
    assert names(scheduler.revise([subtask("a"), *more])) == ["b", "c", "d"]


def test_a_revised_plan_forgets_what_it_leaves_out_and_starts_what_it_adds() -> None:
    scheduler = begun(subtask("a"), subtask("b"), subtask("c"), slots=1)
    assert scheduler.revise([subtask("a"), subtask("c"), subtask("d")]) == []
    assert names(scheduler.ended("a", "succeeded")) == ["c"]
    assert names(scheduler.ended("c", "succeeded")) == ["d"]
    scheduler.ended("d", "succeeded")
    assert scheduler.over


def test_a_subtask_that_is_replaced_waits_for_its_new_dependencies() -> None:
    scheduler = begun(subtask("a"), subtask("b"), subtask("c", depends_on=["a"]), slots=2)
    replaced = subtask("c", depends_on=["b"])
    scheduler.revise([subtask("a"), subtask("b"), replaced])
    assert scheduler.ended("a", "succeeded") == []
    assert scheduler.ended("b", "succeeded") == [Start(replaced)]


def test_an_added_subtask_whose_dependencies_have_ended_starts_at_once() -> None:
    scheduler = begun(subtask("a"), subtask("b"), slots=2)
    scheduler.ended("a", "succeeded")
    new = subtask("c", depends_on=["a"])
    assert scheduler.revise([subtask("a"), subtask("b"), new]) == [Start(new)]


def test_an_added_subtask_that_needs_what_failed_is_skipped() -> None:
    scheduler = begun(subtask("a"), subtask("b"), slots=2)
    scheduler.ended("a", "failed")
    new = subtask("c", depends_on=["a"], needs_all=True)
    assert scheduler.revise([subtask("a"), subtask("b"), new]) == [Skip(new, ("a",))]


def test_pieces_that_wait_are_ordered_anew_with_the_plan() -> None:
    scheduler = begun(subtask("a"), subtask("b"), subtask("x"), slots=3)
    scheduler.ask("a", "a1")
    scheduler.ask("b", "b1")
    scheduler.ask("a", "a2")
    scheduler.ask("b", "b2")
    scheduler.revise([subtask("a"), subtask("b"), subtask("x"), subtask("c", depends_on=["b"])])
    assert names(scheduler.ended("x", "succeeded")) == ["b2"]


def test_after_a_stop_nothing_starts_and_what_runs_may_finish() -> None:
    scheduler = begun(subtask("a"), subtask("b"), subtask("c", depends_on=["a"]), slots=1)
    scheduler.ask("a", "a1")
    scheduler.ask("a", "a2")
    assert [item.id for item in scheduler.stop()] == ["b", "c"]
    assert not scheduler.over
    assert names(scheduler.give_back("a")) == ["a2"]
    assert scheduler.ended("a", "succeeded") == []
    assert scheduler.over


class Crowd:
    """Subtasks of random pieces, taken through a scheduler that is checked at each move."""

    def __init__(self, random_numbers: random.Random) -> None:
        self.random = random_numbers
        self.slots = random_numbers.randint(1, 5)
        self.made = 0
        self.plan = [self.new_subtask([]) for _ in range(random_numbers.randint(1, 8))]
        self.scheduler = Scheduler(slots=self.slots)
        self.to_ask: dict[str, int] = {}
        """How many pieces each running subtask has still to ask for."""
        self.waiting: dict[str, list[object]] = {}
        self.at_work: dict[str, int] = {}
        self.aside: dict[str, int] = {}
        """How many pieces of each do without a slot for a while."""
        self.ended: dict[str, SubtaskStatus] = {}
        self.stopped = False

    def new_subtask(self, earlier: Sequence[Subtask]) -> Subtask:
        self.made += 1
        known = [item.id for item in earlier]
        return subtask(
            f"s{self.made}",
            depends_on=self.random.sample(known, k=min(len(known), self.random.randint(0, 2))),
            needs_all=self.random.random() < 0.3,
            priority=self.random.choice(["high", "medium", "low"]),
        )

    @property
    def started(self) -> set[str]:
        return self.at_work.keys() | self.ended.keys()

    def take(self, decisions: Sequence[Decision]) -> None:
        for decision in decisions:
            match decision:
                case Grant(piece):
                    owner = str(piece).split("/")[0]
                    self.waiting[owner].remove(piece)
                    self.at_work[owner] += 1
                case Start(item):
                    assert not self.stopped
                    assert item.id not in self.started
                    assert all(name in self.ended for name in item.depends_on)
                    self.to_ask[item.id] = self.random.randint(1, 4)
                    self.waiting[item.id] = []
                    self.at_work[item.id] = self.aside[item.id] = 0
                case Skip(item):
                    assert item.id not in self.started
                    self.ended[item.id] = "skipped"
        assert sum(self.at_work.values()) <= self.slots

    def take_in_order(self, decisions: Sequence[Decision]) -> None:
        """Take decisions about freed slots, none of which may pass more important work by."""
        self.take(decisions)
        rank = {item.id: RANK[item.priority] for item in self.plan}
        given = [
            rank[str(item.piece).split("/")[0]]
            if isinstance(item, Grant)
            else rank[item.subtask.id]
            for item in decisions
            if not isinstance(item, Skip)
        ]
        left = [rank[name] for name, pieces in self.waiting.items() if pieces]
        left += [
            rank[item.id]
            for item in self.plan
            if item.id not in self.started and self.ended.keys() >= set(item.depends_on)
        ]
        assert not given or not left or max(given) <= min(left)

    def moves(self) -> list[str]:
        moves = [f"ask {name}" for name, left in self.to_ask.items() if left]
        moves += [f"give_back {name}" for name, count in self.at_work.items() if count]
        moves += [f"step_aside {name}" for name, count in self.at_work.items() if count][:1]
        moves += [f"{kind} {name}" for kind in ("go_on", "give_up") for name in self.have_aside()]
        moves += [
            f"end {name}"
            for name, count in self.at_work.items()
            if not (count or self.aside[name] or self.to_ask[name] or self.waiting[name])
        ]
        moves += [f"withdraw {name}" for name, pieces in self.waiting.items() if pieces][:1]
        return moves

    def have_aside(self) -> list[str]:
        return [name for name, count in self.aside.items() if count]

    def move(self, move: str) -> None:
        kind, name = move.split()
        match kind:
            case "step_aside":
                self.at_work[name] -= 1
                self.aside[name] += 1
                self.take_in_order(self.scheduler.step_aside(name))
            case "go_on":
                self.aside[name] -= 1
                self.made += 1
                piece = f"{name}/again/{self.made}"
                self.waiting[name].append(piece)
                self.take(self.scheduler.ask(name, piece))
            case "give_up":
                self.aside[name] -= 1
                self.scheduler.return_to(name)
                self.take_in_order(self.scheduler.give_back(name))
            case "ask":
                piece = f"{name}/{self.to_ask[name]}"
                self.to_ask[name] -= 1
                self.waiting[name].append(piece)
                self.take(self.scheduler.ask(name, piece))
            case "give_back":
                self.at_work[name] -= 1
                self.take_in_order(self.scheduler.give_back(name))
            case "withdraw":
                piece = self.waiting[name].pop()
                self.take(self.scheduler.withdraw(name, piece))
            case _:
                del self.at_work[name], self.aside[name], self.to_ask[name], self.waiting[name]
                statuses: list[SubtaskStatus] = ["succeeded", "partial", "failed"]
                self.ended[name] = self.random.choice(statuses)
                self.take_in_order(self.scheduler.ended(name, self.ended[name]))

    def replan(self) -> None:
        kept = [item for item in self.plan if item.id in self.started or self.random.random() < 0.7]
        ids = {item.id for item in kept}
        kept = [
            item.model_copy(
                update={"depends_on": tuple(name for name in item.depends_on if name in ids)}
            )
            if item.id not in self.started
            else item
            for item in kept
        ]
        self.plan = [*kept, *(self.new_subtask(kept) for _ in range(self.random.randint(0, 2)))]
        self.take_in_order(self.scheduler.revise(self.plan))

    def stop(self) -> None:
        self.stopped = True
        for item in self.scheduler.stop():
            assert item.id not in self.started
            self.ended[item.id] = "skipped"

    def run_to_the_end(self) -> None:
        self.take_in_order(self.scheduler.revise(self.plan))
        changes = 5
        while moves := self.moves():
            self.move(self.random.choice(moves))
            if not self.stopped and changes and self.random.random() < 0.1:
                changes -= 1
                if self.random.random() < 0.1:
                    self.stop()
                else:
                    self.replan()
            assert self.scheduler.over == (self.ended.keys() == {item.id for item in self.plan})


@pytest.mark.parametrize("block", range(20))
def test_any_crowd_of_pieces_ends_within_its_slots_and_in_order_of_importance(block: int) -> None:
    for seed in range(100 * block, 100 * (block + 1)):
        crowd = Crowd(random.Random(seed))
        crowd.run_to_the_end()
        assert crowd.scheduler.over, seed
        assert set(crowd.ended) == {item.id for item in crowd.plan}
