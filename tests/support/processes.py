"""The real server as a process, and a model provider that never answers."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal, cast, overload

from anyio import to_thread

from building import setup
from concertmaster.runs.intake import RunPolicy
from concertmaster.runs.service import open_service
from concertmaster.runs.state import RunState
from concertmaster.store.sqlite.store import open_sqlite
from fakes import FakeLLM

Json = dict[str, Any]

COMMAND = [sys.executable, "-m", "concertmaster", "serve"]
RUNNING = "0 of 1 subtasks ended; summarizer is running"
WORK = {"worker": "summarizer", "task": "Summarize it.", "wait_seconds": 600}
"""Arguments of a worker's run that lasts, if the provider never answers."""


@overload
@contextmanager
def running(
    command: Sequence[str | Path], *, text: Literal[True] = ..., **options: Any
) -> Generator[subprocess.Popen[str]]: ...


@overload
@contextmanager
def running(
    command: Sequence[str | Path], *, text: Literal[False], **options: Any
) -> Generator[subprocess.Popen[bytes]]: ...


@contextmanager
def running(
    command: Sequence[str | Path], *, text: bool = True, **options: Any
) -> Generator[subprocess.Popen[Any]]:
    """Run a process that is killed on every way out of the block.

    `Popen` as a context manager waits for the process instead. If an assertion fails or the
    time of a test is up, that wait has no end.
    """
    encoding = "utf-8" if text else None
    process = subprocess.Popen(command, encoding=encoding, **options)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            # What was not written yet has no reader any more.
            with suppress(BrokenPipeError):
                if stream is not None:
                    stream.close()


async def wait(process: subprocess.Popen[Any], seconds: float = 60) -> int:
    """Return the exit status of a process; fail if it does not end in time.

    The thread that waits is abandoned if the test is cancelled, so that the test can end.
    """
    return await to_thread.run_sync(process.wait, seconds, abandon_on_cancel=True)


async def output(process: subprocess.Popen[str], seconds: float = 120) -> str:
    """Return what a process printed; fail if it does not end in time."""

    def communicate() -> str:
        printed, _ = process.communicate(timeout=seconds)
        return printed

    return await to_thread.run_sync(communicate, abandon_on_cancel=True)


@contextmanager
def silent_provider() -> Generator[dict[str, str]]:
    """Yield the environment that points to a provider that takes requests and never answers.

    A server that is told to end does not wait for it.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        yield {
            "CONCERTMASTER_API_KEY": "no-key",
            "CONCERTMASTER_BASE_URL": f"http://127.0.0.1:{port}",
            "CONCERTMASTER_DRAIN_SECONDS": "0",
        }


def environment(folder: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a server that keeps its runs in `folder`."""
    return {**os.environ, "CONCERTMASTER_DATA_FOLDER": str(folder), **(extra or {})}


MODERN: Json = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}
"""What each request carries since 2026-07-28; before that, a connection begins with it."""


class StdioServer:
    """A server that is spoken to line by line, in the way of an era of the protocol.

    In the era `unopened`, opening the connection is left to the test.
    """

    def __init__(
        self, folder: Path, extra: Mapping[str, str] | None = None, *, era: str = "legacy"
    ) -> None:
        self._era = era
        self._meta = {} if era in ("legacy", "unopened") else MODERN
        command = running(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(folder, extra),
        )
        self._stack = ExitStack()
        self.process = self._stack.enter_context(command)
        self.stdin = cast("IO[str]", self.process.stdin)
        self.stdout = cast("IO[str]", self.process.stdout)
        self.stderr = cast("IO[str]", self.process.stderr)

    def __enter__(self) -> "StdioServer":
        try:
            return self._begin()
        except BaseException:
            self.close()
            raise

    def _begin(self) -> "StdioServer":
        if self._era == "unopened":
            return self
        if self._meta:
            self.send("server/discover", 1)
            self.answer(1)
            return self
        client = {"name": "test", "version": "1"}
        self.send(
            "initialize",
            1,
            protocolVersion="2025-11-25",
            capabilities={},
            clientInfo=client,
        )
        self.answer(1)
        self.send("notifications/initialized")
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the server. Needed only where it is not used as a context manager."""
        self._stack.close()

    def send(self, method: str, number: int | None = None, /, **params: Any) -> None:
        """Send a request, or without a number a notification."""
        message: Json = {"jsonrpc": "2.0", "method": method, "params": params}
        if number is not None:
            message["id"] = number
            params["_meta"] = {**self._meta, **params.get("_meta", {})}
        self.stdin.write(f"{json.dumps(message)}\n")
        self.stdin.flush()

    def call(self, number: int, tool: str, arguments: Mapping[str, Any]) -> None:
        """Send a tool call that wants progress."""
        meta = {"progressToken": number}
        self.send("tools/call", number, name=tool, arguments=dict(arguments), _meta=meta)

    def until(self, wanted: Callable[[Json], bool]) -> Json:
        """Return the first message that is `wanted`; every line has to be one."""
        for line in self.stdout:
            message: Json = json.loads(line)
            if wanted(message):
                return message
        raise AssertionError(self.stderr.read())

    def answer(self, number: int) -> Json:
        """Return the result of a request."""
        return self.until(lambda message: message.get("id") == number)["result"]

    def start_work(self, number: int) -> None:
        """Call a worker, and return when it is at work."""
        self.call(number, "run_worker", WORK)
        self.until(lambda message: message.get("params", {}).get("message") == RUNNING)

    def end(self) -> int:
        """Return the exit status of a server that was told to end."""
        return self.process.wait(timeout=60)


class HttpServer:
    """A server at an address of this machine."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        address = re.search(r"http://\S+", cast("Any", process.stderr).readline())
        assert address is not None
        self.address = address.group()

    async def end(self) -> int:
        """Return the exit status of a server that was told to end."""
        return await wait(self.process)


@contextmanager
def http_server(folder: Path, extra: Mapping[str, str] | None = None) -> Generator[HttpServer]:
    """Serve on a free port, with a provider that never answers unless `extra` names one."""
    with (
        silent_provider() as variables,
        running(
            [*COMMAND, "--http", "--port", "0"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(folder, variables if extra is None else extra),
        ) as process,
    ):
        yield HttpServer(process)


async def runs_in(folder: Path) -> list[RunState]:
    """Return the runs that are kept in `folder`."""
    async with (
        open_sqlite(folder) as journal,
        open_service(journal=journal, setup=setup(FakeLLM()), policy=RunPolicy()) as service,
    ):
        return list((await service.recent()).states)
