"""The MCP tools: what they take, what they do, and what they tell a model about themselves."""

from functools import partial
from typing import Annotated, Any

from mcp.server.mcpserver.tools import Tool
from mcp.types import CallToolResult, ToolAnnotations
from pydantic import Field, WithJsonSchema

from concertmaster.engine import request
from concertmaster.engine.plan.plan import Plan, Subtask, Verify
from concertmaster.errors import RequestError
from concertmaster.mcp_server.client_profiles import profile_of
from concertmaster.mcp_server.context import Ctx, state_of
from concertmaster.mcp_server.elicitation import reply_on
from concertmaster.mcp_server.follow import (
    follow,
    rerun_and_follow,
    resume_and_follow,
    start_and_follow,
)
from concertmaster.mcp_server.results import fitted_result, tool_result
from concertmaster.mcp_server.tool_schemas import Inputs, SentenceTool, Texts, brief, schemas_of
from concertmaster.replies.build import plan_reply, result_text, runs_reply, subtask_reply
from concertmaster.replies.models import (
    FoundReply,
    PlanReply,
    QuestionLine,
    RunLine,
    RunReply,
    SubtaskLine,
)
from concertmaster.replies.next_steps import FOLLOW_SECONDS
from concertmaster.runs.orders import PlanOrder, RunOrder, WorkerOrder

Workers = Annotated[
    Texts,
    Field(description="Names from workers://catalog. Default: all."),
]
MaxSubtasks = Annotated[
    int | None,
    Field(ge=1, description="At most 50. Default: 8."),
]
Mode = Annotated[
    request.Mode,
    WithJsonSchema({"enum": ["auto", "static", "adaptive"], "type": "string"}),
    Field(description="static: plan once; adaptive: revise the plan as results arrive."),
]
Decomposition = Annotated[
    request.Decomposition | None,
    WithJsonSchema({"enum": ["constrained", "hybrid", "dynamic"], "type": "string"}),
    Field(description="Workers the planner may write: none, one, any."),
]
BudgetUsd = Annotated[
    float | None,
    Field(description="Spending limit in USD. Default: 2."),
]
Context = Annotated[str, Field(description="Background to know.")]
Constraints = Annotated[Texts, Field(description="What must or must not be done.")]
DeadlineSeconds = Annotated[
    float | None,
    Field(description="Time limit."),
]
OutputSchema = Annotated[
    dict[str, Any] | None,
    WithJsonSchema({"type": "object"}),
    Field(description="JSON Schema (type object) of the value to return."),
]
IdempotencyKey = Annotated[
    str,
    Field(max_length=200, description="Calls with the same key get the same run."),
]
WaitSeconds = Annotated[
    float,
    WithJsonSchema({"type": "number"}),
    Field(
        ge=0,
        le=3600,
        description="Seconds to wait; the run continues.",
    ),
]
Offset = Annotated[int, Field(ge=0, description="next_offset of a cut reply: continue there.")]


async def plan_task(
    ctx: Ctx,
    task: Annotated[str, Field(description="What to achieve, with all that matters.")],
    context: Context = "",
    inputs: Inputs = (),
    constraints: Constraints = (),
    workers: Workers = (),
    max_subtasks: MaxSubtasks = None,
    mode: Mode = "auto",
    decomposition: Decomposition = None,
    budget_usd: BudgetUsd = None,
) -> CallToolResult:
    """Plan a task."""
    order = PlanOrder(
        task=task,
        context=context,
        inputs=inputs,
        constraints=constraints,
        workers=workers,
        max_subtasks=max_subtasks,
        mode=mode,
        decomposition=decomposition,
        budget_usd=budget_usd,
    )
    state = await start_and_follow(ctx, order, seconds=FOLLOW_SECONDS)
    client = profile_of(ctx.session)
    return fitted_result(partial(plan_reply, state), state.answer, client=client)


async def run_worker(
    ctx: Ctx,
    worker: Annotated[str, Field(description="Name of the worker (workers://catalog).")],
    task: Annotated[str, Field(description="The worker's objective.")],
    context: Context = "",
    inputs: Inputs = (),
    constraints: Constraints = (),
    model: Annotated[str, Field(description="opus, sonnet, haiku or an id.")] = "",
    deadline_seconds: DeadlineSeconds = None,
    budget_usd: BudgetUsd = None,
    output_schema: OutputSchema = None,
    idempotency_key: IdempotencyKey = "",
    wait_seconds: WaitSeconds = FOLLOW_SECONDS,
) -> CallToolResult:
    """Have one worker do one thing."""
    order = WorkerOrder(
        worker=worker,
        task=task,
        context=context,
        inputs=inputs,
        constraints=constraints,
        model=model,
        deadline_seconds=deadline_seconds,
        budget_usd=budget_usd,
        output_schema=output_schema,
        idempotency_key=idempotency_key,
    )
    return await reply_on(ctx, await start_and_follow(ctx, order, seconds=wait_seconds))


