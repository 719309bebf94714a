"""What clients are told of the questions of a run to people."""

from concertmaster.engine.record.events import ToolAsked
from concertmaster.protocol.replies import QuestionLine
from concertmaster.runs.state import RunState


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
