"""What callers can ask of the run service, before it is checked."""

from dataclasses import dataclass

from concertmaster.engine.plan import Plan
from concertmaster.llm.protocol import JsonSchema
from concertmaster.tools.inputs import InputSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    inputs: tuple[InputSpec, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOrder(_Order):
    """Plan a task, without running it."""

    task: str
    workers: tuple[str, ...] = ()
    max_subtasks: int | None = None
    deadline_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOrder(_Order):
    """Plan, delegate and synthesize; or run a plan that exists.

    One of `task`, `plan_id` and `plan` is needed. With `plan_id`, the task and the inputs
    are those the plan was made for; `plan` needs the task too, and its inputs.
    """

    task: str = ""
    plan_id: str | None = None
    plan: Plan | None = None
    workers: tuple[str, ...] = ()
    max_subtasks: int | None = None
    deadline_seconds: float | None = None
    output_schema: JsonSchema | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOrder(_Order):
    """One worker on one subtask, without planning or synthesis."""

    worker: str
    task: str
    context: str = ""
    constraints: tuple[str, ...] = ()
    output_schema: JsonSchema | None = None
    deadline_seconds: float | None = None


Order = PlanOrder | RunOrder | WorkerOrder
