"""The reference server that has everything, by the makers of the protocol; it is no Python."""

import os
import re
import socket
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from anyio.streams.text import TextReceiveStream

from concertmaster.tools.mcp.config import HttpEntry, StdioEntry
from npm import NODE, install

HERE = Path(__file__).parent
PROGRAM = HERE / "node_modules/@modelcontextprotocol/server-everything/dist/index.js"
STDIO = StdioEntry(command=NODE, args=(str(PROGRAM),))


@asynccontextmanager
async def over_http() -> AsyncGenerator[HttpEntry]:
    """Run it as a server for others, and yield how it is reached."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    async with await anyio.open_process(
        [NODE, str(PROGRAM), "streamableHttp"],
        env={**os.environ, "PORT": str(port)},
        stdout=subprocess.DEVNULL,
    ) as process:
        assert process.stderr is not None
        try:
            said = ""
            async for text in TextReceiveStream(process.stderr):
                said += text
                if re.search(r"listening on port \d+", said):
                    break
            yield HttpEntry(url=f"http://127.0.0.1:{port}/mcp")
        finally:
            process.kill()


def ready() -> None:
    """Have it installed."""
    install(HERE)
