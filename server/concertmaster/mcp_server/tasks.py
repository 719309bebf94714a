"""The Tasks extension: a call that lasts is answered with a task, which its client polls.

https://modelcontextprotocol.io/seps/2663-tasks-extension
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, cast

from mcp import MCPError
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.extension import Extension, MethodBinding
from mcp.server.session import ServerSession
from mcp.server.subscriptions import ListenHandler
from mcp.shared.inbound import MCP_NAME_HEADER, decode_header_value
from mcp.types import (
    HEADER_MISMATCH,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    CallToolRequestParams,
    CallToolResult,
    Notification,
    RequestId,
    RequestParams,
    ResourceUpdatedNotification,
    ServerNotification,
    SubscriptionFilter,
    SubscriptionsAcknowledgedNotification,
    SubscriptionsListenRequestParams,
    SubscriptionsListenResult,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import Field, TypeAdapter, ValidationError
from starlette.requests import Request

from concertmaster.errors import RequestError
from concertmaster.mcp_server.client_profiles import ClientProfile, ClientSession, profile_of
from concertmaster.mcp_server.context import ServerState
from concertmaster.mcp_server.elicitation import (
    Question,
    Session,
    approval_of,
    approval_token,
    can_ask,
    decide,
    form_of,
    take_answers,
)
from concertmaster.mcp_server.results import request_errors, run_result
from concertmaster.replies.build import progress_line
from concertmaster.replies.markdown import one_line
from concertmaster.replies.next_steps import FOLLOW_SECONDS
from concertmaster.runs.state import RunState

TASKS = "io.modelcontextprotocol/tasks"

VERSIONS = frozenset(MODERN_PROTOCOL_VERSIONS)
"""The protocol versions that know extensions."""

GRACE_SECONDS = 0.5
"""How long a call may take and still be answered at once."""

POLL_MILLISECONDS = 2_000
"""How often a client should ask how a task is coming along."""

DAY_MILLISECONDS = 86_400_000

TaskStatus = Literal["working", "input_required", "completed", "failed", "cancelled"]

Ctx = ServerRequestContext[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Where a call stands that was answered with a task."""

    task_id: str
    status: TaskStatus
    message: str
    created_at: float
    updated_at: float
    ttl_milliseconds: int | None = None
    """How long it is kept, from when it was created; None is for ever."""
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Its `result`, `error` or `inputRequests`, as its status wants."""

    def created(self) -> dict[str, Any]:
        """Return the answer to the call that the task was made for."""
        return {**self._seed(), "resultType": "task"}

    def detailed(self) -> dict[str, Any]:
        """Return the answer to a client that asks for the task."""
        return {**self._seed(), **self.details}

    def _seed(self) -> dict[str, Any]:
        return {
            "taskId": self.task_id,
            "status": self.status,
            "statusMessage": self.message,
            "createdAt": _iso(self.created_at),
            "lastUpdatedAt": _iso(self.updated_at),
            "ttlMs": self.ttl_milliseconds,
            "pollIntervalMs": POLL_MILLISECONDS,
        }


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


class TaskSession(Session, ClientSession, Protocol):
    """A session that says which client is at the other end, and whether it can be asked."""


class TaskSource(Protocol):
    """What answers calls with tasks, and knows where those stand.

    All but `call` raise RequestError for a task that there is not.
    """

    async def call(
        self, params: CallToolRequestParams, ctx: Ctx, call_next: CallNext
    ) -> HandlerResult:
        """Answer a tool call of a client that takes tasks."""
        ...

    async def get(self, task_id: str, session: TaskSession) -> Task:
        """Return where a task stands, for the client of a session."""
        ...

    async def answer(self, task_id: str, responses: Mapping[str, Any]) -> None:
        """Take what a task has asked its client for; answers to nothing asked are ignored."""
        ...

    async def cancel(self, task_id: str) -> None:
        """Stop a task, unless it has ended."""
        ...


class _TaskParams(RequestParams):
    task_id: str = Field(alias="taskId")


class _AnswerParams(_TaskParams):
    input_responses: dict[str, Any] = Field(alias="inputResponses")


class TasksExtension(Extension):
    """Serves the tasks of a source to clients that declare the extension."""

    identifier = TASKS

    def __init__(self, source: TaskSource) -> None:
        self._source = source

    def methods(self) -> Sequence[MethodBinding]:
        """Return `tasks/get`, `tasks/update` and `tasks/cancel`."""
        return (
            MethodBinding("tasks/get", _TaskParams, self._get, VERSIONS),
            MethodBinding("tasks/update", _AnswerParams, self._update, VERSIONS),
            MethodBinding("tasks/cancel", _TaskParams, self._cancel, VERSIONS),
        )

    async def intercept_tool_call(
        self, params: CallToolRequestParams, ctx: Ctx, call_next: CallNext
    ) -> HandlerResult:
        """Answer a call with a task where the client takes one and the source has one."""
        if not declares_tasks(ctx):
            return await call_next(ctx)
        with request_errors():
            return await self._source.call(params, ctx, call_next)

    async def _get(self, ctx: Ctx, params: _TaskParams) -> dict[str, Any]:
        _admit(ctx, params.task_id)
        with request_errors():
            return (await self._source.get(params.task_id, ctx.session)).detailed()

    async def _update(self, ctx: Ctx, params: _AnswerParams) -> dict[str, Any]:
        _admit(ctx, params.task_id)
        with request_errors():
            await self._source.answer(params.task_id, params.input_responses)
        return {}

    async def _cancel(self, ctx: Ctx, params: _TaskParams) -> dict[str, Any]:
        _admit(ctx, params.task_id)
        with request_errors():
            await self._source.cancel(params.task_id)
        return {}


def declares_tasks(ctx: Ctx) -> bool:
    """Tell whether a request comes from a client that takes tasks."""
    capabilities = ctx.session.client_capabilities
    declared = capabilities.extensions if capabilities is not None else None
    return ctx.protocol_version in VERSIONS and TASKS in (declared or {})


def tasks_needed() -> MCPError:
    """Return the error for a client that does not take tasks where it has to."""
    return MCPError(
        MISSING_REQUIRED_CLIENT_CAPABILITY,
        f"This needs the client capability {TASKS}.",
        {"requiredCapabilities": {"extensions": {TASKS: {}}}},
    )


def _admit(ctx: Ctx, task_id: str) -> None:
    if not declares_tasks(ctx):
        raise tasks_needed()
    # Intermediaries route by the header, so a body that says otherwise is refused.
    http: Request | None = ctx.request
    if http is not None and decode_header_value(http.headers.get(MCP_NAME_HEADER)) != task_id:
        raise MCPError(HEADER_MISMATCH, f"The header {MCP_NAME_HEADER} is not the taskId.")


class RunTasks:
    """The tasks of runs: a run is the task of the call that started it, under the same id.

    So a task needs no store of its own, and outlives the server.
    """

    def __init__(
        self, server: ServerState, tools: Collection[str], *, keep_days: float | None = None
    ) -> None:
        """Take the tools whose calls may become tasks, and how long their runs are kept."""
        self._server = server
        self._tools = tools
        self._keep_days = keep_days

    async def call(
        self, params: CallToolRequestParams, ctx: Ctx, call_next: CallNext
    ) -> HandlerResult:
        """Answer a call with a task if its run outlasts a moment, and the call would wait."""
        arguments = params.arguments or {}
        wait_seconds = arguments.get("wait_seconds", FOLLOW_SECONDS)
        if params.name not in self._tools or not _outlasts(wait_seconds):
            return await call_next(ctx)
        # What comes next is called with these very params.
        params.arguments = {**arguments, "wait_seconds": GRACE_SECONDS}
        result = await call_next(ctx)
        run_id = _run_under_way(result)
        return result if run_id is None else (await self.get(run_id, ctx.session)).created()

    async def get(self, task_id: str, session: TaskSession) -> Task:
        """Return the task of a run, as the client of a session can go on with it.

        Raises:
            UnknownRunError: there is none of that id.
        """
        service = await self._server.service()
        state = await service.get(task_id)
        if can_ask(session) and (questions := _questions(state)):
            return self._kept(question_task(state, questions))
        token = await approval_token(service, state, session)
        client = profile_of(session)
        return self._kept(run_task(state, client=client, approval_token=token))

    def _kept(self, task: Task) -> Task:
        """Return a task that is kept as long as its run."""
        if self._keep_days is None:
            return task
        return replace(task, ttl_milliseconds=round(self._keep_days * DAY_MILLISECONDS))

    async def answer(self, task_id: str, responses: Mapping[str, Any]) -> None:
        """Take what the person at the client says to what a run asks.

        Raises:
            UnknownRunError: there is none of that id.
            RequestError: the answer cannot be used.
        """
        service = await self._server.service()
        state = await service.get(task_id)
        await take_answers(service, state, responses)
        if state.status != "needs_approval":
            return
        if (answer := approval_of(state).answer_in(responses)) is not None:
            await decide(service, state, answer)

    async def cancel(self, task_id: str) -> None:
        """Stop a run, unless it is over.

        Raises:
            UnknownRunError: there is none of that id.
        """
        service = await self._server.service()
        await service.cancel(task_id, reason="the client cancelled its task")


def _outlasts(wait_seconds: object) -> bool:
    """Tell whether a call is to wait for longer than its answer may take without a task."""
    return isinstance(wait_seconds, int | float) and wait_seconds > GRACE_SECONDS


def _run_under_way(result: HandlerResult) -> str | None:
    """Return the id of the run that a call has started, if it goes on."""
    match result:
        case CallToolResult(
            structured_content={
                "run_id": str(run_id),
                "status": "queued" | "planning" | "running" | "synthesizing" | "cancelling",
            }
        ):
            return run_id
        case _:
            return None


def _questions(state: RunState) -> list[Question[Any]]:
    """Return what somebody is to be asked: about the plan, or about calls of tools."""
    if state.status == "needs_approval":
        return [approval_of(state)]
    return [form_of(asked) for asked in state.questions.values()]


def question_task(state: RunState, questions: Sequence[Question[Any]]) -> Task:
    """Return the task of a run that asks something."""
    requests = {
        question.key: question.request.model_dump(mode="json", by_alias=True, exclude_none=True)
        for question in questions
    }
    return Task(
        task_id=state.run_id,
        status="input_required",
        message=progress_line(state),
        created_at=state.started_at,
        updated_at=state.updated_at,
        details={"inputRequests": requests},
    )


def run_task(state: RunState, *, client: ClientProfile, approval_token: str = "") -> Task:
    """Return the task of a run in this state."""
    status: TaskStatus = "working"
    message = progress_line(state)
    details: dict[str, Any] = {}
    if state.status == "cancelled":
        status = "cancelled"
        reasons = one_line(" ".join(state.reasons), 300)
        message = f"{reasons} get_run has what was finished of run {state.run_id}."
    elif state.still:
        status = "completed"
        message = one_line(" ".join((f"The run has ended: {state.status}.", *state.reasons)), 300)
        result = run_result(state, client=client, approval_token=approval_token)
        details["result"] = result.model_dump(mode="json", by_alias=True, exclude_none=True)
    return Task(
        task_id=state.run_id,
        status=status,
        message=message,
        created_at=state.started_at,
        updated_at=state.updated_at,
        details=details,
    )


_IDS = TypeAdapter(list[str])


class TaskListening:
    """`subscriptions/listen` for whatever the SDK knows, and for tasks.

    The task of a run has changed whenever the resource of the run has. So the SDK is asked to
    listen to that, and what it would tell the client of it is said in terms of the task.
    """

    def __init__(self, listen: ListenHandler, source: TaskSource) -> None:
        self._listen = listen
        self._source = source

    async def __call__(
        self, ctx: ServerRequestContext[Any, Any], params: SubscriptionsListenRequestParams
    ) -> SubscriptionsListenResult:
        """Serve one listener until it leaves."""
        wanted = _task_ids(params.notifications)
        if not wanted:
            return await self._listen(ctx, params)
        if not declares_tasks(ctx):
            raise tasks_needed()
        with request_errors():
            tasks = {
                f"runs://{task_id}": task_id
                for task_id in wanted
                if await self._has(task_id, ctx.session)
            }
        asked = params.notifications.resource_subscriptions or []
        listened = params.notifications.model_copy(
            update={"resource_subscriptions": [*asked, *tasks]}
        )
        stream = _TaskStream(ctx.session, self._source, tasks, asked=params.notifications)
        return await self._listen(
            replace(ctx, session=cast("ServerSession", stream)),
            params.model_copy(update={"notifications": listened}),
        )

    async def _has(self, task_id: str, session: ServerSession) -> bool:
        try:
            await self._source.get(task_id, session)
        except RequestError:
            return False
        return True


def _task_ids(asked: SubscriptionFilter) -> list[str]:
    try:
        return _IDS.validate_python((asked.model_extra or {}).get("taskIds", []))
    except ValidationError:
        return []


class _TaskStream:
    """What the SDK's listening needs of a session: notifications to the client go through it."""

    def __init__(
        self,
        session: ServerSession,
        source: TaskSource,
        tasks: Mapping[str, str],
        *,
        asked: SubscriptionFilter,
    ) -> None:
        self._session = session
        self._source = source
        self._tasks = tasks
        self._asked = asked

    async def send_notification(
        self, notification: ServerNotification, related_request_id: RequestId | None = None
    ) -> None:
        """Send what the client has asked for, in the terms in which it did."""
        match notification:
            case SubscriptionsAcknowledgedNotification(params=params):
                params.notifications = params.notifications.model_copy(
                    update={
                        "resource_subscriptions": self._asked.resource_subscriptions,
                        "taskIds": list(self._tasks.values()),
                    }
                )
            case ResourceUpdatedNotification(params=params) if params.uri in self._tasks:
                told = await self._task(self._tasks[params.uri], params.meta)
                await self._session.send_notification(told, related_request_id)
                if params.uri not in (self._asked.resource_subscriptions or ()):
                    return
            case _:
                pass
        await self._session.send_notification(notification, related_request_id)

    async def _task(self, task_id: str, meta: Any) -> ServerNotification:
        with request_errors():
            task = await self._source.get(task_id, self._session)
        params = {**task.detailed(), "_meta": meta}
        told = Notification[dict[str, Any], str](method="notifications/tasks", params=params)
        return cast("ServerNotification", told)
