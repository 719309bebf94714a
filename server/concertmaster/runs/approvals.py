"""Tokens with which a client that cannot ask anybody approves the plan of a run."""

import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import sha256
from itertools import takewhile

from concertmaster.engine.orchestration.approval import plan_digest, waits_for_approval
from concertmaster.engine.record.events import ApprovalOffered, RunEnded
from concertmaster.errors import RequestError
from concertmaster.runs.journal import Journal
from concertmaster.runs.state import RunState


def digest_to_approve(state: RunState) -> str:
    """Return what the plan of a run is known by that waits for approval.

    Raises:
        RequestError: it does not wait for that.
    """
    if state.status != "needs_approval" or state.plan is None:
        raise RequestError(
            f"Run {state.run_id} does not wait for approval: it is {state.status}. A token for it "
            "that was used, or given before it was decided on, is of no more use."
        )
    return plan_digest(state.plan)


def still_unapproved(state: RunState, *, approved: str, budget_usd: float | None) -> bool:
    """Tell whether a run waits for approval, and would go on doing so.

    Raises:
        RequestError: what was approved is not a plan that waits for it.
    """
    if approved and approved != digest_to_approve(state):
        raise RequestError(
            f"What was approved is not the plan of run {state.run_id}. Look at the plan again."
        )
    if state.status != "needs_approval" or state.plan is None:
        return False
    request = state.request.with_budget(budget_usd)
    return waits_for_approval(request, state.plan, state.estimate, approved=approved)


@dataclass(frozen=True, slots=True, kw_only=True)
class Approvals:
    """Approval of plans with tokens, each of which is of use once."""

    journal: Journal
    find: Callable[[str], Awaitable[RunState]]
    """Returns where a run stands."""

    async def offer(self, run_id: str) -> str:
        """Return a new token with which the plan of a run is approved that waits for that.

        Raises:
            RequestError: it does not.
            LostRunError: it does not any more.
        """
        # Read first, so that nothing is written to a run that has gone on since.
        row = await self.journal.row(run_id)
        plan = digest_to_approve(await self.find(run_id))
        token = secrets.token_urlsafe(16)
        name = f"run/approval/{secrets.token_hex(4)}"
        event = ApprovalOffered(name=name, at=time.time(), plan=plan, token=_digest(token))
        await self.journal.append(run_id, event, epoch=row.epoch)
        return token

    async def redeem(self, run_id: str, token: str) -> str:
        """Return the digest of the plan that a token approves.

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
