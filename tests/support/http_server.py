"""An MCP server of others over HTTP on this machine, built with the SDK."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import uvicorn
from mcp.server.mcpserver import MCPServer
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send


async def add(first: int, second: int) -> int:
    """Add two numbers."""
    return first + second


class Locked:
    """An application that is answered by only with a key."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._key = f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (b"authorization", self._key) not in scope["headers"]:
            await PlainTextResponse("no key", status_code=401)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


@asynccontextmanager
async def serve(*, key: str, port: int = 0) -> AsyncGenerator[int]:
    """Serve the tool `add` to those who have the key; yield the port."""
    server = MCPServer("calculator", version="3", log_level="ERROR")
    server.add_tool(add)
    app = Locked(server.streamable_http_app(host="127.0.0.1"), key)
    config = uvicorn.Config(
        app, port=port, log_config=None, access_log=False, timeout_graceful_shutdown=1
    )
    runner = uvicorn.Server(config)
    async with anyio.create_task_group() as tasks:
        socket = config.bind_socket()
        tasks.start_soon(runner.serve, [socket])
        while not runner.started:
            await anyio.lowlevel.checkpoint()
        yield socket.getsockname()[1]
        runner.should_exit = True