async def run_orchestration(
    ctx: Ctx,
    task: Annotated[
        str,
        Field(description="What to achieve, with all that matters. Not with plan_id."),
    ] = "",
    plan_id: Annotated[
        str, Field(description="Run this plan of plan_task, with its task and inputs.")
    ] = "",
    plan: Annotated[
        Plan | None,
        WithJsonSchema({"type": "object"}),
        Field(
            description="Run this plan: {subtasks: [{id, worker, objective, depends_on, inputs, "
            "…}], …}. Needs task and inputs."
        ),
    ] = None,
    context: Context = "",
    inputs: Inputs = (),
    constraints: Constraints = (),
    workers: Workers = (),
    max_subtasks: MaxSubtasks = None,
    mode: Mode = "auto",
    decomposition: Decomposition = None,
    verify: Annotated[
        Verify | None,
        Field(description="Where results disagree: report it, or have workers mend it."),
    ] = None,
    guard: Annotated[
        str, Field(description="Worker that screens task and inputs before anything gets out.")
    ] = "",
    deadline_seconds: DeadlineSeconds = None,
    budget_usd: BudgetUsd = None,
    approve: Annotated[
        request.Approve | None,
        WithJsonSchema({"enum": ["never", "over_budget", "always"], "type": "string"}),
        Field(description="Ask the user before the plan is run."),
    ] = None,
    output_schema: OutputSchema = None,
    idempotency_key: IdempotencyKey = "",
    wait_seconds: WaitSeconds = FOLLOW_SECONDS,
) -> CallToolResult:
    """Plan, delegate, synthesize."""
    order = RunOrder(
        task=task,
        plan_id=plan_id or None,
        plan=plan,
        context=context,
        inputs=inputs,
        constraints=constraints,
        workers=workers,
        max_subtasks=max_subtasks,
        mode=mode,
        decomposition=decomposition,
        verify=verify,
        guard=guard,
        deadline_seconds=deadline_seconds,
        budget_usd=budget_usd,
        approve=approve,
        output_schema=output_schema,
        idempotency_key=idempotency_key,
    )
    return await reply_on(ctx, await start_and_follow(ctx, order, seconds=wait_seconds))


async def get_run(
    ctx: Ctx,
    run_id: Annotated[
        str, Field(description="A run_id or plan_id. Default: list the latest runs.")
    ] = "",
    wait_seconds: WaitSeconds = 0,
    subtask_id: Annotated[str, Field(description="Show this subtask's result in full.")] = "",
    offset: Offset = 0,
) -> CallToolResult:
    """Look at a run."""
    service = await state_of(ctx).service()
    client = profile_of(ctx.session)
    if not run_id:
        if subtask_id:
            raise RequestError("subtask_id needs the run_id of the run that has the subtask.")
        return tool_result(runs_reply(await service.recent(), notice=service.notice), client)
    state = await follow(ctx, run_id, seconds=wait_seconds)
    if not subtask_id:
        return await reply_on(ctx, state, offset=offset)
    result = await service.result(run_id, subtask_id)
    reply = partial(subtask_reply, state, result)
    return fitted_result(reply, result_text(result), client=client, offset=offset)


async def cancel_run(
    ctx: Ctx, run_id: Annotated[str, Field(description="The run to stop.")]
) -> CallToolResult:
    """Stop a run."""
    service = await state_of(ctx).service()
    state = await service.cancel(run_id, reason="cancel_run was called", declined=True)
    return await reply_on(ctx, state)


async def resume_run(
    ctx: Ctx,
    run_id: Annotated[str, Field(description="The run to resume.")],
    plan: Annotated[
        Plan | None,
        WithJsonSchema({"type": "object"}),
        Field(description="Its plan, edited (runs://RUN/plan)."),
    ] = None,
    from_subtask: Annotated[
        str, Field(description="Re-run this subtask and all that depend on it.")
    ] = "",
    budget_usd: BudgetUsd = None,
    approval_token: Annotated[
        str, Field(description="Of a needs_approval reply: the user agrees.")
    ] = "",
    wait_seconds: WaitSeconds = FOLLOW_SECONDS,
) -> CallToolResult:
    """Resume a run."""
    if plan is None and not from_subtask:
        state = await resume_and_follow(
            ctx,
            run_id,
            budget_usd=budget_usd,
            approval_token=approval_token,
            seconds=wait_seconds,
        )
    else:
        redo = [from_subtask] if from_subtask else []
        state = await rerun_and_follow(
            ctx, run_id, plan=plan, redo=redo, budget_usd=budget_usd, seconds=wait_seconds
        )
    return await reply_on(ctx, state)


