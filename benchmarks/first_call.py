"""What passes before a process's first model call leaves, and after its last reply has come.

Whole processes against the scripted endpoint, which answers at once: a stdio server that its client
leaves alone for a while before it calls, and a command line that plans, works and exits.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial

import anyio
from anyio import to_thread

from concertmaster.fake_api import ServedApi, serve_fake_api
from measure import Figure
from outside import open_session, send

COMMAND = [sys.executable, "-m", "concertmaster"]
ROUNDS = 5
IDLE_SECONDS = 2
FROM_CALL = 0.05
"""Goal for the first request after a call; seconds, as the others."""
FROM_START = 0.7
TO_EXIT = 0.1


def environment(api: ServedApi, folder: str) -> dict[str, str]:
    """Return the variables of a process with the endpoint as its provider."""
    left_out = ("ANTHROPIC", "PYTHONDONTWRITEBYTECODE")
    kept = {name: text for name, text in os.environ.items() if not name.startswith(left_out)}
    return kept | {
        "CONCERTMASTER_API_KEY": "none",
        "CONCERTMASTER_BASE_URL": api.address,
        "CONCERTMASTER_DATA_FOLDER": folder,
    }


def call_when_idle(variables: dict[str, str]) -> float:
    """Start a server, list its tools, wait, and call a worker; return when it was called."""
    command = [*COMMAND, "serve"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=variables, text=True
    ) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            open_session(process.stdin, process.stdout)
            time.sleep(IDLE_SECONDS)
            called = time.monotonic()
            arguments = {"worker": "analyst", "task": "Why?", "wait_seconds": 30}
            call = {"name": "run_worker", "arguments": arguments}
            send(process.stdin, {"id": 3, "method": "tools/call", "params": call})
            process.stdout.readline()
            process.stdin.close()
            process.wait(10)
        finally:
            process.kill()
    return called


def run_from_shell(variables: dict[str, str]) -> tuple[float, float]:
    """Run a task from the command line; return when it was started and when it had ended."""
    began = time.monotonic()
    command = [*COMMAND, "run", "Why?"]
    subprocess.run(command, check=True, capture_output=True, env=variables, timeout=60)
    return began, time.monotonic()


Measure = Callable[[ServedApi, dict[str, str]], Awaitable[list[float]]]


async def measured(measure: Measure) -> list[float]:
    """Return the medians of what is measured in processes that have nothing but the endpoint."""
    found: list[list[float]] = []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            async with serve_fake_api() as api:
                found.append(await measure(api, environment(api, folder)))
    return [statistics.median(column) for column in zip(*found, strict=True)]


async def first_call(api: ServedApi, variables: dict[str, str]) -> list[float]:
    """Return the seconds from a call to the first request."""
    offset = time.monotonic() - api.now()
    called = await to_thread.run_sync(call_when_idle, variables)
    return [api.ledger.entries[0].began + offset - called]


async def command_line(api: ServedApi, variables: dict[str, str]) -> list[float]:
    """Return the seconds from start to the first request, and from the last reply to the exit."""
    offset = time.monotonic() - api.now()
    began, ended = await to_thread.run_sync(run_from_shell, variables)
    last = max(entry.sent or 0.0 for entry in api.ledger.entries)
    return [api.ledger.entries[0].began + offset - began, ended - last - offset]


def first_call_figures() -> list[Figure]:
    """Measure both."""
    (from_call,) = anyio.run(partial(measured, first_call))
    from_start, to_exit = anyio.run(partial(measured, command_line))
    return [
        Figure(
            f"call of a server idle for {IDLE_SECONDS} s to its first request",
            1000 * from_call,
            1000 * FROM_CALL,
            unit="ms",
        ),
        Figure("start of `run` to its first request", 1000 * from_start, 1000 * FROM_START, "ms"),
        Figure("last reply to the exit of `run`", 1000 * to_exit, 1000 * TO_EXIT, unit="ms"),
    ]


if __name__ == "__main__":
    for figure in first_call_figures():
        print(f"{figure.name}: {figure.value:.0f} ms (≤ {figure.goal:g})")
