"""What the conformance suite wants of tasks: calls that last, fail, or ask their client."""

import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import anyio
from mcp import MCPError
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import Context, MCPServer
from mcp.types import (
    INTERNAL_ERROR,
    CallToolRequestParams,
    CallToolResult,
    InputRequiredResult,
    TextContent,
)

from concertmaster.llm.messages import Request
from concertmaster.mcp_server.client_profiles import profile_of
from concertmaster.mcp_server.follow import start_and_follow
from concertmaster.mcp_server.results import run_result
from concertmaster.mcp_server.subscriptions import Work
from concertmaster.mcp_server.tasks import RunTasks, Task, TaskSession, TaskStatus, tasks_needed
from concertmaster.replies.models import RunReply
from concertmaster.runs.orders import WorkerOrder
from conformance.fixtures import form
from fakes import texts

Ctx = Context[Any, Any]


async def greet(name: str) -> str:
    return f"Hello, {name}!"


async def slow_compute(
    ctx: Ctx, seconds: float, label: str = "", wait_seconds: float = 45
) -> Annotated[CallToolResult, RunReply]:
    order = WorkerOrder(worker="analyst", task=f"Compute {label} for {seconds} s.")
    state = await start_and_follow(ctx, order, seconds=wait_seconds)
    return run_result(state, client=profile_of(ctx.session))


async def compute(request: Request) -> str:
    """Take as long as the task says."""
    (text,) = texts([request])
    found = re.search(r" for ([\d.]+) s\.", text)
    await anyio.sleep(float(found[1]) if found else 0)
    return "computed"


async def failing_job() -> str:
    raise tasks_needed()


async def protocol_error_job() -> str:
    raise tasks_needed()


async def confirm_delete(filename: str) -> str:
    del filename
    raise tasks_needed()


async def multi_input() -> str:
    raise tasks_needed()


async def test_tool_with_task() -> InputRequiredResult:
    return InputRequiredResult(input_requests={"user_name": form("What is your name?", "name")})


def add_task_fixtures(server: MCPServer[Any]) -> None:
    """Add the tools that the suite calls to get tasks."""
    for tool in (greet, slow_compute, test_tool_with_task, *SCRIPTS_BY_TOOL):
        server.add_tool(tool, description="Does what its name says.")


@dataclass
class Scripted:
    """A task that follows a script, and what it has asked its client for."""

    params: CallToolRequestParams
    created_at: float = field(default_factory=time.time)
    status: TaskStatus = "working"
    details: dict[str, Any] = field(default_factory=dict[str, Any])
    asked: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    answers: dict[str, Any] = field(default_factory=dict[str, Any])
    answered: anyio.Event = field(default_factory=anyio.Event)
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    async def ask(self, *questions: str) -> None:
        """Ask the client all these, and return when it has answered them."""
        for key in questions:
            request = form(f"Say {key}.", key)
            self.asked[key] = request.model_dump(mode="json", by_alias=True, exclude_none=True)
        while self.asked:
            self.answered = anyio.Event()
            await self.answered.wait()

    def take(self, responses: Mapping[str, Any]) -> None:
        for key in responses.keys() & self.asked.keys():
            del self.asked[key]
            self.answers[key] = responses[key]
        self.answered.set()


Script = Callable[[Scripted], Awaitable[str]]


async def fail(_: Scripted) -> str:
    raise ValueError("it was to fail")


async def break_down(_: Scripted) -> str:
    raise MCPError(INTERNAL_ERROR, "It broke down.")


async def confirm(task: Scripted) -> str:
    await task.ask("confirm")
    return "deleted"


async def ask_twice(task: Scripted) -> str:
    await task.ask("first", "second")
    return "done"


async def name_who_called(task: Scripted) -> str:
    (answer,) = (task.params.input_responses or {}).values()
    return f"Hello, {answer}"


SCRIPTS_BY_TOOL: dict[Callable[..., Awaitable[str]], Script] = {
    failing_job: fail,
    protocol_error_job: break_down,
    confirm_delete: confirm,
    multi_input: ask_twice,
}

SCRIPTS: dict[str, Script] = {
    **{tool.__name__: script for tool, script in SCRIPTS_BY_TOOL.items()},
    "test_tool_with_task": name_who_called,
}


class ScriptedTasks:
    """Tasks of runs, and tasks that follow a script."""

    def __init__(self, runs: RunTasks, start_soon: Callable[[Work], None]) -> None:
        self._runs = runs
        self._start_soon = start_soon
        self._tasks: dict[str, Scripted] = {}

    async def call(
        self,
        params: CallToolRequestParams,
        ctx: ServerRequestContext[Any, Any],
        call_next: CallNext,
    ) -> HandlerResult:
        is_first_round = params.name == "test_tool_with_task" and not params.input_responses
        if params.name not in SCRIPTS or is_first_round:
            return await self._runs.call(params, ctx, call_next)
        task_id = secrets.token_urlsafe(16)
        task = self._tasks[task_id] = Scripted(params)
        self._start_soon(lambda: _follow(task, SCRIPTS[params.name]))
        return (await self.get(task_id, ctx.session)).created()

    async def get(self, task_id: str, session: TaskSession) -> Task:
        task = self._tasks.get(task_id)
        if task is None:
            return await self._runs.get(task_id, session)
        return Task(
            task_id=task_id,
            status="input_required" if task.asked else task.status,
            message="It goes on.",
            created_at=task.created_at,
            updated_at=time.time(),
            details={"inputRequests": task.asked} if task.asked else task.details,
        )

    async def answer(self, task_id: str, responses: Mapping[str, Any]) -> None:
        if (task := self._tasks.get(task_id)) is not None:
            task.take(responses)
        else:
            await self._runs.answer(task_id, responses)

    async def cancel(self, task_id: str) -> None:
        if (task := self._tasks.get(task_id)) is not None:
            task.asked.clear()
            task.scope.cancel()
        else:
            await self._runs.cancel(task_id)


async def _follow(task: Scripted, script: Script) -> None:
    with task.scope:
        try:
            text, failed = await script(task), False
        except MCPError as exc:
            task.status = "failed"
            task.details["error"] = {"code": exc.error.code, "message": exc.error.message}
            return
        except ValueError as exc:
            text, failed = str(exc), True
        result = CallToolResult(content=[TextContent(type="text", text=text)], is_error=failed)
        task.details["result"] = result.model_dump(mode="json", by_alias=True, exclude_none=True)
        task.status = "completed"
        return
    task.status = "cancelled"
