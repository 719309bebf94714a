"""Wide runs through the whole product: a real server over stdio, the gate and the role prompts.

Times are those of the endpoint's ledger, from the begin of the first worker's call to the end of
the last one's, over the longest call. Cold is the first run of a new process that has nothing in
its data folder; warm is a later run of the same process.
"""

import os
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

from concertmaster.fake_api.usage import Entry, Ledger
from measure import Figure
from outside import scripted_endpoint

SUBTASK = ("--first-token-seconds", "0.3", "--tokens-per-second", "115", "--reply-tokens", "80")
"""A reply that takes a second."""
CONCURRENT = 10
"""What an endpoint with a hard limit takes at once."""
RUNS = 8
"""How many runs of 50 subtasks it is asked for, one after another."""


@asynccontextmanager
async def server(base_url: str, **settings: object) -> AsyncGenerator[Client]:
    """Yield a client of a new server that has nothing in its data folder."""
    with tempfile.TemporaryDirectory() as folder:
        variables = {
            "base_url": base_url,
            "api_key": "none",
            "data_folder": folder,
            "config": "",
            **settings,
        }
        environment = {
            f"CONCERTMASTER_{name.upper()}": str(text) for name, text in variables.items()
        }
        parameters = StdioServerParameters(
            command=sys.executable,
            args=["-m", "concertmaster", "serve"],
            env={**os.environ, **environment},
            cwd=Path(folder),
        )
        async with Client(stdio_client(parameters)) as client:
            await client.list_tools()
            yield client


def plan(subtasks: int) -> dict[str, Any]:
    """Return a plan of independent subtasks, done by workers in turn."""
    workers = ("analyst", "researcher", "writer", "reviewer")
    return {
        "mode": "static",
        "subtasks": [
            {"id": f"s{number}", "worker": workers[number % 4], "objective": f"Do part {number}."}
            for number in range(subtasks)
        ],
    }


async def orchestrate(client: Client, subtasks: int) -> None:
    """Run a plan of so many subtasks to its end."""
    arguments = {
        "task": "Do every part.",
        "plan": plan(subtasks),
        "max_subtasks": subtasks,
        "wait_seconds": 120,
    }
    result = await client.call_tool("run_orchestration", arguments)
    content = result.structured_content
    assert content is not None, result.content
    assert content["status"] == "succeeded", content


async def ledger(base_url: str, *, after: int = 0) -> list[Entry]:
    """Return what came to the endpoint, without so many requests at the beginning."""
    async with httpx2.AsyncClient(base_url=base_url) as http:
        entries = Ledger.model_validate_json((await http.get("/ledger")).content).entries
    return entries[after:]


def makespan(entries: list[Entry], *, runs: int) -> float:
    """Return how long the workers of `runs` runs took, over the longest call among them."""
    served = sorted((entry for entry in entries if entry.status == 200), key=lambda e: e.began)
    workers = served[: len(served) - runs]
    spans = [(entry.began, entry.ended or entry.began) for entry in workers]
    longest = max(end - began for began, end in spans)
    return (max(end for _, end in spans) - spans[0][0]) / longest


async def wide(base_url: str, subtasks: int, *, runs: int = 1) -> tuple[float, float]:
    """Return the makespans of runs that start together, of a cold process and of a warm one."""
    found: list[float] = []
    limits = {"slots": subtasks, "budget_usd": 100, "most_usd": 100}
    async with server(base_url, **limits) as client:
        for _ in range(2):
            before = len(await ledger(base_url))
            async with anyio.create_task_group() as tasks:
                for _ in range(runs):
                    tasks.start_soon(orchestrate, client, subtasks)
            found.append(makespan(await ledger(base_url, after=before), runs=runs))
    return found[0], found[1]


async def refused(base_url: str) -> float:
    """Return the share of calls that an endpoint with a hard limit refuses, from a cold start."""
    async with server(base_url, slots=50, budget_usd=100, most_usd=100) as client:
        for _ in range(RUNS):
            await orchestrate(client, 50)
    entries = await ledger(base_url)
    return sum(entry.status != 200 for entry in entries) / len(entries)


def wide_figures() -> list[Figure]:
    """Measure fan-outs of 50 and 200, six runs of 8 together, and a provider with a hard limit."""
    figures: list[Figure] = []
    cases = [
        ("50 subtasks", 50, 1, 1.15),
        ("4 runs of 50 subtasks", 50, 4, 1.25),
        ("6 runs of 8 subtasks", 8, 6, 1.3),
    ]
    for name, subtasks, runs, goal in cases:
        with scripted_endpoint(*SUBTASK) as base_url:
            cold, warm = anyio.run(lambda s=subtasks, r=runs: wide(base_url, s, runs=r))
        figures += [
            Figure(f"{name} of a second, over MCP, cold / longest", cold, goal),
            Figure(f"{name} of a second, over MCP, warm / longest", warm, goal),
        ]
    with scripted_endpoint("--concurrent", str(CONCURRENT), *SUBTASK) as base_url:
        share = anyio.run(refused, base_url)
    name = f"calls refused / calls, {CONCURRENT} at once, over MCP from a cold start"
    return [*figures, Figure(name, share, 0.02)]


if __name__ == "__main__":
    for figure in wide_figures():
        print(f"{figure.name}: {figure.value:.3f} (≤ {figure.goal:g})")
