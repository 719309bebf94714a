"""What a client of ours sees of tools that workers have from servers of others."""

import sys
from pathlib import Path

import anyio
import pytest

import foreign_server
from building import worker
from clients import ERAS, connected
from concertmaster.llm.protocol import ToolMessage
from concertmaster.tools.servers.entries import StdioEntry
from concertmaster.tools.servers.pool import open_servers
from fakes import in_turn, wants

pytestmark = pytest.mark.anyio

FOREIGN = StdioEntry(command=sys.executable, args=(foreign_server.__file__,))
CLERK = worker("clerk", tools=("foreign.*",))


@pytest.mark.parametrize("mode", ERAS)
async def test_a_worker_calls_a_server_and_the_reply_warns_of_what_was_denied(
    mode: str, tmp_path: Path
) -> None:
    calls = wants(("foreign.echo", {"text": "hello"}), ("foreign.commit", {"text": "x"}))
    with anyio.fail_after(60):
        async with (
            open_servers({"foreign": FOREIGN}, call_seconds=20) as servers,
            connected(
                tmp_path,
                {"worker:clerk": in_turn(calls, "Said.")},
                mode=mode,
                workers=[CLERK],
                sources=servers,
            ) as connection,
        ):
            reply = await connection.ask("run_worker", worker="clerk", task="Say hello.")
    assert reply["status"] == "succeeded"
    (warning,) = reply["warnings"]
    assert warning.startswith("Subtask s1: Not called: foreign.commit may change something")
    message = connection.llm.requests[-1].messages[-1]
    assert isinstance(message, ToolMessage)
    assert "\nhello\n" in message.outcomes[0].text
    assert [outcome.failed for outcome in message.outcomes] == [False, True]


async def test_a_run_goes_on_when_its_server_dies_in_the_middle(tmp_path: Path) -> None:
    answers = in_turn(
        wants(("foreign.die", {})), wants(("foreign.echo", {"text": "back"})), "Said."
    )
    with anyio.fail_after(60):
        async with (
            open_servers({"foreign": FOREIGN}, call_seconds=20) as servers,
            connected(
                tmp_path, {"worker:clerk": answers}, workers=[CLERK], sources=servers
            ) as connection,
        ):
            reply = await connection.ask("run_worker", worker="clerk", task="Say hello.")
    assert reply["status"] == "succeeded"
    message = connection.llm.requests[-1].messages[-1]
    assert isinstance(message, ToolMessage)
    assert "\nback\n" in message.outcomes[0].text
