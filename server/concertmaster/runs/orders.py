"""What callers can ask of the run service, before it is checked."""

from dataclasses import dataclass
from hashlib import sha256

from concertmaster.engine.plan.plan import Plan, Verify
from concertmaster.engine.request import Approve, Decomposition, Mode
from concertmaster.llm.messages import JsonSchema
from concertmaster.tools.inputs import InputSpec

LONGEST_KEY = 200
"""Characters of an idempotency key that is kept as it is; no index takes a key of any length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    context: str = ""
    """Background that the planner, the workers and the synthesis are given."""
    constraints: tuple[str, ...] = ()
    """What the work must or must not do, a sentence each."""
    inputs: tuple[InputSpec, ...] = ()
    idempotency_key: str = ""
    """Of all orders that have the same, one is done; none where this is empty."""
    budget_usd: float | None = None
    """What the run may spend; the operator's setting where this is None."""

    @property
    def stored_key(self) -> str:
        """Return what a store knows the order by: its idempotency key, or a digest of an odd one.

        Any text is a key, also one with half characters or NUL, which databases do not take.
        """
        key = self.idempotency_key
        if len(key) <= LONGEST_KEY and key.isprintable():
            return key
        return f"sha256:{sha256(key.encode(errors='surrogatepass')).hexdigest()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _PlannedOrder(_Order):
    workers: tuple[str, ...] = ()
    max_subtasks: int | None = None
    deadline_seconds: float | None = None
    mode: Mode = "auto"
    decomposition: Decomposition | None = None
    """The operator's setting where this is None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOrder(_PlannedOrder):
    """Plan a task, without running it."""

    task: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOrder(_PlannedOrder):
    """Plan, delegate and synthesize; or run a plan that exists.

    One of `task`, `plan_id` and `plan` is needed. With `plan_id`, the task and the inputs
    are those the plan was made for, and so are context and constraints, to which the order
    may add; `plan` needs the task too, and its inputs.
    """

    task: str = ""
    plan_id: str | None = None
    plan: Plan | None = None
    plan_gaps: tuple[str, ...] = ()
    """What the plan lacks of the task, a sentence each."""
    guard: str = ""
    """The worker that screens the task and its inputs; none where this is empty."""
    verify: Verify | None = None
    """Whether results are checked against one another; None leaves it to the plan."""
    approve: Approve | None = None
    """Whether a person approves the plan first; the operator's setting, where that is stricter."""
    output_schema: JsonSchema | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOrder(_Order):
    """One worker on one subtask, without planning or synthesis."""

    worker: str
    task: str
    model: str = ""
    """The model that does it; the worker's own where this is empty."""
    output_schema: JsonSchema | None = None
    deadline_seconds: float | None = None


Order = PlanOrder | RunOrder | WorkerOrder
