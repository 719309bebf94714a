"""The servers of a process: each started when first needed, shared by all, ended with it."""

import importlib
import math
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup
from pydantic import JsonValue

from concertmaster.errors import ToolCallError
from concertmaster.llm.messages import ToolSpec
from concertmaster.tools.images import Illustrated
from concertmaster.tools.mcp.config import ITSELF, HttpEntry, StdioEntry
from concertmaster.tools.scope import ToolScope

if TYPE_CHECKING:
    from concertmaster.tools.mcp.connection import About, Answer, Connection


CONNECT_SECONDS = 30
"""How long a server may take to start, which may mean to install it first."""

AGAIN_SECONDS = 30
"""How long a server that could not be used is not tried again."""


class _Life:
    """A server from its start to its end."""

    def __init__(self) -> None:
        self.settled = anyio.Event()
        """Whether it is known if it can be used."""
        self.connection: Connection | None = None
        self.problem = ""
        """Why there is no connection."""
        self._again_at = math.inf

    @property
    def over(self) -> bool:
        """Tell whether whoever needs the server is to start it anew."""
        if self.connection is not None:
            return self.connection.over
        return anyio.current_time() >= self._again_at

    def begin(self, connection: "Connection") -> None:
        """Let it be used."""
        self.connection = connection
        self.settled.set()

    def fail(self, problem: str) -> None:
        """Tell all who wait for it that it cannot be used."""
        self.problem = problem
        self._again_at = anyio.current_time() + AGAIN_SECONDS
        self.settled.set()


class Server:
    """A server and its tools. It is started when they are asked for, and again if it has died."""

    def __init__(
        self,
        name: str,
        entry: StdioEntry | HttpEntry,
        *,
        tasks: TaskGroup,
        call_seconds: float,
        connect_seconds: float,
    ) -> None:
        self._name = name
        self._entry = entry
        self._tasks = tasks
        self._call_seconds = call_seconds
        self._connect_seconds = connect_seconds
        self._life: _Life | None = None

    async def about(self) -> "About":
        """Return what the server says of itself.

        Raises:
            ToolCallError: it cannot be used.
        """
        return (await self._connection()).about

    async def tools(self) -> "Sequence[ServerTool]":
        """Return the tools that it has now.

        Raises:
            ToolCallError: it cannot be used.
        """
        connection = await self._connection()
        try:
            with anyio.move_on_after(self._call_seconds):
                return [ServerTool(spec, self) for spec in await connection.specs(self._name)]
        except ToolCallError as exc:
            raise ToolCallError(self._unusable(str(exc))) from exc
        raise ToolCallError(
            self._unusable(f"no list of its tools came in {self._call_seconds:g} s")
        )

    async def call(self, tool: str, arguments: Mapping[str, JsonValue]) -> "Answer":
        """Return what one of its tools answers.

        Raises:
            ToolCallError: it cannot be used, or does not answer.
        """
        connection = await self._connection()
        with anyio.move_on_after(self._call_seconds):
            return await connection.call(self._name, tool, arguments)
        raise ToolCallError(
            f"{self._name}.{tool} did not answer in {self._call_seconds:g} s. What it has done by "
            "then is not known."
        )

    async def _connection(self) -> "Connection":
        life = self._life
        if life is None or life.over:
            life = self._life = _Life()
            self._tasks.start_soon(self._live, life)
        await life.settled.wait()
        if life.connection is None:
            raise ToolCallError(life.problem)
        return life.connection

    async def _live(self, life: _Life) -> None:
        if self._entry.is_this_program:
            life.fail(self._unusable(ITSELF))
            return
        client = "concertmaster.tools.mcp.connection"
        open_connection = (
            await to_thread.run_sync(importlib.import_module, client)
        ).open_connection
        with anyio.move_on_after(self._connect_seconds) as scope:
            try:
                async with open_connection(self._name, self._entry) as connection:
                    scope.deadline = math.inf
                    life.begin(connection)
                    await connection.unused()
            except ToolCallError as exc:
                life.fail(self._unusable(str(exc)))
        if scope.cancelled_caught:
            life.fail(self._unusable(f"it did not answer in {self._connect_seconds:g} s"))

    def _unusable(self, why: str) -> str:
        return f"The MCP server {self._name!r} cannot be used: {why}."


class ServerTool:
    """A tool of a server."""

    def __init__(self, spec: ToolSpec, server: Server) -> None:
        self._server = server
        self.spec = spec

    async def call(self, arguments: Mapping[str, JsonValue], scope: ToolScope, /) -> Illustrated:
        """Return what the tool answers, as data, with the images that the worker can be shown.

        Raises:
            ToolCallError: it answers that it has failed, or does not answer.
        """
        answer = await self._server.call(self.spec.name.partition(".")[2], arguments)
        said = scope.images.illustrated(answer.parts, failed=answer.failed)
        text = scope.long_results.fenced(self.spec.name, said.text)
        if answer.failed:
            raise ToolCallError(text)
        return replace(said, text=text)


@asynccontextmanager
async def open_servers(
    entries: Mapping[str, StdioEntry | HttpEntry],
    *,
    call_seconds: float,
    connect_seconds: float = CONNECT_SECONDS,
) -> AsyncGenerator[Mapping[str, Server]]:
    """Have servers at hand, by name. Those that were started by then are ended at the end."""
    async with anyio.create_task_group() as tasks:
        yield {
            name: Server(
                name,
                entry,
                tasks=tasks,
                call_seconds=call_seconds,
                connect_seconds=connect_seconds,
            )
            for name, entry in entries.items()
        }
        tasks.cancel_scope.cancel()
