"""What the protocol's own conformance suite finds on a server."""

from pathlib import Path

import pytest

from concertmaster.catalog.catalog import builtin_folder
from concertmaster.mcp_server.server import create_server
from concertmaster.runs.jobs import Job, read_jobs
from conformance.server import FixtureServer, serving
from conformance.suite import HERE, failures
from npm import install

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(400),
    pytest.mark.parametrize("revision", ["2025-11-25", "2026-07-28"]),
]

RESUMABLE = "server-sse-polling"
"""Not scored. It wants HTTP streams that can be taken up again, and get_run is there for that."""

SCENARIOS = {"2025-11-25": 33, "2026-07-28": 50}

NEED_NOTHING = {
    "2025-11-25": {
        "server-initialize",
        "ping",
        "tools-list",
        "resources-list",
        "resources-subscribe",
        "resources-unsubscribe",
        "prompts-list",
        "dns-rebinding-protection",
        "server-session-lifecycle",
        "server-sse-multiple-streams",
    },
    "2026-07-28": {
        "tools-list",
        "resources-list",
        "prompts-list",
        "caching",
        "sep-2164-resource-not-found",
        "dns-rebinding-protection",
        "http-header-validation",
        "server-sse-multiple-streams",
        "input-required-result-unsupported-methods",
    },
}
"""Scenarios that say something of a server which has no tools made for them."""


async def test_a_server_with_what_the_suite_asks_for_fails_nothing(
    revision: str, tmp_path: Path
) -> None:
    install(HERE)
    async with serving(tmp_path / "data", FixtureServer) as address:
        failed = await failures(address, revision, tmp_path / "results")
    assert len(failed) == SCENARIOS[revision]
    assert {
        name: problems for name, problems in failed.items() if problems and name != RESUMABLE
    } == {}


async def test_the_server_as_it_is_fails_nothing_that_needs_no_more(
    revision: str, tmp_path: Path
) -> None:
    async def load_jobs() -> dict[str, Job]:
        return dict(read_jobs(builtin_folder("jobs")).jobs)

    install(HERE)
    async with serving(tmp_path / "data", lambda service: create_server(service, load_jobs)) as url:
        failed = await failures(url, revision, tmp_path / "results")
    assert failed.keys() >= NEED_NOTHING[revision]
    assert {name: failed[name] for name in NEED_NOTHING[revision] if failed[name]} == {}
