"""Results of earlier runs that another need not make again."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from concertmaster.engine.plans.plan import Subtask
from concertmaster.engine.record.events import (
    Event,
    GuardDecided,
    ResultsVerified,
    RunResumed,
    RunStarted,
    SubtaskFinished,
    SubtaskResult,
    SubtaskStarted,
    ToolCalled,
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
        return taken_over(earlier, subtask, run_id=self.run_id)


NO_EARLIER_RUN = EarlierRun()


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A result that any run like the one it is of may take over."""

    run_id: str
    result: SubtaskResult
    calls: tuple[ToolCalled, ...] = ()
    """The tool calls that it rests on."""


FindOffers = Callable[[str], Awaitable[Sequence[Offer]]]
"""Returns what there is for work with a fingerprint, the latest first."""


async def no_offers(_fingerprint: str) -> Sequence[Offer]:
    """Return nothing, since results of other runs are not wanted."""
    return ()


def taken_over(result: SubtaskResult, subtask: Subtask, *, run_id: str) -> SubtaskResult:
    """Return a result of the run `run_id` as that of a subtask that is not done for it."""
    note = f"Taken over from run {run_id}."
    return result.model_copy(
        update={
            "subtask_id": subtask.id,
            "usage": NO_USAGE,
            "seconds": 0.0,
            "saved": result.saved or result.usage,
            "taken_from": run_id,
            # Else it would be handed on from run to run for ever.
            "fingerprint": "",
            "notes": (*(text for text in result.notes if text != note), note),
        }
    )


def earlier_results(events: Iterable[Event]) -> dict[str, SubtaskResult]:
    """Return the whole results of a run, by the fingerprint of the work that they came of."""
    fingerprints: dict[str, str] = {}
    results: dict[str, SubtaskResult] = {}
    verified = False
    for event in events:
        match event:
            case SubtaskStarted():
                fingerprints[event.subtask_id] = event.fingerprint
                # The result of an earlier attempt may have come of other work.
                results.pop(event.subtask_id, None)
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


def offers_of(run_id: str, events: Iterable[Event]) -> dict[str, Offer]:
    """Return what a run has for others, by fingerprint: nothing, unless its guard let it pass."""
    passed = True
    results: dict[str, SubtaskResult] = {}
    calls: dict[str, list[ToolCalled]] = {}
    for event in events:
        match event:
            case RunStarted(request=request):
                passed = not request.guard
            case GuardDecided():
                passed = event.passed
            case ToolCalled():
                calls.setdefault(event.subtask_id, []).append(event)
            case SubtaskFinished(result=result) if result.fingerprint:
                results[result.fingerprint] = result
            case _:
                pass
    return {
        fingerprint: Offer(
            run_id=run_id, result=result, calls=tuple(calls.get(result.subtask_id, ()))
        )
        for fingerprint, result in results.items()
        if passed
    }


def and_dependants(names: Iterable[str], subtasks: Iterable[Subtask]) -> frozenset[str]:
    """Return `names` and the subtasks that depend on them, directly or not."""
    found = set(names)
    subtasks = list(subtasks)
    # A plan need not name what a subtask depends on before that subtask.
    for _ in subtasks:
        found |= {item.id for item in subtasks if found & set(item.depends_on)}
    return frozenset(found)
