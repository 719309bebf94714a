"""What the protocol's own Inspector finds on the real server, through each of its doors."""

import json
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from conformance.suite import HERE, inspect
from npm import install
from processes import http_server

OFFLINE = {"CONCERTMASTER_OFFLINE": "true"}
CODE = "import os\n\n\ndef run(command):\n    os.system(command)\n"
ORDER = json.dumps(
    {
        "task": "Review this code for security problems.",
        "inputs": [{"name": "app.py", "text": CODE}],
    }
)
TOOLS = ["plan_task", "run_orchestration", "run_worker", "get_run", "cancel_run", "resume_run"]

OpenDoor = Callable[[Path], AbstractContextManager[Sequence[str]]]


@contextmanager
def stdio(folder: Path) -> Generator[Sequence[str]]:
    """Yield how the Inspector is told to start a server, which it does for each request."""
    variables = {"CONCERTMASTER_DATA_FOLDER": str(folder), **OFFLINE}
    settings = [part for name, value in variables.items() for part in ("-e", f"{name}={value}")]
    yield [*settings, "--", sys.executable, "-m", "concertmaster", "serve"]


@contextmanager
def http(folder: Path) -> Generator[Sequence[str]]:
    """Yield how the Inspector is told to connect to a server."""
    with http_server(folder, OFFLINE) as server:
        yield ["--transport", "http", "--server-url", server.address]


pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(400),
    pytest.mark.parametrize("open_door", [stdio, http]),
    pytest.mark.parametrize("era", ["legacy", "modern"]),
]


async def test_the_inspector_finds_every_tool_with_a_schema_for_all_clients(
    open_door: OpenDoor, era: str, tmp_path: Path
) -> None:
    install(HERE)
    with open_door(tmp_path / "data") as door:
        listed = await inspect(door, "tools/list", "--strict", "--protocol-era", era, home=tmp_path)
    assert (listed.status, listed.complaints) == (0, "")
    assert [tool["name"] for tool in listed.result["tools"]] == TOOLS


async def test_the_inspector_reads_the_answer_of_the_run_that_it_called_for(
    open_door: OpenDoor, era: str, tmp_path: Path
) -> None:
    install(HERE)
    with open_door(tmp_path / "data") as door:
        called = await inspect(
            door,
            "tools/call",
            *("--tool-name", "run_orchestration", "--protocol-era", era),
            *("--tool-args-json", ORDER),
            home=tmp_path,
        )
        run = called.result["structuredContent"]
        read = await inspect(
            door,
            "resources/read",
            "--uri",
            run["links"]["answer"],
            "--protocol-era",
            era,
            home=tmp_path,
        )
    assert (called.status, read.status) == (0, 0)
    assert run["status"] == "succeeded"
    assert read.result["contents"][0]["text"] == run["answer"]


async def test_calls_of_the_inspector_all_succeed_when_many_come_at_once(
    open_door: OpenDoor, era: str, tmp_path: Path
) -> None:
    install(HERE)
    with open_door(tmp_path / "data") as door:
        loaded = await inspect(
            door,
            "tools/call",
            *("--tool-name", "get_run", "--protocol-era", era),
            *("--load", "--load-requests", "50", "--load-concurrency", "5"),
            home=tmp_path,
        )
    assert loaded.status == 0
    assert (loaded.result["ok"], loaded.result["errorRate"]) == (50, 0)
