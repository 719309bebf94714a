"""Servers of others that the real command has started, and how they end with it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

import foreign_server
from processes import StdioServer, silent_provider

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="event loops receive no signals there"
)

HEADER = "name: clerk\ndescription: Keeps.\nmcpServers: [foreign]"


@contextmanager
def at_work(folder: Path, *arguments: str) -> Generator[StdioServer]:
    """Have a worker at work that has tools of a server, which notes its process."""
    (folder / "workers").mkdir()
    text = f"---\n{HEADER}\n---\nKeep.\n"
    (folder / "workers" / "clerk.md").write_text(text, encoding="utf-8")
    entry = {
        "command": sys.executable,
        "args": [foreign_server.__file__, *arguments],
        "env": {"PIDS": str(folder / "pids")},
    }
    with silent_provider() as variables:
        extra = {
            "CONCERTMASTER_MCP_SERVERS": json.dumps({"foreign": entry}),
            "CONCERTMASTER_WORKER_FOLDERS": str(folder / "workers"),
        }
        with StdioServer(folder / "data", variables | extra) as server:
            work = {"worker": "clerk", "task": "Keep it.", "wait_seconds": 600}
            server.call(2, "run_worker", work)
            running = "0 of 1 subtasks ended; clerk is running"
            server.until(lambda message: message.get("params", {}).get("message") == running)
            while not (folder / "pids").exists():
                server.call(3, "get_run", {})
                server.answer(3)
            try:
                yield server
            finally:
                if is_alive(folder):
                    os.kill(process_id(folder), signal.SIGKILL)


def process_id(folder: Path) -> int:
    return int((folder / "pids").read_text(encoding="utf-8"))


def is_alive(folder: Path) -> bool:
    try:
        os.kill(process_id(folder), 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("arguments", [(), ("--stubborn",)], ids=["usual", "stubborn"])
def test_a_signal_ends_the_servers_too(arguments: tuple[str, ...], tmp_path: Path) -> None:
    with at_work(tmp_path, *arguments) as server:
        assert is_alive(tmp_path)
        server.process.send_signal(signal.SIGTERM)
        assert server.end() == 128 + signal.SIGTERM
        assert not is_alive(tmp_path)


def test_what_a_process_has_started_ends_with_it_though_it_is_stuck(tmp_path: Path) -> None:
    program = f"""
import pathlib, signal, subprocess, sys
from concertmaster.mcp_server.transports import stdio as serving

serving.LAST_SECONDS = 0
command = [sys.executable, "-c", "import time; time.sleep(60)"]
started = subprocess.Popen(command, start_new_session=True)
pathlib.Path({str(tmp_path / "pids")!r}).write_text(str(started.pid))
serving.Ending(0).hurry()
signal.pause()
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=30, check=False).returncode == 0
    assert not is_alive(tmp_path)


def test_a_client_that_leaves_ends_the_servers_too(tmp_path: Path) -> None:
    with at_work(tmp_path) as server:
        server.stdin.close()
        assert server.end() == 0
        assert not is_alive(tmp_path)
