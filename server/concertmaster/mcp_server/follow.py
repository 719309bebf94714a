"""Waiting for a run on behalf of a client, which is kept informed and may walk away."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NoReturn

import anyio

from concertmaster.engine.concurrency import together
from concertmaster.engine.plan.plan import Plan
from concertmaster.engine.request import Origin
from concertmaster.errors import RequestError
from concertmaster.mcp_server.context import Ctx, state_of, trace_context
from concertmaster.mcp_server.elicitation import (
    Answer,
    Approval,
    approval_of,
    ask,
    asked_about,
    can_ask,
    decide,
    put_questions,
)
from concertmaster.replies.build import progress_line
from concertmaster.runs.orders import Order
from concertmaster.runs.state import RunState

HEARTBEAT_SECONDS = 8.0
"""The longest silence while a client waits; clients give up on silent servers."""

ABANDON_SECONDS = 5.0
"""How long a run whose client walked away may take to end."""

PAUSE_SECONDS = 0.3
"""The shortest time between two notifications; changes in between are in the next one."""

_STEPS_PER_PART = 100
"""How many steps of progress a subtask counts for: what happens within it raises progress too."""


class ProgressCount:
    """Counts progress in whole steps, which rise with every notification and stay below the total.

    A part is a subtask, or the synthesis as the last of them. The count is always within the part
    that is due. The total grows only when a part has more notifications than it has steps.
    """

    def __init__(self) -> None:
        self._last = -1
        self._steps_per_part = _STEPS_PER_PART

    def next(self, *, ended: int, parts: int | None) -> tuple[int, int | None]:
        """Return progress and total when so many of the parts have ended."""
        if parts is None:
            self._last += 1
            return self._last, None
        ended = min(ended, parts - 1)
        while self._last + 1 >= self._steps_per_part * (ended + 1):
            self._steps_per_part *= 2
        self._last = max(self._last + 1, self._steps_per_part * ended)
        return self._last, self._steps_per_part * parts


class _Progress:
    """Tells a client how far a run has come."""

    def __init__(self, ctx: Ctx) -> None:
        self._ctx = ctx
        self._count = ProgressCount()
        self._next_at = -math.inf

    @property
    def pause(self) -> float:
        """Return how many seconds have to pass before the next notification."""
        return max(0.0, self._next_at - anyio.current_time())

    async def report(self, state: RunState) -> None:
        parts = len(state.subtasks) + 1 if state.subtasks else None
        progress, total = self._count.next(ended=state.ended_subtasks, parts=parts)
        self._next_at = anyio.current_time() + PAUSE_SECONDS
        await self._ctx.report_progress(progress, total, progress_line(state))


async def follow(
    ctx: Ctx, run_id: str, *, seconds: float, progress: _Progress | None = None
) -> RunState:
    """Return where a run stands once nothing more happens to it, or `seconds` have passed.

    Meanwhile the person at the client is asked what the run asks, if the client can do that.

    Raises:
        AnswerNeededError: the call is to be made again, with an answer to that.
        UnknownRunError: there is none of that id.
    """
    service = await state_of(ctx).service()
    until = anyio.current_time() + seconds
    progress = progress or _Progress(ctx)
    state = await service.get(run_id)
    with state_of(ctx).waiting():
        async with put_questions(ctx, service, seconds=seconds) as person:
            while not state.still:
                left = until - anyio.current_time()
                if left > 0:
                    await person.put(state)
                elif not person.is_asked(state):
                    break
                # Noted first, because the run goes on while its progress is being reported.
                seen = state.events
                await progress.report(state)
                state = await service.wait_for_change(
                    run_id,
                    seen=seen,
                    seconds=min(left, HEARTBEAT_SECONDS) if left > 0 else HEARTBEAT_SECONDS,
                )
                if not state.still and progress.pause:
                    # The end of the run ends the pause as well.
                    state = await service.wait(run_id, seconds=progress.pause)
    return state


async def start_and_follow(ctx: Ctx, order: Order, *, seconds: float) -> RunState:
    """Start a run and follow it; a client that cancels its call cancels the run.

    One that an order with the same key has started is followed, and left to that call.

    Raises:
        AnswerNeededError: its plan has to be approved, and the client has somebody to ask.
        ConcertmasterError: the order cannot be done as asked, or not be written down.
    """
    service = await state_of(ctx).service()
    if (run_id := asked_about(ctx)) is not None:
        return await _follow_own(ctx, await service.get(run_id), seconds=seconds)
    if (known := await service.known(order)) is not None:
        return await follow(ctx, known.run_id, seconds=seconds)
    return await _follow_own(ctx, await service.start(order, origin=_origin(ctx)), seconds=seconds)


async def rerun_and_follow(
    ctx: Ctx,
    run_id: str,
    *,
    plan: Plan | None,
    redo: Sequence[str],
    budget_usd: float | None,
    seconds: float,
) -> RunState:
    """Start a run like another and follow it; a client that cancels its call cancels the run.

    Raises:
        AnswerNeededError: its plan has to be approved, and the client has somebody to ask.
        ConcertmasterError: it cannot be done as asked, or not be written down.
    """
    service = await state_of(ctx).service()
    if (begun_before := asked_about(ctx)) is not None:
        return await _follow_own(ctx, await service.get(begun_before), seconds=seconds)
    begun = await service.rerun(
        run_id, plan=plan, redo=redo, budget_usd=budget_usd, origin=_origin(ctx)
    )
    return await _follow_own(ctx, begun, seconds=seconds)


async def resume_and_follow(
    ctx: Ctx,
    run_id: str,
    *,
    budget_usd: float | None,
    approval_token: str,
    seconds: float,
) -> RunState:
    """Have a run go on and follow it; a client that cancels its call cancels the run.

    A run that was under way already is followed, and left to whoever started it.

    Raises:
        AnswerNeededError: its plan has to be approved, and the client has somebody to ask.
        ConcertmasterError: it cannot go on, or that cannot be written down.
    """
    service = await state_of(ctx).service()
    state = await service.get(run_id)
    if asked_about(ctx) is None:
        if budget_usd is None and not approval_token and not state.still:
            return await follow(ctx, run_id, seconds=seconds)
        approved = await service.approvals.redeem(run_id, approval_token) if approval_token else ""
        state = await service.resume(
            run_id, by="resume_run", budget_usd=budget_usd, approved=approved
        )
    return await _follow_own(ctx, state, seconds=seconds)


def _origin(ctx: Ctx) -> Origin:
    return Origin(trace_context=trace_context(ctx))


async def _follow_own(ctx: Ctx, begun: RunState, *, seconds: float) -> RunState:
    """Follow a run that the call has begun; if its plan has to be approved, have that asked."""
    server = state_of(ctx)
    service = await server.service()
    progress = _Progress(ctx)
    try:
        state = await follow(ctx, begun.run_id, seconds=seconds, progress=progress)
        if state.status == "needs_approval" and can_ask(ctx.session):
            state = await _decided(ctx, state, progress)
            state = await follow(ctx, state.run_id, seconds=seconds, progress=progress)
    except anyio.get_cancelled_exc_class():
        if not server.left:
            with anyio.move_on_after(ABANDON_SECONDS, shield=True):
                reason = "the client cancelled the call that was waiting for it"
                await service.cancel(begun.run_id, reason=reason)
        raise
    # The run will not survive this process, and its client should not wait for it.
    return replace(state, status="interrupted") if server.ending and not state.over else state


async def _decided(ctx: Ctx, state: RunState, progress: _Progress) -> RunState:
    """Return where a run stands once the person at the client has been asked about its plan."""
    try:
        answer = await _asked(ctx, state, progress)
        return await decide(await state_of(ctx).service(), state, answer)
    except RequestError as exc:
        raise RequestError(
            f'{exc} Call resume_run with run_id "{state.run_id}" to have the user asked again.'
        ) from None


async def _asked(ctx: Ctx, state: RunState, progress: _Progress) -> Answer[Approval]:
    """Return what the person at the client says to the plan of a run."""
    answer: Answer[Approval] = "dismissed"
    with state_of(ctx).waiting():
        async with together() as tasks:
            tasks.start_soon(_keep_alive, progress, state)
            answer = await ask(ctx, approval_of(state), about=state.run_id)
            tasks.cancel_scope.cancel()
    return answer


async def _keep_alive(progress: _Progress, state: RunState) -> NoReturn:
    while True:
        await progress.report(state)
        await anyio.sleep(HEARTBEAT_SECONDS)
