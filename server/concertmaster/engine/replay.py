"""What the journal of a run tells those who resume it: what stands, and what is tried again."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import TopologicalSorter

from concertmaster.engine.events import (
    CallFailed,
    CallFinished,
    CallProgressed,
    Event,
    GuardDecided,
    PlanAccepted,
    PlanRevised,
    ResultsShortened,
    ResultsVerified,
    RunEnded,
    RunResumed,
    RunStarted,
    SubtaskDrafted,
    SubtaskFinished,
    SubtaskResult,
    SubtaskStarted,
    SubtaskStatus,
    SynthesisStarted,
    ToolAnswered,
    ToolAsked,
    ToolCalled,
    ToolStarted,
    consumed,
)
from concertmaster.engine.plan.plan import Plan, Subtask, plan_digest
from concertmaster.llm.messages import Reply, ToolOutcome
from concertmaster.llm.usage import NO_USAGE, Usage


class UnsettledCalls:
    """The latest usage of each call that is under way.

    A step whose process was killed may be attempted again in a later epoch, so each epoch
    begins with `lose`.
    """

    def __init__(self) -> None:
        self._latest: dict[str, CallProgressed] = {}

    def apply(self, event: CallProgressed | CallFinished | CallFailed) -> None:
        """Note what a call has taken so far, or that it has ended and says so itself."""
        match event:
            case CallProgressed(step=step):
                self._latest[step] = event
            case CallFinished(name=step):
                self._latest.pop(step, None)
            case CallFailed(step=step):
                self._latest.pop(step, None)

    def lose(self) -> Sequence[CallProgressed]:
        """Return what the calls had taken that never ended, as estimates, and forget them."""
        lost = [
            event.model_copy(update={"usage": event.usage.as_estimate})
            for event in self._latest.values()
        ]
        self._latest.clear()
        return lost


class Recorded:
    """The outcomes of a run's steps so far.

    A run that was cut off or cancelled goes on with all replies that it has. One that ended
    without success goes on with those that can still lead to something else: what a subtask
    was told in vain is forgotten, unless a call of it failed, which is then made again.

    Nothing stands that was made from results which have changed since: neither a subtask's
    result or replies, nor the synthesis.
    """

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.replies: dict[str, Reply] = {}
        self.outcomes: dict[str, ToolOutcome] = {}
        self.begun: set[str] = set()
        """Tool calls that had begun, and may change something."""
        self.asked: dict[str, ToolAsked] = {}
        """What somebody had to agree to, by tool call."""
        self.answers: dict[str, ToolAnswered] = {}
        """What people have said to that, by question."""
        self.results: dict[str, SubtaskResult] = {}
        """The latest result of each subtask."""
        self._unmended: dict[str, SubtaskResult] = {}
        """The latest that its worker had before all results were checked."""
        self._before_fixes: dict[str, SubtaskResult] = {}
        """Those that a check under way has revised since, as they were before."""
        self._built_on: dict[str, Mapping[str, str]] = {}
        """What each subtask's replies were made from."""
        self._synthesis_of = ""
        """What the replies to the synthesis were made from."""
        self.shortened = False
        """Whether that was cut, because the budget allowed no more."""
        self.retries = False
        """Whether the run had ended without success when it was resumed last."""
        self.plan: PlanAccepted | None = None
        self.drafted: dict[str, Subtask] = {}
        """Subtasks that were started before there was a plan."""
        self.revisions: list[PlanRevised] = []
        """The decisions on the plan."""
        self.guard: GuardDecided | None = None
        self.usage: dict[str | None, Usage] = {}
        """What calls took, failed and lost ones included, by subtask."""
        self._unsettled = UnsettledCalls()
        self._callers: dict[str, str | None] = {}
        """For each reply and outcome the subtask that it was for."""
        self._failed: dict[str, str | None] = {}
        """Steps that failed and have not been made since, with the subtask they were for."""
        self._settled: set[str] = set()
        """Conversations for the run as a whole that led to what was wanted of them."""
        self.approved_usd = 0.0
        """The limit with which the plan was approved last; what it was revised to since is too."""
        self._limit_usd = 0.0
        self._end: RunEnded | None = None
        self._in_vain = False
        """Whether the run has ended without success, and is to try again."""
        for event in events:
            self._take_in(event)
        self._charge_lost()

    def _take_in(self, event: Event) -> None:
        if isinstance(event, CallProgressed | CallFinished | CallFailed):
            self._unsettled.apply(event)
        match event:
            case CallFinished() | CallFailed() | ToolCalled() | ToolStarted():
                self._take_in_work(event)
            case ToolAsked() | ToolAnswered():
                self._take_in_question(event)
            case PlanAccepted() | PlanRevised() | GuardDecided() | ResultsVerified():
                self._take_in_decision(event)
            case SubtaskDrafted() | SubtaskStarted() | SubtaskFinished():
                self._take_in_progress(event)
            case SynthesisStarted() | ResultsShortened():
                self._take_in_synthesis(event)
            case RunStarted() | RunResumed() | RunEnded():
                self._take_in_life(event)
            case _:
                pass

    def _take_in_life(self, event: RunStarted | RunResumed | RunEnded) -> None:
        match event:
            case RunStarted(request=request):
                self._limit_usd = request.limits.budget_usd
            case RunResumed():
                self._go_on(event)
            case _:
                self._end = event

    def _take_in_progress(self, event: SubtaskDrafted | SubtaskStarted | SubtaskFinished) -> None:
        match event:
            case SubtaskDrafted(subtask=subtask):
                self.drafted[subtask.id] = subtask
            case SubtaskStarted(subtask_id=subtask_id, built_on=built_on):
                if built_on is not None:
                    self.begin(subtask_id, built_on)
            case _:
                self._take_in_result(event)

    def _take_in_synthesis(self, event: SynthesisStarted | ResultsShortened) -> None:
        match event:
            case SynthesisStarted(made_from=made_from):
                self.begin_synthesis(made_from)
            case _:
                self.shortened = True

    def _take_in_result(self, event: SubtaskFinished) -> None:
        subtask_id = event.result.subtask_id
        if event.name.endswith("/result/mended"):
            self._before_fixes.setdefault(subtask_id, self.results[subtask_id])
        else:
            self._before_fixes.pop(subtask_id, None)
            self._forget_if_news(event.result)
            self._unmended[subtask_id] = event.result
        self.results[subtask_id] = event.result

    def _go_on(self, event: RunResumed) -> None:
        self._charge_lost()
        self.retries = self._end is not None and self._end.status in ("failed", "partial")
        if self._end is not None and self.retries:
            if self._end.synthesized:
                self._settled.add("synthesis")
            self._forget_what_was_in_vain()
        self._end = None
        if self.shortened and (event.budget_usd or 0.0) > self._limit_usd:
            self._forget_synthesis()
        self._limit_usd = event.budget_usd or self._limit_usd
        if event.approved and event.approved == plan_digest(self._latest_plan()):
            self.approved_usd = self._limit_usd

    def _latest_plan(self) -> Plan:
        latest = self.revisions[-1] if self.revisions else self.plan
        return Plan() if latest is None else latest.plan

    def _take_in_work(self, event: CallFinished | CallFailed | ToolCalled | ToolStarted) -> None:
        match event:
            case CallFinished(name=name, reply=reply):
                self.replies[name] = reply
                self._callers[name] = event.subtask_id
                # A conversation goes on after a failed call only if it has come to terms with it.
                talk = _conversation_of(name)
                for step in [each for each in self._failed if _conversation_of(each) == talk]:
                    del self._failed[step]
                self._charge(event.subtask_id, reply.usage)
            case CallFailed(step=step):
                self._failed[step] = event.subtask_id
                self._charge(event.subtask_id, event.usage)
            case ToolStarted(step=step):
                self.begun.add(step)
                self._callers[step] = event.subtask_id
            case _:
                self.outcomes[event.name] = event.outcome
                self._callers[event.name] = event.subtask_id

    def _take_in_question(self, event: ToolAsked | ToolAnswered) -> None:
        match event:
            case ToolAsked(step=step):
                self.asked[step] = event
                self._callers[step] = event.subtask_id
            # That nobody was there then does not mean that nobody is there now.
            case ToolAnswered(question_id=question_id, by=by) if by:
                if any(asked.question_id == question_id for asked in self.asked.values()):
                    self.answers.setdefault(question_id, event)
            case _:
                pass

    def _take_in_decision(
        self, event: PlanAccepted | PlanRevised | GuardDecided | ResultsVerified
    ) -> None:
        match event:
            case PlanAccepted():
                self.plan = event
                self._settled.add("plan")
            case PlanRevised():
                self.revisions.append(event)
                self._settled.add(f"next-step/{len(self.revisions)}")
            case GuardDecided():
                self.guard = event
                self._settled.add("guard")
            case _:
                self._settled.add("verify")

    def _charge_lost(self) -> None:
        for lost in self._unsettled.lose():
            self._charge(lost.subtask_id, lost.usage)

    def _charge(self, subtask_id: str | None, usage: Usage) -> None:
        self.usage[subtask_id] = self.usage.get(subtask_id, NO_USAGE) + usage

    @property
    def enough(self) -> bool:
        """Tell whether the orchestrator had called the work done."""
        return bool(self.revisions) and self.revisions[-1].done

    @property
    def told(self) -> frozenset[str]:
        """Return the subtasks whose results stand and were known when it last decided."""
        known = self.revisions[-1].ended if self.revisions else ()
        return frozenset(name for name in known if self.standing(name) is not None)

    def answers_about(self, subtask_id: str, tool: str) -> list[ToolAnswered]:
        """Return what people have said when a subtask wanted to call a tool."""
        return [
            self.answers[asked.question_id]
            for asked in self.asked.values()
            if (asked.subtask_id, asked.tool) == (subtask_id, tool)
            and asked.question_id in self.answers
        ]

    def was_called(self, step: str) -> bool:
        """Tell whether a tool call has been made, or had begun and may not be made again."""
        return step in self.outcomes or step in self.begun

    def was_passed_over(self, step: str, next_step: str) -> bool:
        """Tell whether a call brought nothing, and its conversation went on with the next one."""
        return step not in self.replies and next_step in self.replies

    def was_made(self, conversation: str) -> bool:
        """Tell whether a conversation with a model has begun to be answered."""
        return f"{conversation}/call/1" in self.replies

    def standing(self, subtask_id: str) -> SubtaskResult | None:
        """Return the result of a subtask that is not to be done again.

        It may still have to be, once the results that it depends on have changed. One that a
        check was revising when the run was cut off is returned as it was before.
        """
        result = self._before_fixes.get(subtask_id) or self.results.get(subtask_id)
        return result if result is not None and self._stands(result) else None

    def settled(self, plan: Plan) -> dict[str, SubtaskResult]:
        """Return the results of a plan that stand, and so does all that they were made from."""
        subtasks = {subtask.id: subtask for subtask in plan.subtasks}
        graph = {name: subtask.depends_on for name, subtask in subtasks.items()}
        found: dict[str, SubtaskResult] = {}
        for name in TopologicalSorter(graph).static_order():
            result = self.standing(name)
            if result is None:
                continue
            # What succeeded was made from something; what was not needed was not made at all.
            unneeded = result.status != "succeeded"
            if unneeded or self.unchanged(subtasks[name], found) is not None:
                found[name] = result
        return {name: found[name] for name in subtasks if name in found}

    def unchanged(
        self, subtask: Subtask, results: Mapping[str, SubtaskResult]
    ) -> SubtaskResult | None:
        """Return the result that stands of a subtask, if it was made from these results."""
        result = self.standing(subtask.id)
        if result is None or not results.keys() >= set(subtask.depends_on):
            return None
        built_on = result.built_on
        if built_on is None:
            # It is from a journal that does not tell; so it was made from what was there last.
            built_on = {
                name: consumed(self.results[name])
                for name in subtask.depends_on
                if name in self.results
            }
        now = {name: consumed(results[name]) for name in subtask.depends_on}
        return result if built_on == now else None

    def begin(self, subtask_id: str, built_on: Mapping[str, str]) -> None:
        """Take in what a subtask is made from; replies that came of something else are void."""
        if self._built_on.get(subtask_id, built_on) != built_on:
            self._forget(self._replies_for(subtask_id))
            for step in [step for step, of in self._failed.items() if of == subtask_id]:
                del self._failed[step]
        self._built_on[subtask_id] = built_on

    def begin_synthesis(self, made_from: str) -> None:
        """Take in what the answer is made from; one that came of something else is void."""
        if self._synthesis_of not in ("", made_from):
            self._forget_synthesis()
        self._synthesis_of = made_from

    def _forget_synthesis(self) -> None:
        self._forget(name for name in self._replies_for(None) if _is_synthesis(name))
        self._settled -= {"synthesis"}
        self.shortened = False

    def _stands(self, result: SubtaskResult) -> bool:
        decision = self.revisions[-1] if self.revisions else None
        return stands(result.subtask_id, result.status, decision, in_vain=self._in_vain)

    def reconcile(self, result: SubtaskResult) -> SubtaskResult:
        """Return `result`; or what an earlier attempt had brought, where this one brought nothing.

        Where the result is news, what was made of the earlier ones is forgotten.
        """
        earlier = self.results.get(result.subtask_id)
        if earlier is not None and earlier.text and not result.text:
            result = _with_failed_attempt(earlier, result)
        self._forget_if_news(result)
        return result

    def _forget_if_news(self, result: SubtaskResult) -> None:
        """Forget what was made of all results, if this is not the one that it was made of."""
        before = self._unmended.get(result.subtask_id)
        if before is None or _said(before) != _said(result):
            self._forget_synthesis()
            self._forget(name for name in self._replies_for(None) if name.startswith("verify/"))
            self._forget(name for name in self.replies if _is_mending(name))
            self._settled -= {"verify"}

    def _forget_what_was_in_vain(self) -> None:
        self._in_vain = True
        self._before_fixes.clear()
        to_do = {name for name, result in self.results.items() if not self._stands(result)}
        for subtask_id in to_do:
            if subtask_id not in self._failed.values():
                self._forget(self._replies_for(subtask_id))
        if not to_do and None not in self._failed.values():
            self._forget(name for name in self._replies_for(None) if not self._is_settled(name))
        if "guard" in set(map(_conversation_of, self._failed)):
            self.guard = None

    def _is_settled(self, step: str) -> bool:
        """Tell whether a step for the run as a whole led to what was wanted of it."""
        reply = self.replies.get(step)
        if step.startswith("condense/") and reply is not None and reply.stop_reason == "end":
            return True
        return _conversation_of(step) in self._settled

    def _replies_for(self, subtask_id: str | None) -> list[str]:
        return [name for name, caller in self._callers.items() if caller == subtask_id]

    def _forget(self, names: Iterable[str]) -> None:
        for name in list(names):
            self.replies.pop(name, None)
            self.outcomes.pop(name, None)
            self.begun.discard(name)
            if (asked := self.asked.pop(name, None)) is not None:
                self.answers.pop(asked.question_id, None)
            self._callers.pop(name, None)


