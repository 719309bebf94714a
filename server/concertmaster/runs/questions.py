"""Questions of runs to people: those that are open, and answers to them."""

import secrets
import time

from concertmaster.engine.record.events import ToolAnswered
from concertmaster.errors import UnknownQuestionError
from concertmaster.runs.state import RunState


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
