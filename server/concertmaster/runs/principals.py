"""Runs on a server that several people use: each sees their own, and may have so many."""

import json
import math
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import anyio

from concertmaster.catalog.catalog import Catalog
from concertmaster.engine.events import SubtaskResult
from concertmaster.engine.plan.plan import Plan
from concertmaster.engine.request import Origin
from concertmaster.errors import AllowanceError, ReservationError
from concertmaster.runs.executor import LATEST
from concertmaster.runs.orders import Order, RunOrder
from concertmaster.runs.service import RunService
from concertmaster.runs.state import RecentRuns, RunState
from concertmaster.runs.trace import Span
from concertmaster.store.journal import Reservation
from concertmaster.tools.changes import FileChange
from concertmaster.tools.inputs import InputSpec

DAY_SECONDS = 24 * 3600

MOST_ATTEMPTS = 10
"""How often to look again at what is left after another process has reserved it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What one principal may use; None is without bound."""

    runs: int | None = None
    """Runs that are queued or under way, in all processes on the store."""
    usd_a_day: float | None = None
    """What the model calls of 24 hours may cost, with what unfinished runs may still spend."""


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
        order = self._keyed(order)
        if (known := await self._service.known(order)) is not None:
            return known
        usual = await self._usual_budget(order)

        async def begin() -> RunState:
            reservation = await self._reserve(order.budget_usd, usual=usual)
            return await self._service.start(
                replace(order, budget_usd=reservation.budget_usd),
                origin=self._own(origin),
                reservation=reservation,
            )

        return await self._within_limits(begin)

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
        usual = (await self.get(run_id)).request.limits.budget_usd

        async def begin() -> RunState:
            reservation = await self._reserve(budget_usd, usual=usual)
            return await self._service.rerun(
                run_id,
                plan=plan,
                redo=redo,
                budget_usd=reservation.budget_usd,
                origin=self._own(origin),
                reservation=reservation,
            )

        return await self._within_limits(begin)

    async def resume(
        self, run_id: str, *, by: str, budget_usd: float | None = None, approved: str = ""
    ) -> RunState:
        """Have a run go on that was interrupted, or that ended without success."""
        await self._check(run_id)

        async def begin() -> RunState:
            state = await self._service.get(run_id)
            reservation, budget = None, budget_usd
            # A run that is under way or queued has its reservation.
            if state.still:
                usual = state.request.limits.budget_usd
                reservation = await self._reserve(budget_usd, usual=usual, run_id=run_id)
                if reservation.budget_usd != usual:
                    budget = reservation.budget_usd
            return await self._service.resume(
                run_id, by=by, budget_usd=budget, approved=approved, reservation=reservation
            )

        return await self._within_limits(begin)

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

    async def _usual_budget(self, order: Order) -> float:
        """Return the budget of an order that does not ask for one."""
        if isinstance(order, RunOrder) and order.plan_id is not None:
            return (await self.get(order.plan_id)).request.limits.budget_usd
        return self._service.budget_usd

    async def _within_limits(self, begin: Callable[[], Awaitable[RunState]]) -> RunState:
        # The store decides; one at a time in this process merely spares it attempts in vain.
        async with self._starting:
            for _ in range(MOST_ATTEMPTS):
                with suppress(ReservationError):
                    return await begin()
        raise AllowanceError(
            "Other runs of yours are being started at this moment, and what is left was reserved "
            "for them. Try again."
        )

    async def _reserve(
        self, budget_usd: float | None, *, usual: float, run_id: str = ""
    ) -> Reservation:
        """Return a reservation for a run, new or resumed.

        Without `budget_usd`, it is for the `usual` budget or what is left, if that is less.

        Raises:
            AllowanceError: the limits have no room for the run.
        """
        most_runs, most_usd = self._allowance.runs, self._allowance.usd_a_day
        since = time.time() - DAY_SECONDS
        used = await self._service.usage_of(self._principal, since=since, without=run_id)
        if most_runs is not None and used.runs >= most_runs:
            raise AllowanceError(
                f"{most_runs} of your runs are queued or under way, and that is the most you may "
                "have. Wait for one with get_run, or stop one with cancel_run."
            )
        left = math.inf if most_usd is None else most_usd - used.spent_usd - used.reserved_usd
        reservation = Reservation(
            principal=self._principal,
            budget_usd=budget_usd or min(usual, used.spent_before_usd + left),
            since=since,
            most_runs=most_runs,
            most_usd=most_usd,
        )
        if left <= 0 or not reservation.fits(used):
            raise AllowanceError(
                f"Of the {most_usd:.2f} USD that you may spend in 24 hours, {max(left, 0):.2f} USD "
                "are left; the rest is spent, or reserved for runs that have not ended. Give a "
                "smaller budget_usd, cancel a run that you do not need, try again later, or ask "
                "whoever runs this server."
            )
        return reservation

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

    async def cancel(self, run_id: str, *, reason: str, declined: bool = False) -> RunState:
        """Stop a run, or decline its plan, and return where it stands; what is finished stays."""
        await self._check(run_id)
        return await self._service.cancel(run_id, reason=reason, declined=declined)

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
