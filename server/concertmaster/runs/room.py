"""How many runs a process drives, and whether it has room for more."""

from dataclasses import dataclass

import anyio

from concertmaster.engine.record.events import CancelRequested
from concertmaster.errors import LostRunError
from concertmaster.runs import ends
from concertmaster.runs.intake import RunPolicy
from concertmaster.runs.live import LiveRuns
from concertmaster.runs.state import RunState, fold
from concertmaster.store.journal import Journal


@dataclass(frozen=True, slots=True)
class Room:
    """What there is room for in this process."""

    journal: Journal
    live: LiveRuns
    policy: RunPolicy

    @property
    def load(self) -> int:
        """Return how many runs this process drives."""
        return len(self.live)

    @property
    def queues(self) -> bool:
        """Tell whether runs are left to whoever has room."""
        here, in_all = self.policy.runs_here, self.policy.runs_in_all
        return in_all is not None or (here is not None and self.load >= here)

    async def free(self) -> None:
        """Return when this process has room for another run."""
        if self.policy.runs_here is not None:
            await self.live.fewer_than(self.policy.runs_here)

    async def idle(self) -> None:
        """Return when this process drives no run."""
        await self.live.fewer_than(1)

    async def news(self) -> None:
        """Return when there may be a run to be taken up."""
        await self.journal.changed_elsewhere()

    async def lead(self) -> int:
        """Return how many runs more this process drives than the least busy other that could."""
        least = await self.journal.least_load()
        return 0 if least is None else max(0, self.load - least)

    async def cancelled(self, before: RunState, event: CancelRequested) -> bool:
        """End a run that nobody drives; tell whether nobody was faster to take it up."""
        run_id = before.run_id
        epoch = (await self.journal.row(run_id)).epoch + 1
        try:
            with anyio.CancelScope(shield=True):
                await self.journal.take_over(run_id, event, epoch=epoch)
        except LostRunError:
            return False
        try:
            # Read only now that nobody else can write to it any more.
            state = fold(run_id, await self.journal.events(run_id), alive=False)
            for end in ends.cancelled(state):
                await self.journal.append(run_id, end, epoch=epoch)
        except BaseException:
            before.apply(event)
            self.live.leave_to_others(before, epoch=epoch)
            raise
        self.live.leave_to_journal(run_id)
        return True
