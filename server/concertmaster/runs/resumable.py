"""Whether a run that is not under way can go on, and with what budget."""

import math

from concertmaster.engine.run import Setup, workers_of
from concertmaster.errors import BusyRunError, RequestError, UnknownWorkerError
from concertmaster.runs.intake import RunPolicy, check_budget
from concertmaster.runs.state import RunState

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


def sufficient_budget(state: RunState) -> float | None:
    """Return a budget that is likely to do for all of a run whose own did not, if one is known."""
    rest, usage, limits = state.rest, state.usage, state.request.limits
    if rest is None or rest.usd is None or usage.usd is None:
        return None
    if usage.new_tokens + rest.tokens.low > limits.budget_tokens:
        # No amount of money helps where the tokens do not suffice.
        return None
    likely = usage.usd + rest.usd.high
    # Calls are turned away for what they may take at most, which can be more than is likely.
    enough = likely if likely > limits.budget_usd else limits.budget_usd + rest.usd.high
    return math.ceil(100 * enough) / 100
