"""What can happen in a run. The events of a run, in order, are its journal.

Every event has a name that is its own within a run and an epoch of it: `plan/1`,
`subtask/s3/call/1`, `subtask/s3/result`. Names, not positions, identify steps, because
what starts first differs after a restart.
"""

import json
from collections.abc import Callable
from hashlib import sha256
from typing import Annotated, Literal, get_args

from pydantic import ConfigDict, Field, JsonValue, TypeAdapter

from concertmaster.engine.plan.plan import Plan, Subtask
from concertmaster.engine.request import NOBODY, Origin, RunRequest
from concertmaster.llm.messages import Reply, Source, ToolCall, ToolOutcome
from concertmaster.llm.usage import NO_USAGE, Frozen, Text, Usage


class Counts(Frozen):
    """From how many to how many."""

    low: int
    high: int


class Amounts(Frozen):
    """From how much to how much."""

    low: float
    high: float


class Estimate(Frozen):
    """What carrying out a plan is likely to take. It is no bound; the budget is."""

    calls: Counts
    tokens: Counts
    usd: Amounts | None = Field(default=None, description="Absent if a price is unknown.")
    seconds: Amounts

    @property
    def metered(self) -> bool:
        """Tell whether a model reads by the token, so that the figures say anything."""
        return self.tokens.high > 0

    @property
    def words(self) -> str:
        """Return all of it in one phrase."""
        usd = _span(self.usd, _money) if self.usd else "an unknown price"
        calls = "call" if self.calls.high == 1 else "calls"
        return (
            f"{_span(self.calls)} {calls}, {_span(self.tokens)} tokens, {usd}, "
            f"{_span(self.seconds)} seconds"
        )


def _number(figure: float) -> str:
    return str(figure).removesuffix(".0")


def _money(usd: float) -> str:
    return f"${usd:.2f}" if usd == 0 or usd >= 0.1 else f"${usd:g}"


def _span(span: Counts | Amounts, written: Callable[[float], str] = _number) -> str:
    low, high = written(span.low), written(span.high)
    return low if low == high else f"{low} to {high}"


SCHEMA_VERSION = 5
"""Version of the shapes below, written to the journal with each event."""


SubtaskStatus = Literal[
    "pending", "running", "succeeded", "partial", "failed", "skipped", "cancelled"
]

RunStatus = Literal[
    "queued",
    "planning",
    "running",
    "synthesizing",
    "cancelling",
    "needs_approval",
    "succeeded",
    "partial",
    "failed",
    "cancelled",
    "interrupted",
]

EndStatus = Literal["needs_approval", "succeeded", "partial", "failed", "cancelled"]
"""How a run has come to an end; all but `succeeded` can be resumed from there."""

FINAL_STATUSES: frozenset[RunStatus] = frozenset(get_args(EndStatus))


class PartResult(Frozen):
    """What came of one part of a subtask that does the same to each of several parts."""

    name: str
    """The input, its section or the context that the part is."""
    text: Text = ""
    value: JsonValue = None
    problem: str = ""
    """What is wrong with it; nothing if it is all that it should be."""
    failed: bool = False
    """Whether its objective was not met, although there may be text."""
    sources: tuple[Source, ...] = ()


class SubtaskResult(Frozen):
    """How a subtask ended."""

    subtask_id: str
    worker: str
    status: SubtaskStatus
    text: Text = ""
    value: JsonValue = None
    """The parsed result, when an output schema was asked for and met."""
    parts: tuple[PartResult, ...] = ()
    """What `text` and `value` are made of, where the subtask was done part by part."""
    errors: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """How the result came about, where more than one worker's word decided it."""
    sources: tuple[Source, ...] = ()
    """What it cites."""
    usage: Usage = NO_USAGE
    seconds: float = 0.0
    """Time from start to end, tool calls included."""
    saved: Usage | None = None
    """What it took in the earlier run that it was taken over from, if it was."""
    taken_from: str = ""
    """That run."""
    fingerprint: str = ""
    """Of the work that it came of, where other runs may take it over."""
    built_on: dict[str, str] | None = None
    """The `consumed` digest of each dependency's result that it was made from; None where that
    is not known."""


def consumed(result: SubtaskResult) -> str:
    """Return a digest of what dependants read of a result; empty where there is nothing to read.

    Why a dependency has no text does not count: its dependants do without it either way.
    """
    if not result.text:
        return ""
    sources = [source.line for source in result.sources]
    plain = json.dumps([result.status, result.text, sources])
    return sha256(plain.encode()).hexdigest()[:16]


