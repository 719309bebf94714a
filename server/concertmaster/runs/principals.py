"""Runs on a server that several people use: each sees their own, and may have so many."""

import json
import math
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import anyio

from concertmaster.catalog.catalog import Catalog
from concertmaster.engine.plans.plan import Plan
from concertmaster.engine.record.events import SubtaskResult
from concertmaster.engine.record.request import Origin
from concertmaster.errors import AllowanceError
from concertmaster.runs.elsewhere import LATEST
from concertmaster.runs.orders import Order
from concertmaster.runs.service import RunService
from concertmaster.runs.state import RecentRuns, RunState
from concertmaster.runs.trace import Span
from concertmaster.tools.changes import FileChange
from concertmaster.tools.inputs import InputSpec

DAY_SECONDS = 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What one principal may use; None is without bound."""

    runs: int | None = None
    """Runs under way at the same time, in one process."""
    usd_a_day: float | None = None
    """What the model calls of 24 hours may cost."""


class OwnRuns:
    """The run service as one principal sees it: there are no runs but their own.

    A run of somebody else raises UnknownRunError, as one that does not exist.
    """

    def __init__(
        self, service: RunService, principal: str, *, allowance: Allowance, starting: anyio.Lock
    ) -> None:
        """Take the service, and what lets the principal start one run at a time."""
        self._service = service
        self._principal = principal
        self._allowance = allowance
        self._starting = starting
        self.approvals = replace(service.approvals, find=self.get)

    @property
    def catalog(self) -> Catalog:
        """Return the workers that runs may use."""
        return self._service.catalog

    @property
    def notice(self) -> str:
        """Return what every reader of an answer must know of the models in use."""
        return self._service.notice

    async def start(self, order: Order, *, origin: Origin) -> RunState:
        """Check an order, write it to the journal, and start it; return at once.

        Raises:
            AllowanceError: it needs more than the principal may use.
            RequestError: it cannot be done as asked.
            InputError: an input cannot be read.
            StoreError: the journal cannot be written, so nothing was started.
        """
        # One at a time, so that no two are given what is there for one.
        async with self._starting:
            self._check_runs()
            order = self._keyed(await self._affordable(order))
            return await self._service.start(order, origin=self._own(origin))

    async def rerun(
        self,
        run_id: str,
        *,
        plan: Plan | None = None,
        redo: Sequence[str] = (),
        budget_usd: float | None = None,
        origin: Origin,
    ) -> RunState:
        """Start a run like one that there is, with another plan or budget; return at once."""
        await self._check(run_id)
        async with self._starting:
            self._check_runs()
            await self._left(budget_usd or 0.0)
            return await self._service.rerun(
                run_id, plan=plan, redo=redo, budget_usd=budget_usd, origin=self._own(origin)
            )

    async def resume(
        self, run_id: str, *, by: str, budget_usd: float | None = None, approved: str = ""
    ) -> RunState:
        """Have a run go on that was interrupted, or that ended without success."""
        await self._check(run_id)
        async with self._starting:
            self._check_runs()
            budget_usd = await self._budget_of(run_id, budget_usd)
            return await self._service.resume(
                run_id, by=by, budget_usd=budget_usd, approved=approved
            )

    async def known(self, order: Order) -> RunState | None:
        """Return where the run stands that was started by an order with the same key."""
        return await self._service.known(self._keyed(order))

    def _own(self, origin: Origin) -> Origin:
        return origin.model_copy(update={"principal": self._principal})

    def _keyed(self, order: Order) -> Order:
        """Return an order whose key, if it has one, is of no use to somebody else."""
        if not order.idempotency_key:
            return order
        key = json.dumps([self._principal, order.idempotency_key])
        return replace(order, idempotency_key=key)

    def _check_runs(self) -> None:
        most = self._allowance.runs
        if most is not None and len(self._under_way()) >= most:
            raise AllowanceError(
                f"{most} of your runs are under way, and that is the most you may have. Wait for "
                "one with get_run, or stop one with cancel_run."
            )

    def _under_way(self) -> list[RunState]:
        driven = self._service.driven()
        return [state for state in driven if state.principal == self._principal]

    async def _affordable(self, order: Order) -> Order:
        """Return an order with a budget that the principal's allowance has room for."""
        left = await self._left(order.budget_usd or 0.0)
        return replace(order, budget_usd=order.budget_usd or min(self._service.budget_usd, left))

    async def _budget_of(self, run_id: str, budget_usd: float | None) -> float | None:
        """Return the budget with which a run may go on, or nothing if it may with its own."""
        state = await self._service.get(run_id)
        spent = state.usage.usd or 0.0
        left = await self._left((budget_usd or spent) - spent)
        if budget_usd is None and state.still and state.request.limits.budget_usd > spent + left:
            return spent + left
        return budget_usd

    async def _left(self, wanted: float = 0.0) -> float:
        """Return what the principal may still spend, if it is more than nothing and `wanted`."""
        most = self._allowance.usd_a_day
        if most is None:
            return math.inf
        left = most - await self._spoken_for()
        if left <= 0 or wanted > left:
            raise AllowanceError(
                f"Of the {most:.2f} USD that you may spend in 24 hours, {max(left, 0):.2f} USD are "
                "left; the rest is spent, or set aside for runs under way. Give a smaller "
                "budget_usd, try again later, or ask whoever runs this server."
            )
        return left

    async def _spoken_for(self) -> float:
        """Return what was spent in 24 hours, and what runs under way may still spend."""
        pledged = sum(
            max(0.0, state.request.limits.budget_usd - (state.usage.usd or 0.0))
            for state in self._under_way()
        )
        since = time.time() - DAY_SECONDS
        return pledged + await self._service.spent(self._principal, since=since)

    async def get(self, run_id: str) -> RunState:
        """Return where a run stands."""
        await self._check(run_id)
        return await self._service.get(run_id)

    async def wait(self, run_id: str, *, seconds: float) -> RunState:
        """Return where a run stands once nobody drives it any more, or `seconds` have passed."""
        await self._check(run_id)
        return await self._service.wait(run_id, seconds=seconds)

    async def wait_for_change(self, run_id: str, *, seen: int, seconds: float) -> RunState:
        """Return where a run stands once it has other than `seen` events, or time has passed."""
        await self._check(run_id)
        return await self._service.wait_for_change(run_id, seen=seen, seconds=seconds)

    async def cancel(self, run_id: str, *, reason: str) -> RunState:
        """Stop a run and return where it stands then; what is finished stays."""
        await self._check(run_id)
        return await self._service.cancel(run_id, reason=reason)

    async def answer(self, run_id: str, question_id: str, *, allowed: bool, by: str) -> RunState:
        """Answer a question of a run, and return where it stands then."""
        await self._check(run_id)
        return await self._service.answer(run_id, question_id, allowed=allowed, by=by)

    async def recent(self, limit: int = LATEST) -> RecentRuns:
        """Return the latest runs, without the texts of what was said in them."""
        return await self._service.recent(limit, principal=self._principal)

    async def result(self, run_id: str, subtask_id: str) -> SubtaskResult:
        """Return how a subtask ended, or where it stands if it has not."""
        await self._check(run_id)
        return await self._service.result(run_id, subtask_id)

    async def changes(self, run_id: str) -> tuple[FileChange, ...]:
        """Return how the results of a run change its inputs; nothing is written by this."""
        await self._check(run_id)
        return await self._service.changes(run_id)

    async def trace(self, run_id: str) -> Span:
        """Return the run as a tree of spans."""
        await self._check(run_id)
        return await self._service.trace(run_id)

    async def input_names(self, specs: Sequence[InputSpec]) -> tuple[str, ...]:
        """Return the names that inputs have in a run."""
        return await self._service.input_names(specs, principal=self._principal)

    async def complete_path(self, begun: str) -> list[str]:
        """Return the paths of inputs that go on from `begun` by one name."""
        return await self._service.complete_path(begun)

    async def check(self, order: Order) -> None:
        """Raise what `start` would, and start nothing."""
        await self._service.check(order, principal=self._principal)

    async def _check(self, run_id: str) -> None:
        await self._service.check_principal(run_id, self._principal)


class Principals:
    """Those who use one server, each with the same allowance."""

    def __init__(self, allowance: Allowance) -> None:
        self._allowance = allowance
        self._starting = defaultdict[str, anyio.Lock](anyio.Lock)

    def runs_of(self, service: RunService, principal: str) -> OwnRuns:
        """Return the runs of a service as a principal sees them."""
        starting = self._starting[principal]
        return OwnRuns(service, principal, allowance=self._allowance, starting=starting)


Runs = RunService | OwnRuns
"""All runs there are, or those of one principal."""
