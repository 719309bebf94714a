"""What is measured from outside: CPU of whole processes, time to the first answer."""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import IO

from measure import Figure

HERE = Path(__file__).resolve().parent
ROUNDS = 5
BARE = {"messages.stream": "bare_calls.py", "raw events": "bare_events.py"}
"""Two ways to make bare calls: with the SDK's helper that builds the message, and without."""


@contextlib.contextmanager
def scripted_endpoint(*options: str) -> Generator[str]:
    """Run the scripted endpoint with these options and yield its base URL."""
    command = [sys.executable, "-m", "concertmaster", "dev", "fake-api", "--port", "0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            yield process.stderr.readline().split()[2]
        finally:
            process.terminate()


def _cpu_seconds(script: str, base_url: str) -> float:
    """Return the CPU time that a script says its calls took, after a warm-up of its own."""
    command = [sys.executable, str(HERE / script), base_url]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout)


def run_cpu_figures() -> list[Figure]:
    """Measure runs of 50 worker calls and a synthesis against the same calls made bare."""
    figures: list[Figure] = []
    with scripted_endpoint() as base_url:
        for name, script in BARE.items():
            pairs = [
                (_cpu_seconds("whole_run.py", base_url), _cpu_seconds(script, base_url))
                for _ in range(ROUNDS)
            ]
            ours, bare = (statistics.median(column) for column in zip(*pairs, strict=True))
            figures.append(
                Figure(
                    f"CPU of a run of 51 calls / the same calls bare, {name}",
                    statistics.median(ours / bare for ours, bare in pairs),
                    1.10,
                    detail=f"{ours:.2f} s / {bare:.2f} s for 5 runs",
                )
            )
    return figures


def startup_figures() -> list[Figure]:
    """Measure the time from process start to the answer of tools/list, over stdio."""
    with tempfile.TemporaryDirectory() as folder:
        ours = [sys.executable, "-m", "concertmaster", "serve", "--data-folder", folder]
        small = [sys.executable, str(HERE / "five_lines.py")]
        for warm_up in (ours, small):
            _time_to_tools(warm_up)
        pairs = [(_time_to_tools(ours)[0], _time_to_tools(small)[0]) for _ in range(2 * ROUNDS)]
        _, tools = _time_to_tools(ours)
    ratio = statistics.median(mine / other for mine, other in pairs)
    mine, other = (statistics.median(column) for column in zip(*pairs, strict=True))
    whole = _size(tools)
    for tool in tools:
        tool.pop("outputSchema", None)
    return [
        Figure(
            "start to tools/list / the same of a five-line server",
            ratio,
            1.2,
            detail=f"{mine:.3f} s / {other:.3f} s",
        ),
        Figure("size of tools/list", whole, 16_000, unit="characters"),
        Figure("size of tools/list without output schemas", _size(tools), 8000, unit="characters"),
    ]


def _size(tools: list[dict[str, object]]) -> int:
    return len(json.dumps(tools, separators=(",", ":"), ensure_ascii=False))


def _time_to_tools(command: list[str]) -> tuple[float, list[dict[str, object]]]:
    started = time.perf_counter()
    # As on a user's machine: with compiled modules kept, and no key.
    left_out = ("ANTHROPIC", "PYTHONDONTWRITEBYTECODE")
    environment = {name: text for name, text in os.environ.items() if not name.startswith(left_out)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        tools = open_session(process.stdin, process.stdout)
        elapsed = time.perf_counter() - started
        process.stdin.close()
        process.wait(10)
    return elapsed, tools


def open_session(stdin: IO[str], stdout: IO[str]) -> list[dict[str, object]]:
    """Open a session with a stdio server and return its tools."""
    hello = {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "benchmark", "version": "1"},
    }
    send(stdin, {"id": 1, "method": "initialize", "params": hello})
    stdout.readline()
    send(stdin, {"method": "notifications/initialized"})
    send(stdin, {"id": 2, "method": "tools/list", "params": {}})
    return json.loads(stdout.readline())["result"]["tools"]


def send(stream: IO[str], message: dict[str, object]) -> None:
    """Send a message to a stdio server."""
    stream.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    stream.flush()
