"""Runs in the background of one process: start, watch, wait, cancel, list."""

import secrets
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import anyio
from anyio.abc import TaskGroup

from concertmaster.catalog.catalog import Catalog
from concertmaster.engine.events import CancelRequested, RunResumed, RunStarted, SubtaskResult
from concertmaster.engine.plan.plan import Plan
from concertmaster.engine.replay import NO_EARLIER_RUN, EarlierRun
from concertmaster.engine.request import NOBODY, Origin
from concertmaster.engine.run import Setup, workers_of
from concertmaster.errors import (
    BusyRunError,
    LostRunError,
    RequestError,
    UnknownRunError,
    UnknownWorkerError,
    UnreadableRunError,
    UsedKeyError,
)
from concertmaster.runs.approvals import Approvals, answer_to, approved_plan
from concertmaster.runs.executor import LATEST, Elsewhere, LiveRun, LiveRuns, Room
from concertmaster.runs.file_changes import file_changes
from concertmaster.runs.intake import (
    CheckedOrder,
    OrderReader,
    RunPolicy,
    check_budget,
    check_same,
    folded,
    subtask_result,
)
from concertmaster.runs.orders import Order
from concertmaster.runs.retention import Retention, prune
from concertmaster.runs.state import RecentRuns, RunState, fold
from concertmaster.runs.trace import Span, visible_trace
from concertmaster.store.journal import (
    Journal,
    Outline,
    PrincipalUsage,
    Reservation,
    RunRow,
    StoredRun,
    changed,
)
from concertmaster.tools.changes import FileChange
from concertmaster.tools.inputs import InputSpec, complete_path


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


class Watching:
    """Tells where the runs of a store stand, without what is withheld of them."""

    def __init__(self, journal: Journal, live: LiveRuns) -> None:
        self._journal = journal
        self._live = live

    async def get(self, run_id: str) -> RunState:
        """Return where a run stands, or raise UnknownRunError."""
        if (state := self._live.known(run_id)) is None:
            found = await state_elsewhere(self._journal, run_id)
            # It may have been taken up here meanwhile, of which the journal knows nothing.
            state = self._live.known(run_id) or found
        return state.shown()

    async def wait(self, run_id: str, *, seconds: float) -> RunState:
        """Return where a run stands once nobody drives it any more, or `seconds` have passed."""
        state = await self.get(run_id)
        with anyio.move_on_after(seconds):
            while not state.still:
                state = await self._next(run_id, state.events)
            return state
        return await self.get(run_id)

    async def wait_for_change(self, run_id: str, *, seen: int, seconds: float) -> RunState:
        """Return where a run stands once it has other than `seen` events, or time has passed."""
        with anyio.move_on_after(seconds):
            return await self._next(run_id, seen)
        return await self.get(run_id)

    async def _next(self, run_id: str, seen: int) -> RunState:
        while True:
            live = self._live.get(run_id)
            change = live.changes.next if live is not None else None
            state = await self.get(run_id)
            if state.events != seen or state.still:
                return state
            if change is not None:
                await change.wait()
            else:
                await changed(self._journal, run_id)

    async def recent(self, limit: int, *, principal: str | None) -> RecentRuns:
        """Return the latest runs, all or a principal's, without what was said in them."""
        return await recent_runs(self._journal, self._live.known, limit=limit, principal=principal)


_MODEL = {True: "with a language model", False: "without a language model"}


def check_resumable(state: RunState, setup: Setup) -> None:
    """Check that there is who can do what is left to do in a run.

    Raises:
        RequestError: there is not.
    """
    run_id, request = state.run_id, state.request
    if bool(state.notice) != bool(setup.llm.notice):
        raise RequestError(
            f"Run {run_id} was begun {_MODEL[not state.notice]}, and this process works "
            f"{_MODEL[not setup.llm.notice]}. Resume it with the settings it was begun with."
        )
    needed = {subtask.worker for subtask in state.plan.subtasks} if state.plan else set[str]()
    workers = workers_of(state.plan, setup) if state.plan else setup.catalog
    try:
        for name in sorted({*needed, *request.workers, *filter(None, [request.guard])}):
            workers.get(name)
    except UnknownWorkerError as exc:
        raise RequestError(
            f"Run {run_id} cannot go on, because a worker of it is not there any more. {exc}"
        ) from None


def check_not_declined(state: RunState) -> None:
    """Check that the plan of a run was not declined.

    Raises:
        RequestError: it was, which is final.
    """
    if state.plan_declined:
        raise RequestError(
            f"The plan of run {state.run_id} was declined, which is final: it is not carried out "
            "and not asked about again. If the user wants something else, call run_orchestration "
            "with a changed task or changed constraints, or resume_run with an edited plan."
        )


