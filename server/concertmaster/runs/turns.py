"""Whose run goes on next where several principals share the processes of a store."""

from collections import Counter
from collections.abc import Sequence
from itertools import count

from concertmaster.store.journal import RunRow


class Turns:
    """Lets principals take turns, so that many runs of one do not hold up the few of another."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._latest: dict[str, int] = {}
        """When each principal had its latest turn in this process."""

    def order(self, rows: Sequence[RunRow]) -> list[RunRow]:
        """Return the runs that no process drives, of all that have not ended, given by age.

        Who has the fewest under way comes first; of several, who has not had a turn for longest.
        """
        runs = Counter(row.principal for row in rows if row.alive)
        found: list[tuple[int, int, RunRow]] = []
        for row in rows:
            if not row.alive:
                runs[row.principal] += 1
                found.append((runs[row.principal], self._latest.get(row.principal, 0), row))
        return [row for *_, row in sorted(found, key=lambda item: item[:2])]

    def take(self, row: RunRow) -> None:
        """Take in that a run goes on here."""
        self._latest[row.principal] = next(self._numbers)
