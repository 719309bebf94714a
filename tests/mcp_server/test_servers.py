"""What a client of ours sees of tools that workers have from servers of others."""

import sys
from pathlib import Path

import anyio
import pytest

import foreign_server
from building import worker
from clients import ERAS, connected
from concertmaster.llm.messages import ToolMessage
from concertmaster.tools.mcp.config import StdioEntry
from concertmaster.tools.mcp.pool import open_servers
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


@pytest.mark.parametrize(
    ("tool", "seconds", "said", "failed"),
    [
        ("hang", 2, "foreign.hang did not answer in 2 s", True),
        ("rubbish", 20, "What foreign.rubbish answered makes no sense", True),
        ("flood", 20, "cut after 40,000 of 10,000,000 characters", False),
    ],
)
async def test_a_run_goes_on_whatever_its_server_does(
    tool: str, seconds: float, said: str, failed: bool, tmp_path: Path
) -> None:
    answers = in_turn(
        wants((f"foreign.{tool}", {})), wants(("foreign.echo", {"text": "there"})), "Said."
    )
    with anyio.fail_after(60):
        async with (
            open_servers({"foreign": FOREIGN}, call_seconds=seconds) as servers,
            connected(
                tmp_path, {"worker:clerk": answers}, workers=[CLERK], sources=servers
            ) as connection,
        ):
            reply = await connection.ask("run_worker", worker="clerk", task="Say hello.")
            shown = await connection.ask("get_run", run_id=reply["run_id"])
    assert (reply["status"], shown["answer"]) == ("succeeded", "Said.")
    _, _, first, _, second = connection.llm.requests[-1].messages
    assert isinstance(first, ToolMessage)
    assert isinstance(second, ToolMessage)
    assert said in first.outcomes[0].text
    assert (first.outcomes[0].failed, len(first.outcomes[0].text) < 41_000) == (failed, True)
    assert "\nthere\n" in second.outcomes[0].text


async def test_the_next_worker_has_the_tools_that_its_server_has_by_then(tmp_path: Path) -> None:
    answers = in_turn(
        wants(("foreign.learn", {})), "Learned.", wants(("foreign.learned", {"text": "new"})), "So."
    )
    with anyio.fail_after(60):
        async with (
            open_servers({"foreign": FOREIGN}, call_seconds=20) as servers,
            connected(
                tmp_path, {"worker:clerk": answers}, workers=[CLERK], sources=servers
            ) as connection,
        ):
            for task in ("Learn.", "Use it."):
                reply = await connection.ask("run_worker", worker="clerk", task=task)
                assert reply["status"] == "succeeded"
    before, _, _, after = connection.llm.requests
    names = [{spec.name for spec in request.tools} for request in (before, after)]
    assert names[1] - names[0] == {"foreign.learned"}
    message = after.messages[-1]
    assert isinstance(message, ToolMessage)
    assert "\nnew\n" in message.outcomes[0].text
