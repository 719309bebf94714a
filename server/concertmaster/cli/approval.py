"""Plans that whoever is at the terminal approves, or does not."""

import math
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import click

from concertmaster.cli.follow import Followed
from concertmaster.cli.options import run_async
from concertmaster.cli.show import plan_markdown
from concertmaster.cli.terminal import print_aside
from concertmaster.runs.approvals import digest_to_approve
from concertmaster.runs.service import RunService
from concertmaster.runs.state import RunState

Begin = Callable[[RunService], Awaitable[RunState]]
"""Has a run begin or go on, and returns where it stands."""

FollowedT = TypeVar("FollowedT", bound=Followed)


def see_through(begin: Begin, work: Callable[[Begin], Awaitable[FollowedT]]) -> FollowedT:
    """Return how a run came to its end that `work` follows, once `begin` has begun it.

    If its plan has to be approved, that is asked at the terminal. Where there is none, or
    nobody answers, the run is left waiting.
    """
    followed = run_async(partial(work, begin))
    while followed.state.status == "needs_approval" and not followed.stopped:
        _show_plan(followed.state)
        if not at_terminal() or (decision := _decision(followed.state)) is None:
            break
        followed = run_async(partial(work, decision))
    return followed


def approval(
    run_id: str, *, by: str, budget_usd: float | None, shown: RunState | None = None
) -> Begin:
    """Return what has a run go on with the plan that was `shown`, or else with what it has."""

    async def approve(service: RunService) -> RunState:
        approved = digest_to_approve(shown or await service.get(run_id))
        return await service.resume(run_id, by=by, budget_usd=budget_usd, approved=approved)

    return approve


def at_terminal() -> bool:
    """Tell whether somebody is there to read a question and to answer it."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def _show_plan(state: RunState) -> None:
    if state.plan is not None:
        print_aside(plan_markdown(state.plan, state.estimate))


def _decision(state: RunState) -> Begin | None:
    """Return what is to be done with a plan, if somebody says so."""
    limit = f"{state.request.limits.budget_usd:g} USD"
    question = f"Carry out this plan, for {limit} at most? (y, n, or another limit in USD)"
    try:
        answer = click.prompt(question, value_proc=_answer, err=True)
    except click.Abort:
        return None
    if answer == "no":
        reason = "its plan was declined"
        return lambda service: service.cancel(state.run_id, reason=reason, declined=True)
    budget_usd = None if answer == "yes" else float(answer)
    return approval(
        state.run_id, by="whoever approved its plan", budget_usd=budget_usd, shown=state
    )


def _answer(said: str) -> str:
    said = said.strip().lower()
    if said in ("y", "yes", "n", "no"):
        return "yes" if said.startswith("y") else "no"
    try:
        usable = 0 < float(said) < math.inf
    except ValueError:
        usable = False
    if not usable:
        raise click.UsageError("Say y, n, or an amount such as 2.5.")
    return said