def _is_zero(value: float) -> bool:
    return value == 0


class _Event(Frozen):
    name: str
    at: float
    """Unix time in seconds."""
    clock_moved: float = Field(default=0.0, exclude_if=_is_zero)
    """How many seconds the clock of the machine was set forward (or back, if negative) since the
    process that wrote this began to drive the run. Durations are measured without them."""

    @property
    def steady_at(self) -> float:
        """Return when it happened, as if nobody had set the clock while the run was driven."""
        return self.at - self.clock_moved


class RunStarted(_Event):
    """A run exists from here on."""

    kind: Literal["run-started"] = "run-started"
    request: RunRequest
    notice: str = ""
    """What every reader of the answer must know of the models in use."""
    origin: Origin = NOBODY


class RunResumed(_Event):
    """A run goes on that was interrupted, or that had ended without success.

    What succeeded stands; everything else is tried again, in the run's next epoch.
    """

    kind: Literal["run-resumed"] = "run-resumed"
    epoch: int
    by: str
    """Who asked for it."""
    budget_usd: float | None = None
    """What it may spend in all from here on; what it might before, where this is None."""
    approved: str = ""
    """The digest of the plan that somebody has approved, if that is why it goes on."""
    deaths: int = 0
    """How often in a row its process had died and it went on by itself, this time included."""


class ApprovalOffered(_Event):
    """A client that cannot ask anybody was given a token, with which it can approve the plan."""

    kind: Literal["approval-offered"] = "approval-offered"
    plan: str
    """The digest of the plan."""
    token: str
    """The digest of the token."""


class CallStarted(_Event):
    """A model call is about to be made. Not waited for: it only serves those who watch."""

    kind: Literal["call-started"] = "call-started"
    step: str
    caller: str
    model: str
    subtask_id: str | None = None


class CallProgressed(_Event):
    """What a model call under way has taken so far. Not waited for.

    It counts only if the call never ends, because its process was killed: what the call
    reports at its end replaces it.
    """

    kind: Literal["call-progressed"] = "call-progressed"
    step: str
    caller: str
    subtask_id: str | None = None
    usage: Usage


class CallFinished(_Event):
    """A model call returned; `name` is its step, and resuming uses this reply."""

    kind: Literal["call-finished"] = "call-finished"
    caller: str
    subtask_id: str | None = None
    reply: Reply


class CallFailed(_Event):
    """A model call ended without a reply: it failed, or was abandoned at a deadline."""

    kind: Literal["call-failed"] = "call-failed"
    step: str
    caller: str
    subtask_id: str | None = None
    error: str
    usage: Usage = NO_USAGE


class ToolCalled(_Event):
    """A worker tool was called and answered."""

    kind: Literal["tool-called"] = "tool-called"
    subtask_id: str
    call: ToolCall
    outcome: ToolOutcome
    seconds: float
    denied: bool = False
    """Whether it was not called, because the operator does not allow it."""


class ToolStarted(_Event):
    """A tool that may change something is about to be called. It is never called again."""

    kind: Literal["tool-started"] = "tool-started"
    step: str
    subtask_id: str
    call: ToolCall


class ToolAsked(_Event):
    """A worker wants to call a tool that is called only if somebody agrees."""

    kind: Literal["tool-asked"] = "tool-asked"
    step: str
    """The call that waits for the answer."""
    question_id: str
    """Stands for this very call: another tool or other arguments make another question."""
    subtask_id: str
    worker: str
    tool: str
    arguments: Text
    """As they are shown to a person: in one line, shortened, without secrets."""
    until: float
    """When it counts as denied, in Unix seconds."""


class ToolAnswered(_Event):
    """Somebody agrees to a tool call or does not, or nobody has answered. The first counts."""

    kind: Literal["tool-answered"] = "tool-answered"
    question_id: str
    allowed: bool
    by: str = ""
    """Who answered; nobody, if empty."""


class ToolsMissing(_Event):
    """A worker goes without tools that its definition names."""

    kind: Literal["tools-missing"] = "tools-missing"
    subtask_id: str
    worker: str
    problems: tuple[str, ...]


class SubtaskDrafted(_Event):
    """A subtask is started although the plan that has it is still being written."""

    kind: Literal["subtask-drafted"] = "subtask-drafted"
    subtask: Subtask


class PlanRejected(_Event):
    """The planner's reply could not be run and went back with these problems."""

    kind: Literal["plan-rejected"] = "plan-rejected"
    problems: tuple[str, ...]


