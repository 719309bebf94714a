"""What a run has taken over from others, in words."""

from concertmaster.llm.protocol import NO_USAGE
from concertmaster.runs.state import RunState


def reused_line(state: RunState) -> str:
    """Return which results were taken over from which runs, and what that saved."""
    if not (reused := state.reused):
        return ""
    names: dict[str, list[str]] = {}
    for name, result in reused.items():
        names.setdefault(result.taken_from or state.request.rerun_of, []).append(name)
    saved = sum((result.saved or NO_USAGE for result in reused.values()), NO_USAGE)
    origins = "; ".join(
        f"{', '.join(subtasks)} from {run_id}" for run_id, subtasks in names.items()
    )
    calls = f"{saved.calls} call{'' if saved.calls == 1 else 's'}"
    price = "" if saved.usd is None else f", {round(saved.usd, 4):g} USD"
    return f"{origins}; saved {calls}{price}."
