"""Whose run goes on next."""

from dataclasses import replace

from concertmaster.runs.dispatch import Turns
from concertmaster.store.journal import RunRow


def row(run_id: str) -> RunRow:
    """Return a run that waits, whose principal its id begins with."""
    return RunRow(
        run_id=run_id,
        created_at=1.0,
        epoch=1,
        alive=False,
        mine=False,
        queued=True,
        principal=run_id.partition("-")[0],
    )


ROWS = [row("ann-1"), row("ann-2"), row("ann-3"), row("bob-1"), row("bob-2")]


def test_principals_take_turns_and_the_runs_of_one_go_by_age() -> None:
    order = [row.run_id for row in Turns().order(ROWS)]
    assert order == ["ann-1", "bob-1", "ann-2", "bob-2", "ann-3"]


def test_who_has_the_fewest_runs_under_way_is_next() -> None:
    first, *others = ROWS
    order = [row.run_id for row in Turns().order([replace(first, alive=True), *others])]
    assert order == ["bob-1", "ann-2", "bob-2", "ann-3"]


def test_who_has_not_had_a_turn_for_longest_is_next() -> None:
    turns = Turns()
    left = list(ROWS)
    order: list[str] = []
    while left:
        # Each is over before the next begins, so that nobody ever has one under way.
        turn = turns.order(left)[0]
        turns.take(turn)
        left.remove(turn)
        order.append(turn.run_id)
    assert order == ["ann-1", "bob-1", "ann-2", "bob-2", "ann-3"]
