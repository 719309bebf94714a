"""A client that takes tasks, as the Tasks extension has it."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NoReturn

import anyio
from mcp import Client
from mcp.client.extension import ClaimContext, ClientExtension, NotificationBinding, ResultClaim
from mcp.types import NotificationParams, Request, RequestParams, Result
from pydantic import ConfigDict, Field

from concertmaster.mcp_server.tasks import TASKS


class TaskHandle(Result):
    """A call's answer that says which task it has become."""

    model_config = ConfigDict(extra="allow")

    result_type: Literal["task"] = Field(alias="resultType")
    task_id: str = Field(alias="taskId")
    status: str


class TaskNews(NotificationParams):
    """What a client is told of a task it listens to."""

    model_config = ConfigDict(extra="allow")

    task_id: str = Field(alias="taskId")
    status: str


class TakesTasks(ClientExtension):
    """Says that a client takes tasks, and hears how they come along."""

    identifier = TASKS

    def __init__(self) -> None:
        self.news: list[TaskNews] = []
        self._more = anyio.Event()

    def notifications(self) -> Sequence[NotificationBinding[Any]]:
        return (
            NotificationBinding(
                method="notifications/tasks", params_type=TaskNews, handler=self._hear
            ),
        )

    async def _hear(self, news: TaskNews) -> None:
        self.news.append(news)
        self._more.set()

    async def until(self, status: str) -> TaskNews:
        """Return the first news that a task has this status."""
        while True:
            for news in self.news:
                if news.status == status:
                    return news
            self._more = anyio.Event()
            await self._more.wait()

    def claims(self) -> Sequence[ResultClaim[Any]]:
        return (ResultClaim(result_type="task", model=TaskHandle, resolve=_nobody_resolves),)


async def _nobody_resolves(_handle: TaskHandle, _ctx: ClaimContext) -> NoReturn:
    raise AssertionError("unreachable")


class _TaskParams(RequestParams):
    task_id: str = Field(alias="taskId")
    input_responses: dict[str, Any] | None = Field(alias="inputResponses", default=None)


class _TaskRequest(Request[_TaskParams, str]):
    name_param: ClassVar[str | None] = "taskId"


class _Anything(Result):
    model_config = ConfigDict(extra="allow")


async def call(client: Client, tool: str, **arguments: Any) -> Result:
    """Return what a tool call is answered with: a result or the handle of a task."""
    return await client.session.call_tool(tool, arguments, allow_claimed=True)


async def handed_out(client: Client, tool: str, **arguments: Any) -> TaskHandle:
    """Return the task with which a tool call is answered."""
    handle = await call(client, tool, **arguments)
    assert isinstance(handle, TaskHandle)
    return handle


async def ask(
    client: Client, method: str, task_id: str, responses: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the answer to `tasks/get`, `tasks/update` or `tasks/cancel`."""
    params = _TaskParams(
        taskId=task_id, inputResponses=None if responses is None else dict(responses)
    )
    request = _TaskRequest(method=method, params=params)
    result = await client.session.send_request(request, _Anything)
    return result.model_dump(by_alias=True, exclude={"meta"})
