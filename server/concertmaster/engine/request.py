"""What is asked of a run, and within which bounds."""

from typing import Literal

from pydantic import Field

from concertmaster.engine.plan.plan import Plan, PlanMode, Verify
from concertmaster.llm.messages import JsonSchema
from concertmaster.llm.usage import Frozen, Text

RunKind = Literal["orchestration", "plan", "worker"]
"""Plan, delegate and synthesize; plan only; or one worker on one subtask."""

Mode = PlanMode | Literal["auto"]
"""How a run proceeds; `auto` leaves it to the planner."""

Decomposition = Literal["constrained", "hybrid", "dynamic"]
"""Whether a planner may write workers of its own: none, one, or as many as it needs."""

Approve = Literal["never", "over_budget", "always"]
"""Whether a person approves the plan first: if it may cost more than the budget, or always."""


class Limits(Frozen):
    """Bounds on one run."""

    max_subtasks: int = Field(default=8, ge=1)
    slots: int = Field(default=8, ge=1)
    """Subtasks that may run at the same time."""
    subtask_seconds: float = Field(default=120, gt=0)
    run_seconds: float = Field(default=900, gt=0)
    ask_seconds: float = Field(default=120, gt=0)
    """How long a tool call waits for somebody to agree to it."""
    max_tokens: int = Field(default=16384, ge=1)
    """Upper bound of one reply, in tokens, what the model thinks included."""
    rounds: int = Field(default=6, ge=1)
    """How often an adaptive run asks what to do next."""
    budget_usd: float = Field(default=2.0, gt=0)
    """What the run may spend."""
    budget_tokens: int = Field(default=2_000_000, ge=1)
    """Tokens that it may take, but for those read from a cache; all that binds where no price
    is known."""


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
    left_out: tuple[str, ...] = ()
    """What is not among the inputs although it was in a folder that is, a sentence each."""
    model: Text = ""
    """The model of a run of one worker; that worker's own where this is empty."""
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
    approve: Approve = "never"
    output_schema: JsonSchema | None = None
    """What the answer must look like, as JSON Schema; plain text when None."""
    limits: Limits = Limits()
    rerun_of: str = ""
    """The run whose results are taken over where nothing that they depend on has changed."""
    redo: tuple[str, ...] = ()
    """Subtasks that are done anew all the same."""
    plan_gaps: tuple[str, ...] = ()
    """What the given plan lacks of the task, a sentence each."""

    def with_budget(self, usd: float | None) -> "RunRequest":
        """Return the request with another budget; itself, where that is None."""
        if usd is None:
            return self
        limits = self.limits.model_copy(update={"budget_usd": usd})
        return self.model_copy(update={"limits": limits})

    def with_approval(self, least: Approve) -> "RunRequest":
        """Return the request with no less approval than `least`."""
        return self.model_copy(update={"approve": stricter(least, self.approve)})


_STRICTNESS: tuple[Approve, ...] = ("never", "over_budget", "always")


def stricter(one: Approve, other: Approve | None) -> Approve:
    """Return whichever lets less pass without approval."""
    return _STRICTNESS[max(map(_STRICTNESS.index, (one, other or one)))]


class Origin(Frozen):
    """Who asked for a run, and on what occasion."""

    principal: str = ""
    """Whom the run belongs to, on a server that several people use."""
    trace_context: dict[str, str] = Field(default_factory=dict[str, str])
    """The W3C trace context of the call: `traceparent`, and `tracestate` if there was one."""


NOBODY = Origin()
