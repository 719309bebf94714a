"""What a client gets to know of a run: one shape for each kind of answer."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, JsonValue, RootModel, WithJsonSchema

from concertmaster.engine.events import Estimate, RunStatus, SubtaskStatus
from concertmaster.engine.plan.plan import CustomWorker, PlanMode, Subtask, Verify
from concertmaster.engine.request import RunKind
from concertmaster.llm.messages import Source
from concertmaster.llm.usage import Frozen

_TYPES = ("object", "array", "string", "number", "boolean", "null")

AnyJson = Annotated[
    JsonValue,
    # Some clients stumble over a schema that says nothing at all.
    WithJsonSchema({"anyOf": [{"type": name} for name in _TYPES]}),
]


class ModelUsage(Frozen):
    """What the calls of one model took."""

    model: str
    calls: int = 0
    attempts: int = 0
    tokens_in: int = 0
    estimated_in: int = Field(default=0, description="Of tokens_in, not reported by anybody.")
    tokens_out: int = 0
    estimated_out: int = Field(default=0, description="Of tokens_out, not reported by anybody.")
    cache_read: int = 0
    cache_write: int = 0
    usd: float | None = Field(default=None, description="Absent if the price is unknown.")
    cache_hit_rate: float = Field(default=0, description="Part of the input read from the cache.")
    saved_usd: float | None = Field(default=None, description="What the cache has saved.")
    searches: int = Field(default=0, description="Web searches that the provider made.")
    fetches: int = Field(default=0, description="Pages that the provider fetched.")
    containers: int = Field(default=0, description="Containers that it ran code in, if charged.")


class Budget(Frozen):
    """What a run may spend, and what it has spent."""

    usd: float
    spent_usd: float | None = Field(default=None, description="Absent if a price is unknown.")
    tokens: int
    spent_tokens: int = 0


class SubtaskLine(Frozen):
    """Where one subtask of a run stands."""

    subtask_id: str
    worker: str
    status: SubtaskStatus
    objective: str
    strategy: str = Field(default="single", description="Such as vote 3 by judge.")
    notes: str = Field(default="", description="How the result came about.")
    seconds: float | None = None
    usd: float | None = None
    error: str = ""


class QuestionLine(Frozen):
    """A tool call that waits for a person to agree to it."""

    question_id: str
    subtask_id: str
    worker: str
    tool: str
    arguments: str = Field(description="As JSON, shortened, without secrets.")


class RunLine(Frozen):
    """One run in a list of runs."""

    run_id: str
    kind: RunKind
    status: RunStatus
    task: str
    started_at: str
    seconds: float | None = None


class Reply(Frozen):
    """What all replies may say."""

    notice: str = Field(default="", description="About the models used.")
    next: str = Field(default="", description="What to call next.")


class RunReply(Reply):
    """Where a run stands, and its answer once it has one."""

    run_id: str
    status: RunStatus
    task: str
    context: str = ""
    constraints: tuple[str, ...] = ()
    progress: str = ""
    questions: tuple[QuestionLine, ...] = Field(
        default=(), description="Tool calls that a person has to allow, not you."
    )
    guard: Literal["none", "pending", "passed", "objected"] = "none"
    answer: str = ""
    next_offset: int | None = Field(
        default=None, description="Pass as offset to get_run for the rest."
    )
    answer_chars: int | None = Field(
        default=None, description="Length of the whole answer, if cut."
    )
    value: AnyJson = Field(default=None, description="The answer, if output_schema was given.")
    subtasks: tuple[SubtaskLine, ...] = ()
    more_subtasks: int = 0
    """Subtasks left out here."""
    seconds: float | None = None
    usd: float | None = Field(default=None, description="Absent if a price is unknown.")
    estimate: Estimate | None = Field(default=None, description="What the plan is likely to take.")
    approval_token: str = Field(default="", description="Approves the plan once the user agrees.")
    budget: Budget | None = None
    rest: Estimate | None = Field(
        default=None, description="What the unfinished work is likely to take."
    )
    usage: tuple[ModelUsage, ...] = ()
    reused: str = ""
    """Results taken from an earlier run, and what they saved."""
    reasons: tuple[str, ...] = Field(default=(), description="Why it has not succeeded.")
    sources: tuple[Source, ...] = ()
    more_sources: int = 0
    """Sources left out here."""
    decisions: tuple[str, ...] = Field(default=(), description="Why the plan was revised or ended.")
    findings: tuple[str, ...] = Field(default=(), description="Disagreements between results.")
    custom_workers: tuple[str, ...] = Field(default=(), description="Workers written for this run.")
    warnings: tuple[str, ...] = ()
    links: dict[str, str] = Field(
        default_factory=dict[str, str], description="Resources with the whole."
    )


class PlanReply(Reply):
    """A plan that can be run, or why there is none."""

    plan_id: str
    status: RunStatus
    analysis: str = ""
    direct_answer: str | None = None
    next_offset: int | None = None
    mode: PlanMode = "static"
    why: str = Field(default="", description="Why it is done in this mode, or answered directly.")
    verify: Verify = "none"
    subtasks: tuple[Subtask, ...] = ()
    custom_workers: tuple[CustomWorker, ...] = ()
    shortened: bool = Field(
        default=False, description="Texts are cut here; run the plan by its plan_id."
    )
    more_subtasks: int = 0
    """Subtasks left out here."""
    estimate: Estimate | None = Field(default=None, description="What it would take to run it.")
    usd: float | None = None
    usage: tuple[ModelUsage, ...] = ()
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    links: dict[str, str] = Field(default_factory=dict[str, str])


class SubtaskReply(Reply):
    """One subtask with its result."""

    run_id: str
    subtask_id: str
    worker: str
    status: SubtaskStatus
    objective: str
    result: str = ""
    next_offset: int | None = None
    result_chars: int | None = None
    value: AnyJson = None
    seconds: float | None = None
    usage: tuple[ModelUsage, ...] = ()
    sources: tuple[Source, ...] = ()
    more_sources: int = 0
    """Sources left out here."""
    notes: tuple[str, ...] = Field(default=(), description="How the result came about.")
    errors: tuple[str, ...] = ()
    links: dict[str, str] = Field(default_factory=dict[str, str])


class RunsReply(Reply):
    """The latest runs, newest first."""

    runs: tuple[RunLine, ...] = ()
    unreadable: tuple[str, ...] = Field(
        default=(), description="Runs that cannot be read, and why."
    )


AnyReply = RunReply | PlanReply | SubtaskReply | RunsReply


class FoundReply(RootModel[RunReply | SubtaskReply | RunsReply]):
    """What `get_run` answers with: a run, one of its subtasks, or the latest runs."""

    # Clients of earlier protocol versions require the type to be said.
    model_config = ConfigDict(json_schema_extra={"type": "object"}, defer_build=True)