def check_new_budget(state: RunState, usd: float | None, policy: RunPolicy) -> None:
    """Check that a run can go on with this budget, if it is to have another one.

    Raises:
        RequestError: it cannot.
    """
    if usd is None:
        return
    check_budget(usd, policy)
    if not state.still:
        raise BusyRunError(state.run_id)
    spent = state.usage.usd or 0.0
    if usd <= spent:
        raise RequestError(
            f"budget_usd is {usd:g}, and run {state.run_id} has spent {spent:.2f} USD already, "
            "which counts too. Give more."
        )


CANCEL_SECONDS = 10
"""How long a cancelled run may take to end before the caller is answered anyway."""


class RunService:
    """Starts runs, drives them in the background, and answers what is asked of them.

    Runs of other processes on the same store can be read, waited for and cancelled too.
    """

    def __init__(
        self, *, journal: Journal, setup: Setup, policy: RunPolicy, tasks: TaskGroup
    ) -> None:
        self._journal = journal
        self._setup = setup
        self._policy = policy
        hours = policy.reuse_hours
        self._live = LiveRuns(journal=journal, setup=setup, tasks=tasks, reuse_hours=hours)
        self._watching = Watching(journal, self._live)
        self.room = Room(journal, self._live, policy)
        self.approvals = Approvals(journal=journal, find=self.get)
        self.elsewhere = Elsewhere(journal, self._live)
        self._reader = OrderReader(
            journal=journal, policy=policy, catalog=setup.catalog, find=self.get
        )

    @property
    def catalog(self) -> Catalog:
        """Return the workers that runs may use."""
        return self._setup.catalog

    @property
    def notice(self) -> str:
        """Return what every reader of an answer must know of the models in use."""
        return self._setup.llm.notice

    @property
    def budget_usd(self) -> float:
        """Return what a run may spend whose order does not say."""
        return self._policy.limits.budget_usd

    def on_change(self, listener: Callable[[str], None]) -> None:
        """Have `listener` called with the run's id after each event of a run driven here."""
        self._live.on_change(listener)

    async def start(
        self, order: Order, *, origin: Origin = NOBODY, reservation: Reservation | None = None
    ) -> RunState:
        """Check an order, write it to the journal, and start it; return at once.

        Of earlier runs, it may refer to those of its own principal.

        Raises:
            ReservationError: the principal's limits have no room for it.
            RequestError: it cannot be done as asked.
            InputError: an input cannot be read.
            StoreError: the journal cannot be written, so nothing was started.
        """
        if (known := await self.known(order)) is not None:
            return known
        checked = await self._reader_for(origin.principal).checked(order)
        try:
            return await self._begin(
                checked, origin=origin, key=order.stored_key, reservation=reservation
            )
        except UsedKeyError as exc:
            state = await self.get(exc.run_id)
            check_same(state, order)
            return state

    async def rerun(
        self,
        run_id: str,
        *,
        plan: Plan | None = None,
        redo: Sequence[str] = (),
        budget_usd: float | None = None,
        origin: Origin = NOBODY,
        reservation: Reservation | None = None,
    ) -> RunState:
        """Start a run like one that there is, with another plan or budget; return at once.

        What nothing has changed for is taken over from that run, except for the subtasks
        `redo` and what depends on them.

        Raises:
            ReservationError: the principal's limits have no room for it.
            RequestError: it cannot be done as asked.
            UnknownRunError: there is no run of that id.
            StoreError: the journal cannot be written, so nothing was started.
        """
        state = await self.get(run_id)
        if plan is None:
            check_not_declined(state)
        checked = await self._reader.again(state, plan=plan, redo=redo, budget_usd=budget_usd)
        earlier = await self._reader.earlier(checked.request)
        return await self._begin(checked, origin=origin, earlier=earlier, reservation=reservation)

    async def _begin(
        self,
        checked: CheckedOrder,
        *,
        origin: Origin,
        key: str = "",
        earlier: EarlierRun = NO_EARLIER_RUN,
        reservation: Reservation | None,
    ) -> RunState:
        run_id = f"r-{secrets.token_urlsafe(16)}"
        event = RunStarted(
            name="run/start",
            at=time.time(),
            request=checked.request,
            notice=self.notice,
            origin=origin,
        )
        create = partial(
            self._journal.create, run_id, event, checked.texts, key=key, reservation=reservation
        )
        if self.room.queues:
            await create(queued=True)
            return await self.get(run_id)
        live = LiveRun(fold(run_id, [event], alive=True), epoch=1)
        await self._live.begin(live, checked.documents, create, earlier=earlier)
        return live.state.shown()

    async def known(self, order: Order) -> RunState | None:
        """Return where the run stands that was started by an order with the same key.

        Raises:
            RequestError: that was another order.
        """
        run_id = order.stored_key and await self._journal.run_with(order.stored_key)
        if not run_id:
            return None
        state = await self.get(run_id)
        check_same(state, order)
        return state

    async def resume(
        self,
        run_id: str,
        *,
        by: str,
        here: bool = False,
        budget_usd: float | None = None,
        approved: str = "",
        reservation: Reservation | None = None,
    ) -> RunState:
        """Have a run go on that was interrupted, or that ended without success; return at once.

        One that is under way, here or elsewhere, or has succeeded, is left as it is, and so is
        one that waits for approval, unless `approved` is its `digest_to_approve`. Where there is
        no room it is queued, unless it has to go on `here`.

        Raises:
            ReservationError: the principal's limits have no room for it.
            RequestError: it cannot go on, or not with this budget, or another plan was approved.
            UnknownRunError: there is no run of that id.
            StoreError: the journal cannot be written, so nothing was started.
        """
        with anyio.move_on_after(CANCEL_SECONDS):
            await self._live.released(run_id)
        # Before it is looked at where the run stands: what happens from here on makes it another's.
        row = await self._journal.row(run_id)
        state = await self.get(run_id)
        check_not_declined(state)
        check_new_budget(state, budget_usd, self._policy)
        queued = self.room.queues and not here
        waits = state.status == "queued" and not queued
        least = self._policy.approve
        plan = approved_plan(state, approved=approved, budget_usd=budget_usd, least=least)
        if plan is None or state.status == "succeeded" or not (state.still or waits):
            return state
        check_resumable(state, self._setup)
        events = await self._journal.events(run_id)
        documents = {item.name: item for item in await self._reader.documents_of(state.request)}
        earlier = await self._reader.earlier(state.request)
        if (live := self._live.get(run_id)) is not None:
            return live.state.shown()
        event = RunResumed(
            name=f"run/resume/{row.epoch + 1}",
            at=time.time(),
            epoch=row.epoch + 1,
            by=by,
            budget_usd=budget_usd,
            approved=plan,
            deaths=state.deaths + 1 if here and not row.queued else 0,
        )
        live = LiveRun(fold(run_id, [*events, event], alive=True), epoch=event.epoch, approve=least)
        take_over = partial(
            self._journal.take_over, run_id, event, epoch=event.epoch, reservation=reservation
        )
        try:
            if queued:
                await take_over(queued=True)
                return await self.get(run_id)
            commit = partial(take_over, most=self._policy.runs_in_all)
            await self._live.begin(live, documents, commit, earlier=earlier)
        except LostRunError:
            return await self.get(run_id)
        return live.state.shown()

    def _reader_for(self, principal: str) -> OrderReader:
        async def find(run_id: str) -> RunState:
            await self.check_principal(run_id, principal)
            return await self.get(run_id)

        return replace(self._reader, find=find) if principal else self._reader

    async def check_principal(self, run_id: str, principal: str) -> None:
        """Do nothing if a run belongs to a principal.

        Raises:
            UnknownRunError: it does not, or there is none of that id.
        """
        state = self._live.known(run_id)
        found = state.principal if state else (await self._journal.row(run_id)).principal
        if found != principal:
            raise UnknownRunError(run_id)

    def driven(self) -> tuple[RunState, ...]:
        """Return where the runs stand that this process drives."""
        return self._live.states

    async def usage_of(self, principal: str, *, since: float, without: str = "") -> PrincipalUsage:
        """Return what the runs of a principal use, in all processes, `without` one of them."""
        return await self._journal.usage_of(principal, since=since, without=without)

    async def get(self, run_id: str) -> RunState:
        """Return where a run stands.

        Raises:
            UnknownRunError: there is none of that id.
        """
        return await self._watching.get(run_id)

    async def wait(self, run_id: str, *, seconds: float) -> RunState:
        """Return where a run stands once nobody drives it any more, or `seconds` have passed."""
        return await self._watching.wait(run_id, seconds=seconds)

    async def wait_for_change(self, run_id: str, *, seen: int, seconds: float) -> RunState:
        """Return where a run stands once it has other than `seen` events, or time has passed."""
        return await self._watching.wait_for_change(run_id, seen=seen, seconds=seconds)

    async def cancel(self, run_id: str, *, reason: str, declined: bool = False) -> RunState:
        """Stop a run and return where it stands then; what is finished stays.

        A run that is over is left as it is. One of another process is asked to stop, and one
        that nobody drives does not go on by itself any more. With `declined`, a plan that waits
        for approval is declined: the run cannot be resumed.
        """
        state = await self.get(run_id)
        if state.over and state.status != "needs_approval":
            return state
        event = CancelRequested(
            name=f"run/cancel/{secrets.token_hex(4)}",
            at=time.time(),
            reason=reason,
            declined=declined and state.status == "needs_approval",
        )
        unattended = state.status in ("queued", "needs_approval", "interrupted")
        if (live := self._live.get(run_id)) is not None:
            await self._live.stop(live, event)
        elif not (unattended and await self.room.cancelled(state, event)):
            await self._journal.tell(run_id, event)
        state = await self.wait(run_id, seconds=CANCEL_SECONDS)
        # Its plan may have come to wait for approval at this very moment: nobody has seen it yet,
        # so it is cancelled and not declined.
        waits = state.status == "needs_approval"
        return await self.cancel(run_id, reason=reason) if waits else state

    async def end_cancelled(self, state: RunState) -> None:
        """Write the end of a run that was asked to stop, and whose process has died before that."""
        if (reason := state.cancel_requested) is not None and state.status == "cancelled":
            name = f"run/cancel/{secrets.token_hex(4)}"
            event = CancelRequested(name=name, at=time.time(), reason=reason)
            await self.room.cancelled(state, event)

    async def answer(self, run_id: str, question_id: str, *, allowed: bool, by: str) -> RunState:
        """Answer a question of a run on somebody's behalf, and return where it stands then.

        Raises:
            UnknownQuestionError: the run has no such question, or none that is still open.
        """
        event = answer_to(await self.get(run_id), question_id, allowed=allowed, by=by)
        await self._live.answer(run_id, event)
        return await self.get(run_id)

    async def recent(self, limit: int = LATEST, *, principal: str | None = None) -> RecentRuns:
        """Return the latest runs, all or a principal's, without what was said in them."""
        return await self._watching.recent(limit, principal=principal)

    async def result(self, run_id: str, subtask_id: str) -> SubtaskResult:
        """Return how a subtask ended, or where it stands if it has not.

        Raises:
            UnknownSubtaskError: the run has no such subtask.
        """
        return subtask_result(await self.get(run_id), subtask_id)

    async def changes(self, run_id: str) -> tuple[FileChange, ...]:
        """Return how the results of a run change its inputs; nothing is written by this.

        Raises:
            UnknownRunError: there is none of that id.
        """
        return await file_changes(await self.get(run_id), self._journal.text)

    async def input_names(
        self, specs: Sequence[InputSpec], *, principal: str = ""
    ) -> tuple[str, ...]:
        """Return the names that inputs have in a run.

        Raises:
            InputError: an input cannot be read.
        """
        reader = self._reader_for(principal)
        return tuple(document.name for document in (await reader.inputs(specs)).documents)

    async def complete_path(self, begun: str) -> list[str]:
        """Return the paths of inputs that go on from `begun` by one name."""
        return await complete_path(begun, roots=self._policy.roots)

    async def check(self, order: Order, *, principal: str = "") -> None:
        """Raise what `start` would, and start nothing."""
        await self._reader_for(principal).checked(order)

    async def drain(self, *, seconds: float) -> None:
        """Let calls under way end and be committed, for so long at most; nothing else begins."""
        with anyio.move_on_after(seconds, shield=True):
            await self._setup.brake.pull()

    async def delete(self, run_id: str) -> None:
        """Delete a run with all that is known of it.

        Raises:
            UnknownRunError: there is none of that id.
            BusyRunError: it is under way.
        """
        await self._journal.delete([run_id])

    async def prune(self, retention: Retention) -> Sequence[StoredRun]:
        """Delete the runs that are not to be kept, and return what they were."""
        return await prune(self._journal, retention)

    async def trace(self, run_id: str, *, content: bool = False) -> Span:
        """Return the run as a tree of spans, with the `content` of tool calls if it is wanted."""
        row = await self._journal.row(run_id)
        events = await self._journal.events(run_id)
        alive = self._live.get(run_id) is not None or (row.alive and not row.mine)
        return visible_trace(run_id, events, alive=alive, content=content)


@asynccontextmanager
async def open_service(
    *, journal: Journal, setup: Setup, policy: RunPolicy
) -> AsyncGenerator[RunService]:
    """Open a run service; when it closes, runs under way stay without an end: `interrupted`."""
    async with anyio.create_task_group() as tasks:
        try:
            yield RunService(journal=journal, setup=setup, policy=policy, tasks=tasks)
        finally:
            tasks.cancel_scope.cancel()
