"""Files that a run has rewritten: what its results say they should be."""

from collections.abc import Awaitable, Callable, Iterator

from pydantic import JsonValue, ValidationError

from concertmaster.llm.usage import Frozen, Text
from concertmaster.runs.state import RunState, SubtaskState
from concertmaster.tools.changes import FileChange


class Rewritten(Frozen):
    """The result of a worker that rewrites a file, by which such results are known."""

    new_text: Text | None
    """The whole file; None if it stays as it is."""
    notes: Text


def rewritten_files(state: RunState) -> dict[str, str]:
    """Return the new text of each input of a run that a result gives one to."""
    inputs = {item.name for item in state.request.inputs}
    return {
        name: rewritten.new_text
        for subtask in state.subtasks.values()
        for name, rewritten in _rewritten(subtask)
        if rewritten.new_text is not None and name in inputs
    }


def _rewritten(subtask: SubtaskState) -> Iterator[tuple[str, Rewritten]]:
    for name, value in _values(subtask):
        try:
            yield name, Rewritten.model_validate(value)
        except ValidationError:
            continue


def _values(subtask: SubtaskState) -> Iterator[tuple[str, JsonValue]]:
    """Yield each value of a result with the input that it is about."""
    result, inputs = subtask.result, subtask.subtask.inputs
    if result is None:
        return
    if result.parts:
        # A part that is an input has its name; others are about no whole input.
        yield from ((part.name, part.value) for part in result.parts if part.name in inputs)
    elif len(inputs) == 1:
        yield inputs[0], result.value


async def file_changes(
    state: RunState, text: Callable[[str], Awaitable[str]]
) -> tuple[FileChange, ...]:
    """Return how the results of a run change its inputs, whose texts `text` has by digest."""
    after = rewritten_files(state)
    changes: list[FileChange] = []
    for item in state.request.inputs:
        if item.name in after:
            before = await text(item.digest)
            new = _fitted(after[item.name], before)
            changes.append(FileChange(name=item.name, before=before, after=new))
    return tuple(change for change in changes if change.before != change.after)


def _fitted(text: str, before: str) -> str:
    """Return a new text with the line ends of the old one, which models do not keep."""
    text = text.replace("\r\n", "\n")
    if before.endswith("\n") and text and not text.endswith("\n"):
        text += "\n"
    only_pairs = "\r\n" in before and before.count("\r\n") == before.count("\n")
    return text.replace("\n", "\r\n") if only_pairs else text
