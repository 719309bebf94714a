"""Whether a run that is not under way can go on."""

from concertmaster.engine.run import Setup, workers_of
from concertmaster.errors import RequestError, UnknownWorkerError
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
