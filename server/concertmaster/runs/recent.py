"""Where runs stand that no part of this process drives, one of them or the latest."""

from collections.abc import Callable

from concertmaster.errors import UnreadableRunError
from concertmaster.runs.reading import folded
from concertmaster.runs.state import RecentRuns, RunState
from concertmaster.store.journal import Journal, Outline, RunRow


async def state_elsewhere(journal: Journal, run_id: str) -> RunState:
    """Return where a run stands that this process does not drive.

    Raises:
        UnknownRunError: there is none of that id.
    """
    row = await journal.row(run_id)
    while True:
        state = folded(row, await journal.events(run_id))
        if state.status != "interrupted":
            return state
        # Somebody may have taken it up between the two questions, or ended it and left.
        before, row = row, await journal.row(run_id)
        if row == before:
            return state


async def recent_runs(
    journal: Journal,
    known: Callable[[str], RunState | None],
    *,
    limit: int,
    principal: str | None,
) -> RecentRuns:
    """Return the latest runs; those that are `known` here better than to the journal, as such."""
    rows = await journal.recent(limit, principal=principal)
    here = {row.run_id: state for row in rows if (state := known(row.run_id)) is not None}
    elsewhere = [row for row in rows if row.run_id not in here]
    outlines = await journal.outlines([row.run_id for row in elsewhere])
    states: list[RunState] = []
    unreadable: list[str] = []
    for row in rows:
        try:
            state = here.get(row.run_id) or _outlined(row, outlines[row.run_id])
            states.append(state.shown())
        except UnreadableRunError as exc:
            unreadable.append(str(exc))
    return RecentRuns(states=tuple(states), unreadable=tuple(unreadable))


def _outlined(row: RunRow, outline: Outline) -> RunState:
    if isinstance(outline, UnreadableRunError):
        raise outline
    return folded(row, outline)
