"""Tokens with which a client that cannot ask anybody approves the plan of a run."""

import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import takewhile

from concertmaster.engine.approvals import waits_for_approval
from concertmaster.engine.events import ApprovalOffered, RunEnded, ToolAnswered
from concertmaster.engine.plan.plan import plan_digest
from concertmaster.engine.request import Approve
from concertmaster.errors import RequestError, UnknownQuestionError
from concertmaster.runs.state import RunState
from concertmaster.store.journal import Journal

MOST_GIVEN = 1000
"""How many tokens are kept in mind, so that no look at a run has to write another."""


def digest_to_approve(state: RunState) -> str:
    """Return what the plan of a run that waits for approval is known by, with its limit.

    Raises:
        RequestError: it does not wait for that.
    """
    if state.status != "needs_approval" or state.plan is None:
        raise RequestError(
            f"Run {state.run_id} does not wait for approval: it is {state.status}. A token for it "
            "that was used, or given before it was decided on, is of no more use."
        )
    return _digest(f"{plan_digest(state.plan)} {state.request.limits.budget_usd!r}")


def approved_plan(
    state: RunState, *, approved: str, budget_usd: float | None, least: Approve
) -> str | None:
    """Return the digest of the plan that a run goes on with because somebody approved it.

    The run needs as much approval as it was begun with, and no less than `least`. What is
    returned is empty where nobody has to, or it takes another limit before it waits again; and
    None where the run waits on as it does.

    Raises:
        RequestError: what was approved is not a plan and a limit that wait for it.
    """
    if approved and approved != digest_to_approve(state):
        raise RequestError(
            f"What was approved is not the plan of run {state.run_id}, or not with its limit. "
            "Look at the plan again."
        )
    if state.status != "needs_approval" or state.plan is None:
        return ""
    if approved:
        return plan_digest(state.plan)
    if state.request.with_budget(budget_usd) != state.request:
        return ""
    request = state.request.with_approval(least)
    return None if waits_for_approval(request, state.plan, state.estimate, approved_usd=0) else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Approvals:
    """Approval of plans with tokens, each of which is of use once."""

    journal: Journal
    find: Callable[[str], Awaitable[RunState]]
    """Returns where a run stands."""
    given: dict[tuple[str, int], str] = field(default_factory=dict[tuple[str, int], str])
    """Tokens that this process has given lately, by run and epoch."""

    async def offer(self, run_id: str) -> str:
        """Return a token with which the plan of a run is approved that waits for that.

        Whoever looks at the run again and again gets the same, and nothing more is written.

        Raises:
            RequestError: it does not.
            LostRunError: it does not any more.
        """
        # Read first, so that nothing is written to a run that has gone on since.
        row = await self.journal.row(run_id)
        plan = digest_to_approve(await self.find(run_id))
        if (known := self.given.get((run_id, row.epoch))) is not None:
            return known
        token = secrets.token_urlsafe(16)
        name = f"run/approval/{secrets.token_hex(4)}"
        event = ApprovalOffered(name=name, at=time.time(), plan=plan, token=_digest(token))
        await self.journal.append(run_id, event, epoch=row.epoch)
        if len(self.given) >= MOST_GIVEN:
            self.given.clear()
        self.given[run_id, row.epoch] = token
        return token

    async def redeem(self, run_id: str, token: str) -> str:
        """Return what `digest_to_approve` does, where a token approves that.

        Raises:
            RequestError: the run does not wait for approval, or the token is not for its plan.
        """
        plan = digest_to_approve(await self.find(run_id))
        digest = _digest(token)
        events = reversed(await self.journal.events(run_id))
        # A token from before the run has ended so was for what it had then.
        since = takewhile(lambda event: not isinstance(event, RunEnded), events)
        offers = [(item.plan, item.token) for item in since if isinstance(item, ApprovalOffered)]
        if (plan, digest) in offers:
            return plan
        raise RequestError(
            f"This approval_token is not for the plan that run {run_id} waits to have approved. "
            "get_run has one that is."
        )


def _digest(token: str) -> str:
    return sha256(token.encode(errors="replace")).hexdigest()


def answer_to(state: RunState, question_id: str, *, allowed: bool, by: str) -> ToolAnswered:
    """Return the event that answers a question of a run on somebody's behalf.

    Raises:
        UnknownQuestionError: the run has no such question, or none that is still open.
    """
    if question_id not in state.questions:
        raise UnknownQuestionError(state.run_id, question_id, tuple(state.questions))
    return ToolAnswered(
        # Several may answer at the same time, and all of that is written down.
        name=f"question/{question_id}/{secrets.token_hex(4)}",
        at=time.time(),
        question_id=question_id,
        allowed=allowed,
        by=by,
    )
