"""What a client is told to call next."""

from concertmaster.engine.events import SubtaskResult, ToolAsked
from concertmaster.replies.models import QuestionLine
from concertmaster.replies.pagination import Page
from concertmaster.runs.state import RunState, sufficient_budget


def question_lines(
    state: RunState, *, most: int | None = None, chars: int | None = None
) -> tuple[QuestionLine, ...]:
    """Return the questions of a run that are open: so many at most, with texts no longer."""
    return tuple(
        QuestionLine(
            question_id=asked.question_id,
            subtask_id=asked.subtask_id,
            worker=asked.worker,
            tool=asked.tool[:chars],
            arguments=asked.arguments[:chars],
        )
        for asked in list(state.questions.values())[:most]
    )


def question_text(asked: ToolAsked) -> str:
    """Return a question as a person is asked it."""
    return (
        f"The worker {asked.worker} (subtask {asked.subtask_id}) wants to call the tool "
        f"{asked.tool} with {asked.arguments}. Allow this one call?"
    )


def how_to_answer(state: RunState) -> str:
    """Return how questions are answered, for a model that cannot; nothing if none is open."""
    if not state.questions:
        return ""
    question_id = next(iter(state.questions))
    return (
        "A worker may call a tool only if a person agrees (questions), and that person is not "
        "you: show the user what is to be called. Whoever runs this server can answer in a "
        f"terminal: concertmaster answer {state.run_id} {question_id} yes (or no). Without an "
        "answer in time the call is denied. "
    )


FOLLOW_SECONDS = 45
"""How long a call waits unless it says otherwise, and how long it is told to wait next."""


def next_after_run(state: RunState, page: Page, *, approval_token: str = "") -> str:
    """Return what to call after a reply on a run, with this page of its answer."""
    run_id = state.run_id
    if not state.still:
        return (
            f'{how_to_answer(state)}The run goes on. Call get_run with run_id "{run_id}" and '
            f"wait_seconds {FOLLOW_SECONDS} for its answer; cancel_run stops it."
        )
    if state.status == "needs_approval":
        return _to_be_approved(state, approval_token)
    if page.next_offset is not None:
        return (
            f'Call get_run with run_id "{run_id}" and offset {page.next_offset} for the rest, '
            "or answer from this part if it is enough."
        )
    if state.status == "interrupted":
        return (
            f'Nothing drives the run any more. Call resume_run with run_id "{run_id}" to go on '
            "with it: what was finished is kept and not paid for again."
        )
    return _next_after_end(state)


def _to_be_approved(state: RunState, token: str) -> str:
    run_id = state.run_id
    if not token:
        return (
            f'The plan waits for approval. Call resume_run with run_id "{run_id}" to have the '
            "user asked, or cancel_run if it is not wanted."
        )
    # Where the operator alone wants it approved, the next plan waits without being told to.
    approve = state.request.approve
    also = f' and approve "{approve}"' if approve != "never" else ""
    return (
        "The plan waits for approval; until then no work is done. Show the user the subtasks, the "
        f'estimate and the budget. Only if they agree, call resume_run with run_id "{run_id}" and '
        f'approval_token "{token}" (and budget_usd, if they name another limit). If not, call '
        "cancel_run, which is final; to change the plan, run_orchestration with the edited "
        f"plan{also}."
    )


def _next_after_end(state: RunState) -> str:
    run_id = state.run_id
    if state.request.kind == "plan" and state.plan is not None:
        return f'Call run_orchestration with plan_id "{run_id}" to run the plan.'
    if state.plan_declined:
        return (
            "The plan was declined, which is final: do not resume the run. If the user wants "
            "something else, call run_orchestration with a changed task or changed constraints, "
            f'or resume_run with run_id "{run_id}" and an edited plan.'
        )
    if (budget_usd := sufficient_budget(state)) is not None:
        return (
            f'Call resume_run with run_id "{run_id}" and budget_usd {budget_usd:g} to have the '
            "rest done, if the user wants to spend that: it includes what is spent already."
        )
    if state.nothing_left:
        return (
            f'Call get_run with run_id "{run_id}" and a subtask_id for that result in full. '
            "Nothing is left to try again: resume_run gets further only with from_subtask, an "
            "edited plan or a larger budget_usd."
        )
    if state.status in ("failed", "cancelled"):
        return (
            f'Call resume_run with run_id "{run_id}" to try again what did not succeed, once '
            "the reason is gone."
        )
    if state.request.kind == "orchestration" and state.subtasks:
        again = " resume_run tries again what is missing." if state.status == "partial" else ""
        return (
            f'Call get_run with run_id "{run_id}" and a subtask_id for that result in full.{again}'
        )
    return ""


def next_after_plan(state: RunState, page: Page) -> str:
    """Return what to call after a reply on a run that was to make a plan."""
    if not state.over or state.plan is None or page.next_offset is not None:
        return next_after_run(state, page)
    if state.plan.direct_answer is not None:
        return "The request needs no workers: direct_answer is the answer."
    return (
        f'Call run_orchestration with plan_id "{state.run_id}" to run it; to change it first, '
        "pass plan (analysis, mode, verify, custom_workers and subtasks, edited) with the same "
        "task and inputs instead."
    )


def next_after_subtask(state: RunState, result: SubtaskResult, page: Page) -> str:
    """Return what to call after a reply on a subtask, with this page of its result."""
    if page.next_offset is not None:
        return (
            f'Call get_run with run_id "{state.run_id}", subtask_id "{result.subtask_id}" and '
            f"offset {page.next_offset} for the rest."
        )
    return "" if state.still else next_after_run(state, page)
