"""The state of a run, as a fold over its events. Every view of a run is one of this state."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from pydantic import JsonValue

from concertmaster.engine.events import (
    FINAL_STATUSES,
    CallFailed,
    CallFinished,
    CallProgressed,
    CallStarted,
    CancelRequested,
    Estimate,
    Event,
    Finding,
    GuardDecided,
    PlanAccepted,
    PlanRevised,
    ResultsVerified,
    RunEnded,
    RunResumed,
    RunStarted,
    RunStatus,
    SubtaskDrafted,
    SubtaskFinished,
    SubtaskKept,
    SubtaskResult,
    SubtaskStarted,
    SubtaskStatus,
    SynthesisStarted,
    ToolAnswered,
    ToolAsked,
    ToolCalled,
    ToolsMissing,
)
from concertmaster.engine.plan.plan import Plan, Subtask
from concertmaster.engine.replay import UnsettledCalls, and_dependants, stands
from concertmaster.engine.request import RunRequest
from concertmaster.errors import UnreadableRunError
from concertmaster.llm.usage import NO_USAGE, Usage


@dataclass(slots=True, kw_only=True)
class SubtaskState:
    """Where one subtask stands."""

    subtask: Subtask
    status: SubtaskStatus = "pending"
    started_at: float | None = None
    ended_at: float | None = None
    usage: Usage = NO_USAGE
    """What its calls took so far."""
    calls: dict[str, str] = field(default_factory=dict[str, str])
    """The models it waits for, by step."""
    result: SubtaskResult | None = None
    """How it ended; until then, what an earlier attempt had brought."""
    earlier_times: tuple[float | None, float | None] = (None, None)
    """When that attempt began and ended."""

    def begin(self, at: float) -> None:
        """Take in that it got its slot."""
        self._remember_times()
        self.status, self.started_at, self.ended_at = "running", at, None

    def try_again(self) -> None:
        """Take in that it is to be done again."""
        self._remember_times()
        self.status = "pending"
        self.started_at = self.ended_at = None
        if self.result is not None and not self.result.text:
            self.result = None

    def leave(self) -> None:
        """Take in that the run ends before it does."""
        if self.result is None or self.is_unconfirmed:
            self.status = "cancelled"
        else:
            self.status = self.result.status
        self.calls.clear()

    def _remember_times(self) -> None:
        if self.ended_at is not None:
            self.earlier_times = (self.started_at, self.ended_at)

    @property
    def is_unconfirmed(self) -> bool:
        """Tell whether it had succeeded, and is being done again or may have to be."""
        return (
            self.ended_at is None and self.result is not None and self.result.status == "succeeded"
        )

    def keep(self) -> None:
        """Take in that the success of an earlier attempt stands."""
        self.status = "succeeded"
        self.started_at, self.ended_at = self.earlier_times

    @property
    def unplanned_warning(self) -> str:
        """Return what to say if it was begun and the accepted plan does not contain it."""
        usage, subtask = self.usage, self.subtask
        usd = f" ({usage.usd:.4f} USD)" if usage.usd else ""
        took = f"took {usage.tokens:,} tokens{usd}" if usage.tokens else "has taken nothing so far"
        return (
            f"Subtask {subtask.id!r} ({subtask.worker}) was begun from a draft of the plan, and "
            f"the accepted plan does not contain it. It {took}: {subtask.objective}"
        )

    @property
    def doing(self) -> str:
        """Return the models it waits for, such as `sonnet (3)`; nothing while it does not."""
        models = list(self.calls.values())
        return ", ".join(
            f"{model} ({models.count(model)})" if models.count(model) > 1 else model
            for model in dict.fromkeys(models)
        )


MOST_DEATHS = 3
"""How often in a row a run goes on by itself after its process has died."""


@dataclass(slots=True, kw_only=True)
class RunState:
    """Where one run stands."""

    run_id: str
    request: RunRequest
    started_at: float
    principal: str = ""
    """Whom the run belongs to, on a server that several people use."""
    updated_at: float = 0.0
    """When its latest event happened."""
    notice: str = ""
    status: RunStatus = "planning"
    plan: Plan | None = None
    estimate: Estimate | None = None
    """What carrying out the plan, as it was first accepted, is likely to take; None offline."""
    warnings: tuple[str, ...] = ()
    decisions: tuple[str, ...] = ()
    """Why the plan was revised, each time, and why the work was called done."""
    last_decision: PlanRevised | None = None
    """What was decided last."""
    in_vain: bool = False
    """Whether it has ended without success, and tries again."""
    guard: Literal["none", "pending", "passed", "objected"] = "none"
    findings: tuple[Finding, ...] = ()
    """What results of several subtasks do not agree on."""
    subtasks: dict[str, SubtaskState] = field(default_factory=dict[str, SubtaskState])
    """By id, in the order of the plan."""
    drafted: set[str] = field(default_factory=set[str])
    """Subtasks that were started before the plan was finished."""
    unplanned: dict[str, SubtaskState] = field(default_factory=dict[str, SubtaskState])
    """Those of them that the accepted plan does not contain."""
    calls: dict[str, str] = field(default_factory=dict[str, str])
    """Who waits for a model besides the subtasks' workers, by step: `orchestrator`…"""
    questions: Mapping[str, ToolAsked] = field(default_factory=dict[str, ToolAsked])
    """Those that wait for an answer, by id."""
    usage: Usage = NO_USAGE
    """What all calls took that have ended, failed ones included, or were lost."""
    unsettled: UnsettledCalls = field(default_factory=UnsettledCalls, compare=False)
    """What calls under way have taken so far."""
    by_model: dict[str, Usage] = field(default_factory=dict[str, Usage])
    cancel_requested: str | None = None
    """Why the run is to stop, when somebody asked for it."""
    declined: bool = False
    """Whether that was because its plan was declined."""
    answer: str = ""
    value: JsonValue = None
    reasons: tuple[str, ...] = ()
    rest: Estimate | None = None
    """What is likely to be needed for what is missing, where the budget did not suffice."""
    nothing_left: bool = False
    """Whether what is missing cannot be had by trying again."""
    ended_at: float | None = None
    resumed: int = 0
    """How often the run went on after it had been interrupted, or had ended."""
    deaths: int = 0
    """How often in a row its process had died when it went on by itself."""
    events: int = 0
    """How many events the run has; grows with every change."""

    @property
    def reused(self) -> dict[str, SubtaskResult]:
        """Return the results that were taken over from other runs, by subtask."""
        return {
            name: item.result
            for name, item in self.subtasks.items()
            if item.result is not None and item.result.saved is not None
        }

    @property
    def over(self) -> bool:
        """Tell whether the run has come to an end."""
        return self.status in FINAL_STATUSES

    @property
    def displayed_status(self) -> RunStatus:
        """Return the status that readers see: a run that was asked to stop is `cancelling`."""
        cancelling = self.cancel_requested is not None and not self.still
        return "cancelling" if cancelling else self.status

    @property
    def plan_declined(self) -> bool:
        """Tell whether the run was cancelled because its plan was declined, which is final."""
        return self.declined and self.status == "cancelled"

    @property
    def left_alone(self) -> bool:
        """Tell whether the run does not go on by itself: it may be what its processes died of."""
        return self.deaths >= MOST_DEATHS

    @property
    def withheld(self) -> bool:
        """Tell whether nothing that came of the task may be shown: no guard let it pass yet."""
        return self.guard in ("pending", "objected")

    def shown(self) -> "RunState":
        """Return what may be told of the run: nothing that came of a task still withheld."""
        if not self.withheld:
            return self
        return replace(
            self,
            plan=None,
            estimate=None,
            subtasks={},
            unplanned={},
            warnings=(),
            decisions=(),
            last_decision=None,
            questions={},
            findings=(),
            answer="",
            value=None,
            rest=None,
        )

    @property
    def still(self) -> bool:
        """Tell whether nothing more will happen to the run by itself."""
        return self.over or self.status == "interrupted"

    @property
    def stopped_at(self) -> float | None:
        """Return when the run ended or was last heard of; None while it goes on."""
        return self.updated_at if self.ended_at is None and self.still else self.ended_at

    @property
    def ended_subtasks(self) -> int:
        """Return how many subtasks have ended, skipped ones included."""
        return sum(state.ended_at is not None for state in self.subtasks.values())

    def apply(self, event: Event) -> None:
        """Take in the next event."""
        self.events += 1
        self.updated_at = event.steady_at
        match event:
            case CallStarted() | CallProgressed() | CallFinished() | CallFailed():
                self._apply_call(event)
            case ToolCalled() | ToolsMissing() | ToolAsked() | ToolAnswered():
                self._apply_tools(event)
            case PlanAccepted() | PlanRevised():
                self._apply_plan(event)
            case SubtaskDrafted() | SubtaskStarted() | SubtaskKept() | SubtaskFinished():
                self._apply_subtask(event)
            case _:
                self._apply_run(event)

    def _apply_run(self, event: Event) -> None:
        match event:
            case GuardDecided():
                self.guard = "passed" if event.passed else "objected"
            case ResultsVerified():
                self.findings = event.findings
            case SynthesisStarted():
                self.status = "synthesizing"
            case CancelRequested():
                self.cancel_requested = event.reason
                self.declined = self.declined or event.declined
            case RunEnded():
                self._end(event)
            case RunResumed():
                self._resume(event)
            case _:
                pass

    def _apply_tools(self, event: ToolCalled | ToolsMissing | ToolAsked | ToolAnswered) -> None:
        warnings: list[str] = []
        match event:
            case ToolAsked():
                self.questions = {**self.questions, event.question_id: event}
            case ToolAnswered():
                self._close(lambda asked: asked.question_id == event.question_id)
            case ToolCalled(denied=True):
                warnings = [f"Subtask {event.subtask_id}: {event.outcome.text}"]
            case ToolsMissing():
                about = f"Subtask {event.subtask_id} ({event.worker}) goes without tools: "
                warnings = [about + problem for problem in event.problems]
            case _:
                pass
        self.warnings += tuple(text for text in warnings if text not in self.warnings)

    def _apply_plan(self, event: PlanAccepted | PlanRevised) -> None:
        self.plan = event.plan
        self.warnings += event.warnings
        planned = {item.id for item in event.plan.subtasks}
        for name, item in self.subtasks.items():
            if name in self.drafted - planned and item.started_at is not None:
                self._take_in_unplanned(item)
        self.subtasks = {
            item.id: self.subtasks.get(item.id) or SubtaskState(subtask=item)
            for item in event.plan.subtasks
        }
        for item in event.plan.subtasks:
            self.subtasks[item.id].subtask = item
        self.status = "running"
        if isinstance(event, PlanAccepted):
            metered = event.estimate is not None and event.estimate.metered
            self.estimate = event.estimate if metered else None
        else:
            self.decisions += (event.reason,)
            self.last_decision = event

    def _apply_call(self, event: CallStarted | CallProgressed | CallFinished | CallFailed) -> None:
        subtask_id = event.subtask_id or ""
        subtask = self.subtasks.get(subtask_id) or self.unplanned.get(subtask_id)
        if not isinstance(event, CallStarted):
            self.unsettled.apply(event)
        match event:
            case CallProgressed():
                pass
            case CallStarted():
                if subtask is not None:
                    subtask.calls[event.step] = event.model
                else:
                    self.calls[event.step] = event.caller
            case CallFinished(reply=reply):
                (subtask or self).calls.pop(event.name, None)
                self._charge(reply.usage, subtask)
            case _:
                (subtask or self).calls.pop(event.step, None)
                self._charge(event.usage, subtask)

    def _charge_lost(self) -> None:
        """Count what calls had taken whose process ended before they did."""
        for lost in self.unsettled.lose():
            self._charge(lost.usage, self.subtasks.get(lost.subtask_id or ""))

    def _charge(self, usage: Usage, subtask: SubtaskState | None) -> None:
        self.usage += usage
        if usage != NO_USAGE:
            self.by_model[usage.model] = self.by_model.get(usage.model, NO_USAGE) + usage
        if subtask is not None:
            before = subtask.unplanned_warning
            subtask.usage += usage
            # What a subtask took that had to be stopped is known only once it has been.
            now = subtask.unplanned_warning
            self.warnings = tuple(now if text == before else text for text in self.warnings)

    def _apply_subtask(
        self, event: SubtaskDrafted | SubtaskStarted | SubtaskKept | SubtaskFinished
    ) -> None:
        match event:
            case SubtaskDrafted(subtask=subtask):
                self.drafted.add(subtask.id)
                if self.plan is None:
                    self.subtasks[subtask.id] = SubtaskState(subtask=subtask)
                elif subtask.id not in self.subtasks:
                    # It got its slot while the plan without it was being written down.
                    self._take_in_unplanned(SubtaskState(subtask=subtask))
            case SubtaskStarted():
                if (state := self._planned(event.subtask_id)) is not None:
                    state.begin(event.steady_at)
            case SubtaskKept():
                self.subtasks[event.subtask_id].keep()
            case _:
                self._apply_result(event)

    def _take_in_unplanned(self, item: SubtaskState) -> None:
        if item.subtask.id not in self.unplanned:
            self.unplanned[item.subtask.id] = item
            self.warnings += (item.unplanned_warning,)

    def _planned(self, subtask_id: str) -> SubtaskState | None:
        """Return the state of a subtask; none, if it was drafted and did not get into the plan."""
        if subtask_id in self.drafted:
            return self.subtasks.get(subtask_id)
        return self.subtasks[subtask_id]

    def _apply_result(self, event: SubtaskFinished) -> None:
        result = event.result
        if (state := self._planned(result.subtask_id)) is not None:
            state.status = result.status
            state.result = result
            state.ended_at = event.steady_at
            state.calls.clear()
        self._close(lambda asked: asked.subtask_id == result.subtask_id)

    def _close(self, answered: Callable[[ToolAsked], bool]) -> None:
        # Made anew, since those who ask go through them while the run goes on.
        left = (asked for asked in self.questions.values() if not answered(asked))
        self.questions = {asked.question_id: asked for asked in left}

    def charge(self, event: Event) -> None:
        """Take in what a call cost, if `event` ends one, though the journal may not have it."""
        if isinstance(event, CallFinished | CallFailed):
            self._apply_call(event)

    def interrupt(self, *reasons: str) -> None:
        """Take in that nobody drives the run any more, and why not where that is known."""
        self.status = "interrupted"
        self.reasons = reasons
        self._pause()

    def lose_process(self) -> None:
        """Take in that no process drives the run any more: it is interrupted or cancelled.

        A cancellation that is in the journal decides how the run ends, though its end is not there.
        """
        if self.cancel_requested is None:
            self.interrupt()
            return
        reasons = (cancel_reason(self),)
        self._end(RunEnded(name="run/end", at=self.updated_at, status="cancelled", reasons=reasons))

    def queue(self) -> None:
        """Take in that the run waits for a process to drive it."""
        self.status = "queued"
        self._pause()

    def _pause(self) -> None:
        self._charge_lost()
        self.calls.clear()
        self.questions = {}
        for subtask in self.subtasks.values():
            subtask.calls.clear()
            if subtask.status == "running":
                subtask.status, subtask.started_at = "pending", None

    def _resume(self, event: RunResumed) -> None:
        self._charge_lost()
        self.request = self.request.with_budget(event.budget_usd)
        self.in_vain = self.in_vain or self.status in ("partial", "failed")
        # An answer that there is stays until there is another.
        self.status = "planning" if self.plan is None else "running"
        # A run that was queued had nothing but its start; it has only begun.
        self.resumed += self.events > 2
        self.deaths = event.deaths
        self.cancel_requested = self.ended_at = None
        self.declined = False
        self.reasons = ()
        self.calls.clear()
        self.questions = {}
        for subtask in self.subtasks.values():
            subtask.calls.clear()
            if subtask.is_unconfirmed:
                subtask.keep()
        open_ids = {name for name, subtask in self.subtasks.items() if not self._stands(subtask)}
        planned = [subtask.subtask for subtask in self.subtasks.values()]
        for name in and_dependants(open_ids, planned):
            # Whether the result of a dependant stands is known once its dependencies have ended.
            if name in open_ids or self.subtasks[name].status == "succeeded":
                self.subtasks[name].try_again()

    def _stands(self, subtask: SubtaskState) -> bool:
        return stands(subtask.subtask.id, subtask.status, self.last_decision, in_vain=self.in_vain)

    def _end(self, event: RunEnded) -> None:
        self._charge_lost()
        self.status = event.status
        if event.status not in ("cancelled", "needs_approval"):
            self.answer, self.value = event.answer, event.value
        self.reasons = event.reasons
        self.rest = event.rest
        self.nothing_left = event.nothing_left
        self.ended_at = event.steady_at
        self.calls.clear()
        self.questions = {}
        if self.request.kind != "plan" and event.status != "needs_approval":
            for subtask in self.subtasks.values():
                if subtask.ended_at is None:
                    subtask.leave()


