"""The events with which a run ends that its orchestrator did not bring to an end."""

import time
from collections.abc import Iterator

from concertmaster.engine.record.events import Event, RunEnded, SubtaskFinished, SubtaskResult
from concertmaster.runs.state import RunState, cancel_reason


def cancelled(state: RunState) -> Iterator[Event]:
    """Yield what ends a run that was asked to stop: the end of each open subtask, and its own."""
    for subtask_id, subtask in state.subtasks.items():
        if subtask.ended_at is None and subtask.result is None:
            result = SubtaskResult(
                subtask_id=subtask_id,
                worker=subtask.subtask.worker,
                status="cancelled",
                errors=("The run was cancelled.",),
                usage=subtask.usage,
            )
            yield SubtaskFinished(
                name=f"subtask/{subtask_id}/result", at=time.time(), result=result
            )
    yield RunEnded(
        name="run/end",
        at=time.time(),
        status="cancelled",
        reasons=(cancel_reason(state),),
    )


def broken() -> RunEnded:
    """Return the end of a run that an error of ours stopped."""
    reason = "An internal error ended the run; the server's log has the details."
    return RunEnded(name="run/end", at=time.time(), status="failed", reasons=(reason,))
