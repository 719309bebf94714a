"""Results of an earlier run that another one like it need not make again."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from concertmaster.engine.plans.plan import Subtask
from concertmaster.engine.record.events import (
    Event,
    ResultsVerified,
    RunResumed,
    SubtaskFinished,
    SubtaskResult,
    SubtaskStarted,
)
from concertmaster.llm.protocol import NO_USAGE


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierRun:
    """What an earlier run has for one like it."""

    run_id: str = ""
    results: Mapping[str, SubtaskResult] = field(default_factory=dict[str, SubtaskResult])
    """Whole results, by the fingerprint of the work that they came of."""
    redo: frozenset[str] = frozenset()
    """Subtasks that are to be done anew all the same."""

    def result_of(self, subtask: Subtask, fingerprint: str) -> SubtaskResult | None:
        """Return the result of a subtask that need not be done, as that subtask's."""
        earlier = self.results.get(fingerprint)
        if earlier is None or subtask.id in self.redo:
            return None
        saved = earlier.saved or earlier.usage
        note = f"Taken over from run {self.run_id}."
        return earlier.model_copy(
            update={
                "subtask_id": subtask.id,
                "usage": NO_USAGE,
                "seconds": 0.0,
                "saved": saved,
                "notes": (*(text for text in earlier.notes if text != note), note),
            }
        )


NO_EARLIER_RUN = EarlierRun()


def earlier_results(events: Iterable[Event]) -> dict[str, SubtaskResult]:
    """Return the whole results of a run, by the fingerprint of the work that they came of."""
    fingerprints: dict[str, str] = {}
    results: dict[str, SubtaskResult] = {}
    verified = False
    for event in events:
        match event:
            case SubtaskStarted():
                fingerprints[event.subtask_id] = event.fingerprint
            # What was mended came of more than its own work.
            case SubtaskFinished(result=result) if not verified:
                results[result.subtask_id] = result
            case ResultsVerified():
                verified = True
            case RunResumed():
                verified = False
            case _:
                pass
    return {
        fingerprints[name]: result
        for name, result in results.items()
        if result.status == "succeeded" and fingerprints.get(name)
    }


def and_dependants(names: Iterable[str], subtasks: Iterable[Subtask]) -> frozenset[str]:
    """Return `names` and the subtasks that depend on them, directly or not."""
    found = set(names)
    subtasks = list(subtasks)
    # A plan need not name what a subtask depends on before that subtask.
    for _ in subtasks:
        found |= {item.id for item in subtasks if found & set(item.depends_on)}
    return frozenset(found)
