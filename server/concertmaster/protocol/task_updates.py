"""Telling clients how their tasks come along, so that they need not ask."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from mcp.server.context import ServerRequestContext
from mcp.server.session import ServerSession
from mcp.server.subscriptions import ListenHandler
from mcp.types import (
    Notification,
    RequestId,
    ResourceUpdatedNotification,
    ServerNotification,
    SubscriptionFilter,
    SubscriptionsAcknowledgedNotification,
    SubscriptionsListenRequestParams,
    SubscriptionsListenResult,
)
from pydantic import TypeAdapter, ValidationError

from concertmaster.errors import RequestError
from concertmaster.protocol.results import request_errors
from concertmaster.protocol.tasks import TaskSource, declares_tasks, tasks_needed

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