PLAN_TASK = """\
Return a checked plan for a task without running it, to see or change it before paying for the \
work; to get the task done, call run_orchestration. Next: run_orchestration with the plan_id or \
the edited plan."""

RUN_WORKER = """\
Have one specialist do one well-defined thing and return its result. Several calls may run at \
once. For a task with several parts call run_orchestration. The worker starts with an empty \
context: put all it needs into task, context and inputs. Status running: do what next says."""

RUN_ORCHESTRATION = """\
Get a large or many-sided task done: specialist workers do its subtasks in parallel, and their \
findings are merged into one answer. For reviews, analyses and research with several angles, \
above all over many files, which do not enter your context; not for what you can answer at once \
or one worker can do (run_worker). Status running, needs_approval: do what next says. Status \
partial: something is missing, named in reasons; say so when you pass the answer on."""

GET_RUN = """\
See the state of a run and read its answer; changes nothing. After a reply with status running, \
call it with wait_seconds (such as 45). With subtask_id: one result in full. Without run_id: the \
latest runs."""

CANCEL_RUN = """\
Stop a run that is no longer wanted. Finished results are kept and can be read with get_run. Does \
nothing to a run that is over."""

RESUME_RUN = """\
Resume a run that is interrupted, cancelled, failed or partial, or needs approval: what succeeded \
is kept; the rest is tried again. A run in progress is only followed. With plan or from_subtask: \
start a new run that reuses every result the change does not affect."""

_SCHEMAS = schemas_of(
    PlanReply, RunReply, FoundReply, lines=(Subtask, SubtaskLine, QuestionLine, RunLine)
)

_STOPPED = ("run_id", "status", "task", "answer", "subtasks", "reasons", "next")
_REPLIED = (
    *_STOPPED,
    "progress",
    "next_offset",
    "value",
    "questions",
    "approval_token",
    "warnings",
)

_run_schema = partial(brief, _SCHEMAS[RunReply], description="More fields as get_run has them.")

_planning = partial(SentenceTool.answering, PlanReply, output_schema=_SCHEMAS[PlanReply])
_running = partial(SentenceTool.answering, RunReply, output_schema=_run_schema(_REPLIED))
_stopping = partial(SentenceTool.answering, RunReply, output_schema=_run_schema(_STOPPED))
_finding = partial(SentenceTool.answering, FoundReply, output_schema=_SCHEMAS[FoundReply])

# plan_task and run_worker change nothing but the server's own record, so clients may make such
# calls side by side. run_orchestration starts work that can be large and outlasts the call: a
# client should feel free to ask its user first.
TOOLS: tuple[Tool, ...] = (
    _planning(
        plan_task,
        title="Plan a task",
        description=PLAN_TASK,
        annotations=ToolAnnotations(read_only_hint=True, open_world_hint=True),
    ),
    _running(
        run_orchestration,
        title="Run a task with many workers",
        description=RUN_ORCHESTRATION,
        annotations=ToolAnnotations(
            read_only_hint=False,
            destructive_hint=False,
            idempotent_hint=False,
            open_world_hint=True,
        ),
    ),
    _running(
        run_worker,
        title="Run one worker",
        description=RUN_WORKER,
        annotations=ToolAnnotations(read_only_hint=True, open_world_hint=True),
    ),
    _finding(
        get_run,
        title="Look at a run",
        description=GET_RUN,
        annotations=ToolAnnotations(
            read_only_hint=True, idempotent_hint=True, open_world_hint=False
        ),
    ),
    _stopping(
        cancel_run,
        title="Stop a run",
        description=CANCEL_RUN,
        annotations=ToolAnnotations(
            read_only_hint=False,
            destructive_hint=True,
            idempotent_hint=True,
            open_world_hint=False,
        ),
    ),
    _running(
        resume_run,
        title="Resume a run",
        description=RESUME_RUN,
        annotations=ToolAnnotations(
            read_only_hint=False,
            destructive_hint=False,
            idempotent_hint=False,
            open_world_hint=True,
        ),
    ),
)
"""All tools, in the order in which clients list them."""

TASK_TOOLS = frozenset({"run_orchestration", "run_worker", "resume_run"})
"""The tools whose calls last as long as a run, unless they are told to wait for less."""