class PlanAccepted(_Event):
    """The plan that is run."""

    kind: Literal["plan-accepted"] = "plan-accepted"
    plan: Plan
    warnings: tuple[str, ...] = ()
    """What was changed to make the plan one that can be run."""
    left_out: tuple[str, ...] = ()
    """Work that the planner wanted and the run will not do."""
    estimate: Estimate | None = None
    """What carrying it out is likely to take."""


class PlanRevised(_Event):
    """The orchestrator decided what to do next, in an adaptive run."""

    kind: Literal["plan-revised"] = "plan-revised"
    plan: Plan
    """The plan from here on; what it no longer has will not be done."""
    done: bool
    """Whether what has been done suffices."""
    reason: str = ""
    ended: tuple[str, ...] = ()
    """The subtasks whose results it knew when it decided."""
    warnings: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    """Work that it wanted and the run will not do."""


class GuardDecided(_Event):
    """The guard has read the task and its inputs. Only when it lets them pass may work leave."""

    kind: Literal["guard-decided"] = "guard-decided"
    passed: bool
    reason: str = ""


class Finding(Frozen):
    """Something that results of several subtasks do not agree on, or that is missing between."""

    subtasks: tuple[str, ...]
    severity: Literal["high", "medium", "low"]
    what: Text
    mend: Text = ""
    """What would settle it."""


class ResultsVerified(_Event):
    """The results have been checked against one another."""

    kind: Literal["results-verified"] = "results-verified"
    findings: tuple[Finding, ...] = ()


class SubtaskStarted(_Event):
    """A subtask got its slot."""

    kind: Literal["subtask-started"] = "subtask-started"
    subtask_id: str
    fingerprint: str = ""
    """A digest of all that its result depends on."""
    built_on: dict[str, str] | None = None
    """The `consumed` digest of each dependency's result that it is made from."""


class SubtaskKept(_Event):
    """The result of an earlier attempt stands: what it was made from has not changed since."""

    kind: Literal["subtask-kept"] = "subtask-kept"
    subtask_id: str


class SubtaskFinished(_Event):
    """A subtask ended, or was skipped."""

    kind: Literal["subtask-finished"] = "subtask-finished"
    result: SubtaskResult


class SynthesisStarted(_Event):
    """All subtasks have ended; the answer is being written."""

    kind: Literal["synthesis-started"] = "synthesis-started"
    made_from: str = ""
    """A digest of the results and gaps that the answer is made from."""


class ResultsShortened(_Event):
    """The results were cut for the synthesis, because the budget allowed no more."""

    kind: Literal["results-shortened"] = "results-shortened"
    chars: int
    """How many characters were left of them."""


class CancelRequested(_Event):
    """Somebody wants the run to stop."""

    kind: Literal["cancel-requested"] = "cancel-requested"
    reason: str = ""
    declined: bool = False
    """Whether it declines a plan that waited for approval, which is final."""


class RunEnded(_Event):
    """The run is over."""

    kind: Literal["run-ended"] = "run-ended"
    status: EndStatus
    answer: Text = ""
    value: JsonValue = None
    reasons: tuple[str, ...] = ()
    """Why the status is not `succeeded`: one sentence for each thing that is missing."""
    rest: Estimate | None = None
    """What is likely to be needed for what is missing, where the budget did not suffice."""
    synthesized: bool = False
    """Whether the synthesis is all that can be made of the results within the budget, so that it
    is made again only if one of them changes."""
    nothing_left: bool = False
    """Whether what is missing cannot be had by trying again: every subtask and the answer are all
    that they were to be, and the rest was left out."""


Event = Annotated[
    RunStarted
    | RunResumed
    | ApprovalOffered
    | CallStarted
    | CallProgressed
    | CallFinished
    | CallFailed
    | ToolCalled
    | ToolStarted
    | ToolAsked
    | ToolAnswered
    | ToolsMissing
    | SubtaskDrafted
    | PlanRejected
    | PlanAccepted
    | PlanRevised
    | GuardDecided
    | ResultsVerified
    | SubtaskStarted
    | SubtaskKept
    | SubtaskFinished
    | SynthesisStarted
    | ResultsShortened
    | CancelRequested
    | RunEnded,
    Field(discriminator="kind"),
]

EVENT: TypeAdapter[Event] = TypeAdapter(Event, config=ConfigDict(defer_build=True))
"""Reads and writes events as JSON."""