def cancel_reason(state: RunState) -> str:
    """Return why a cancelled run has ended."""
    reason = state.cancel_requested or "no reason given"
    stop = "" if reason.endswith((".", "!", "?")) else "."
    return f"The run was cancelled: {reason}{stop}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecentRuns:
    """The latest runs, newest first."""

    states: tuple[RunState, ...] = ()
    unreadable: tuple[str, ...] = ()
    """A sentence for each run that is there and cannot be read."""


def fold(
    run_id: str,
    events: Iterable[Event],
    *,
    alive: bool,
    handed_over: bool = False,
    attended: bool = False,
) -> RunState:
    """Return the state after `events`, the first of which started the run.

    A run that has not ended and whose process is not `alive` is `cancelled` if that was asked for,
    else `interrupted`; or `queued`, if it was `handed_over` to others, or is `attended` by others
    and not left alone. Those of its subtasks that had not ended are `pending` again.

    Raises:
        UnreadableRunError: the events are not those of a run.
    """
    remaining = iter(events)
    first = next(remaining, None)
    if not isinstance(first, RunStarted):
        raise UnreadableRunError(run_id, "its journal does not begin with its start.")
    state = RunState(
        run_id=run_id,
        request=first.request,
        principal=first.origin.principal,
        notice=first.notice,
        warnings=tuple(f"Left out: {sentence}" for sentence in first.request.left_out),
        started_at=first.steady_at,
        updated_at=first.steady_at,
        guard="pending" if first.request.guard else "none",
        events=1,
    )
    for event in remaining:
        try:
            state.apply(event)
        except LookupError:
            problem = f"its event {event.name!r} is of a subtask that no plan has."
            raise UnreadableRunError(run_id, problem) from None
    if not state.over and not alive:
        goes_on = handed_over or (attended and not state.left_alone)
        if goes_on and state.cancel_requested is None:
            state.queue()
        else:
            state.lose_process()
    return state


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


def sufficient_budget(state: RunState) -> float | None:
    """Return a budget that is likely to do for all of a run whose own did not, if one is known."""
    rest, usage, limits = state.rest, state.usage, state.request.limits
    if rest is None or rest.usd is None or usage.usd is None:
        return None
    if usage.new_tokens + rest.tokens.low > limits.budget_tokens:
        # No amount of money helps where the tokens do not suffice.
        return None
    likely = usage.usd + rest.usd.high
    # Calls are turned away for what they may take at most, which can be more than is likely.
    enough = likely if likely > limits.budget_usd else limits.budget_usd + rest.usd.high
    return math.ceil(100 * enough) / 100
