"""Having the plan of a run approved by the person at a client, or by what the client knows."""

from hashlib import sha256
from typing import TYPE_CHECKING, Annotated

from mcp.types import CallToolResult
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from concertmaster.errors import LostRunError, RequestError
from concertmaster.protocol.client_profiles import profile_of
from concertmaster.protocol.elicitation import Answer, Question, Session, can_ask
from concertmaster.protocol.lines import one_line
from concertmaster.protocol.results import run_result
from concertmaster.protocol.state import Ctx, state_of
from concertmaster.runs.approvals import digest_to_approve
from concertmaster.runs.state import RunState

if TYPE_CHECKING:
    from concertmaster.runs.principals import Runs

SHOWN_SUBTASKS = 20
"""How many subtasks a question shows, a line each."""


class Approval(BaseModel):
    """What somebody may say beside yes."""

    model_config = ConfigDict(title="Run this plan", allow_inf_nan=False)

    # Some clients send a field that was left blank as an empty text.
    budget_usd: Annotated[
        float | None, BeforeValidator(lambda said: None if said == "" else said)
    ] = Field(
        default=None,
        gt=0,
        title="Another limit, in USD",
        description="What the run may spend in all, if not what is said above.",
    )


def approval_of(state: RunState) -> Question[Approval]:
    """Return the question whether the plan of a run is to be carried out.

    Raises:
        RequestError: the plan does not wait for approval.
    """
    asked = f"{state.run_id} {digest_to_approve(state)}"
    key = sha256(asked.encode()).hexdigest()[:16]
    return Question(key=f"approve-{key}", text=_question(state), form=Approval)


def _question(state: RunState) -> str:
    subtasks = [item.subtask for item in state.subtasks.values()]
    lines = [
        f"- {item.id} {item.worker}: {one_line(item.objective, 120)}"
        for item in subtasks[:SHOWN_SUBTASKS]
    ]
    if len(subtasks) > SHOWN_SUBTASKS:
        lines.append(f"- and {len(subtasks) - SHOWN_SUBTASKS} more")
    likely = f"It is likely to take {state.estimate.words}. " if state.estimate else ""
    return "\n".join(
        (
            f"Shall this plan be carried out? Task: {one_line(state.request.task, 200)}",
            *lines,
            f"{likely}The limit is {state.request.limits.budget_usd:g} USD{_done(state)}.",
        )
    )


def _done(state: RunState) -> str:
    """Return what has been done of a plan that was begun with another limit, as a clause."""
    if not (ended := state.ended_subtasks):
        return ""
    spent = state.usage.usd or 0.0
    return f"; {ended} of the subtasks ended before, and {spent:.2f} USD of it are spent"


async def decide(runs: "Runs", state: RunState, answer: Answer[Approval]) -> RunState:
    """Do with a run what somebody has said to its plan, and return where it stands then.

    `state` is the one that they were asked about.

    Raises:
        RequestError: it cannot go on, or not with the limit that was named; or what they were
            asked about is not what waits any more.
    """
    match answer:
        case "declined":
            reason = "its plan was declined"
            return await runs.cancel(state.run_id, reason=reason, declined=True)
        case "dismissed":
            return state
        case Approval():
            return await runs.resume(
                state.run_id,
                by="whoever approved its plan",
                budget_usd=answer.budget_usd,
                approved=digest_to_approve(state),
            )


async def reply_on(ctx: Ctx, state: RunState, *, offset: int = 0) -> CallToolResult:
    """Return where a run stands, with the longest page of its answer from `offset`.

    Raises:
        RequestError: the answer ends before `offset`.
    """
    token = await approval_token(await state_of(ctx).service(), state, ctx.session)
    client = profile_of(ctx.session)
    return run_result(state, client=client, offset=offset, approval_token=token)


async def approval_token(runs: "Runs", state: RunState, session: Session) -> str:
    """Return what a client that cannot ask anybody may approve the plan of a run with.

    Nothing, where there is nothing to approve, or the client has somebody to ask.
    """
    if state.status != "needs_approval" or can_ask(session):
        return ""
    try:
        return await runs.approvals.offer(state.run_id)
    except (RequestError, LostRunError):
        # It has been decided meanwhile.
        return ""
