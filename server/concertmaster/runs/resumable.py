"""Whether a run that is not under way can go on."""

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
