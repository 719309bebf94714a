"""Clients that are told what has changed, and a worker that changes it when it may."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
from mcp import Client
from mcp.types import (
    ResourceUpdatedNotification,
    SubscriptionFilter,
    SubscriptionsAcknowledgedNotification,
    SubscriptionsListenRequest,
    SubscriptionsListenRequestParams,
    SubscriptionsListenResult,
)

from concertmaster.llm.messages import Request


class Held:
    """A worker that answers once it may."""

    def __init__(self) -> None:
        self.asked = anyio.Event()
        self.may_answer = anyio.Event()

    async def __call__(self, _: Request) -> str:
        self.asked.set()
        await self.may_answer.wait()
        return "done"


class Heard:
    """What a client is told has changed, and what the server has said that it will tell."""

    def __init__(self) -> None:
        self.agreed = anyio.Event()
        self.agreement: dict[str, Any] = {}
        self.uris: list[str] = []
        self._more = anyio.Event()

    async def handle(self, message: Any) -> None:
        if isinstance(message, SubscriptionsAcknowledgedNotification):
            self.agreement = message.params.notifications.model_dump(exclude_none=True)
            self.agreed.set()
        elif isinstance(message, ResourceUpdatedNotification):
            self.note(message.params.uri)

    def note(self, uri: str) -> None:
        self.uris.append(uri)
        self._more.set()

    async def until(self, uri: str) -> None:
        while uri not in self.uris:
            self._more = anyio.Event()
            await self._more.wait()


async def listen(client: Client, wanted: Mapping[str, Any]) -> None:
    """Listen for as long as the server lets."""
    asked = SubscriptionFilter.model_validate(wanted)
    params = SubscriptionsListenRequestParams(notifications=asked)
    request = SubscriptionsListenRequest(params=params)
    await client.session.send_request(request, SubscriptionsListenResult)


@asynccontextmanager
async def listening(client: Client, heard: Heard, **wanted: Any) -> AsyncGenerator[dict[str, Any]]:
    """Listen; yields what the server says that it will tell."""
    async with anyio.create_task_group() as group:
        group.start_soon(listen, client, wanted)
        await heard.agreed.wait()
        yield heard.agreement
        group.cancel_scope.cancel()
