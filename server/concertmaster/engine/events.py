"""What can happen in a run. The events of a run, in order, are its journal.

Every event has a name that is its own within a run and an epoch of it: `plan/1`,
`subtask/s3/call/1`, `subtask/s3/result`. Names, not positions, identify steps, because
what starts first differs after a restart.
"""

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field, JsonValue, TypeAdapter

from concertmaster.engine.plan import Plan, PlanMode, Subtask, Verify
from concertmaster.llm.protocol import (
    NO_USAGE,
    Frozen,
    JsonSchema,
    Reply,
    Text,
    ToolCall,
    ToolOutcome,
    Usage,
)

SCHEMA_VERSION = 2
"""Version of the shapes below, written to the journal with each event."""

RunKind = Literal["orchestration", "plan", "worker"]
"""Plan, delegate and synthesize; plan only; or one worker on one subtask."""

Mode = PlanMode | Literal["auto"]
"""How a run proceeds; `auto` leaves it to the planner."""

Decomposition = Literal["constrained", "hybrid", "dynamic"]
"""Whether a planner may write workers of its own: none, one, or as many as it needs."""

SubtaskStatus = Literal[
    "pending", "running", "succeeded", "partial", "failed", "skipped", "cancelled"
]

RunStatus = Literal[
    "queued",
    "planning",
    "running",
    "synthesizing",
    "succeeded",
    "partial",
    "failed",
    "cancelled",
    "interrupted",
]

FINAL_STATUSES = frozenset({"succeeded", "partial", "failed", "cancelled"})
"""Statuses of a run that has come to an end; all but the first can be resumed from there."""


class Limits(Frozen):
    """Bounds on one run."""

    max_subtasks: int = Field(default=8, ge=1)
    slots: int = Field(default=8, ge=1)
    """Subtasks that may run at the same time."""
    subtask_seconds: float = Field(default=120, gt=0)
    run_seconds: float = Field(default=900, gt=0)
    max_tokens: int = Field(default=16384, ge=1)
    """Upper bound of one reply, in tokens, what the model thinks included."""
    rounds: int = Field(default=6, ge=1)
    """How often an adaptive run asks what to do next."""
    budget_usd: float = Field(default=2.0, gt=0)
    """What the run may spend."""
    budget_tokens: int = Field(default=2_000_000, ge=1)
    """Tokens that it may take, but for those read from a cache; all that binds where no price
    is known."""


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


class InputRef(Frozen):
    """One input of a run; its text is kept once, under its digest."""

    name: str
    digest: str
    """SHA-256 of the text's UTF-8, in hexadecimal."""
    chars: int


class RunRequest(Frozen):
    """What was asked for, whole, so that the run can be made again from it."""

    kind: RunKind = "orchestration"
    task: Text
    context: Text = ""
    constraints: tuple[str, ...] = ()
    inputs: tuple[InputRef, ...] = ()
    workers: tuple[str, ...] = ()
    """Names of the workers a planner may choose from; all when empty."""
    plan: Plan | None = None
    """A plan to run as it is, instead of asking a planner."""
    mode: Mode = "auto"
    decomposition: Decomposition = "hybrid"
    guard: str = ""
    """The worker that screens the task and its inputs before anything leaves; none if empty."""
    verify: Verify | None = None
    """Whether results are checked against one another; None leaves it to the planner."""
    output_schema: JsonSchema | None = None
    """What the answer must look like, as JSON Schema; plain text when None."""
    limits: Limits = Limits()
    rerun_of: str = ""
    """The run whose results are taken over where nothing that they depend on has changed."""
    redo: tuple[str, ...] = ()
    """Subtasks that are done anew all the same."""
    plan_gaps: tuple[str, ...] = ()
    """What the given plan lacks of the task, a sentence each."""


class SubtaskResult(Frozen):
    """How a subtask ended."""

    subtask_id: str
    worker: str
    status: SubtaskStatus
    text: Text = ""
    value: JsonValue = None
    """The parsed result, when an output schema was asked for and met."""
    errors: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """How the result came about, where more than one worker's word decided it."""
    usage: Usage = NO_USAGE
    seconds: float = 0.0
    """Time from start to end, tool calls included."""
    saved: Usage | None = None
    """What it took in the earlier run that it was taken over from, if it was."""


class _Event(Frozen):
    name: str
    at: float
    """Unix time in seconds."""


class Origin(Frozen):
    """Who asked for a run, and on what occasion."""

    principal: str = ""
    """Whom the run belongs to, on a server that several people use."""
    trace_context: dict[str, str] = Field(default_factory=dict[str, str])
    """The W3C trace context of the call: `traceparent`, and `tracestate` if there was one."""


NOBODY = Origin()


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


class CallStarted(_Event):
    """A model call is about to be made. Not waited for: it only serves those who watch."""

    kind: Literal["call-started"] = "call-started"
    step: str
    caller: str
    model: str
    subtask_id: str | None = None


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


class SubtaskFinished(_Event):
    """A subtask ended, or was skipped."""

    kind: Literal["subtask-finished"] = "subtask-finished"
    result: SubtaskResult


class SynthesisStarted(_Event):
    """All subtasks have ended; the answer is being written."""

    kind: Literal["synthesis-started"] = "synthesis-started"


class CancelRequested(_Event):
    """Somebody wants the run to stop."""

    kind: Literal["cancel-requested"] = "cancel-requested"
    reason: str = ""


class RunEnded(_Event):
    """The run is over."""

    kind: Literal["run-ended"] = "run-ended"
    status: Literal["succeeded", "partial", "failed", "cancelled"]
    answer: Text = ""
    value: JsonValue = None
    reasons: tuple[str, ...] = ()
    """Why the status is not `succeeded`: one sentence for each thing that is missing."""
    rest: Estimate | None = None
    """What is likely to be needed for what is missing, where the budget did not suffice."""


Event = Annotated[
    RunStarted
    | RunResumed
    | CallStarted
    | CallFinished
    | CallFailed
    | ToolCalled
    | SubtaskDrafted
    | PlanRejected
    | PlanAccepted
    | PlanRevised
    | GuardDecided
    | ResultsVerified
    | SubtaskStarted
    | SubtaskFinished
    | SynthesisStarted
    | CancelRequested
    | RunEnded,
    Field(discriminator="kind"),
]

EVENT: TypeAdapter[Event] = TypeAdapter(Event)
"""Reads and writes events as JSON."""