def stands(
    subtask_id: str, status: SubtaskStatus, decision: PlanRevised | None, *, in_vain: bool
) -> bool:
    """Tell whether a subtask that has ended so is not to be done again.

    `decision` is the last that there was on the plan; `in_vain` is whether the run has ended
    without success since, and so tries again.
    """
    if status == "succeeded":
        return True
    if decision is None or not decision.done:
        return False
    # What was left out because there was enough without it is not missing in the answer.
    unneeded = status in ("skipped", "cancelled") and subtask_id not in decision.ended
    return unneeded or not in_vain


def _said(result: SubtaskResult) -> tuple[object, ...]:
    return (result.status, result.text, result.value, result.errors)


def _with_failed_attempt(earlier: SubtaskResult, attempt: SubtaskResult) -> SubtaskResult:
    """Return what there was of a subtask before another attempt that brought nothing."""
    why = " ".join(attempt.errors)
    problem = f"Tried again, it brought nothing: {why}"
    changed: dict[str, object] = {"usage": attempt.usage}
    if earlier.status == "succeeded":
        # What succeeded is done again only because what it was made from has changed.
        problem = (
            "It was made before results that it depends on changed. Done again, it brought "
            f"nothing: {why}"
        )
        changed |= {"status": "partial", "fingerprint": ""}
    errors = tuple(dict.fromkeys((*earlier.errors, problem)))
    return earlier.model_copy(update=changed | {"errors": errors})


def _conversation_of(step: str) -> str:
    return step.partition("/call/")[0]


def _is_synthesis(step: str) -> bool:
    return step.startswith("synthesis/")


def _is_mending(step: str) -> bool:
    return step.startswith("subtask/") and "/mend/" in step


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
