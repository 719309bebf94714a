"""The real command over stdio: conversations, cancellation, and every way to end."""

import signal
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

from clients import ERAS, structured, text_of
from outliving import held_provider
from processes import (
    COMMAND,
    MODERN,
    RUNNING,
    WORK,
    StdioServer,
    environment,
    runs_in,
    silent_provider,
)

pytestmark = pytest.mark.anyio

CODE = 'import os\n\n\ndef run(command):\n    os.system("sh -c " + command)\n'


@pytest.fixture
def silent() -> Generator[dict[str, str]]:
    """Return the environment that points to a provider that never answers."""
    with silent_provider() as variables:
        yield variables


def client(folder: Path, mode: str, extra: dict[str, str] | None = None) -> Client:
    parameters = StdioServerParameters(
        command=COMMAND[0], args=COMMAND[1:], env=environment(folder, extra)
    )
    return Client(stdio_client(parameters), mode=mode)


@pytest.mark.parametrize("mode", ERAS)
async def test_a_task_is_done_without_a_key(mode: str, tmp_path: Path) -> None:
    messages: list[str] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        del progress, total
        messages.append(message or "")

    with anyio.fail_after(100):
        async with client(tmp_path / "data", mode) as session:
            tools = (await session.list_tools()).tools
            result = await session.call_tool(
                "run_orchestration",
                {
                    "task": "Review this code for security problems.",
                    "inputs": [{"name": "app.py", "text": CODE}],
                },
                progress_callback=note,
            )
            run_id = structured(result)["run_id"]
            trace = await session.read_resource(f"runs://{run_id}/trace")
    assert len(tools) == 6
    assert structured(result)["status"] == "succeeded"
    assert "app.py" in structured(result)["answer"]
    assert structured(result)["notice"] in text_of(result)
    # What happens within the pause between two notifications may be in none of them.
    assert messages
    assert trace.contents


@pytest.mark.parametrize("mode", ERAS)
async def test_a_cancelled_call_cancels_its_run(
    mode: str, silent: dict[str, str], tmp_path: Path
) -> None:
    running = anyio.Event()

    async def note(progress: float, total: float | None, message: str | None) -> None:
        del progress, total
        if message == RUNNING:
            running.set()

    with anyio.fail_after(100):
        async with client(tmp_path / "data", mode, silent) as session:
            async with anyio.create_task_group() as tasks:

                async def work() -> None:
                    await session.call_tool("run_worker", WORK, progress_callback=note)

                tasks.start_soon(work)
                await running.wait()
                tasks.cancel_scope.cancel()
            (run,) = structured(await session.call_tool("get_run", {}))["runs"]
            waiting = {"run_id": run["run_id"], "wait_seconds": 30}
            ended = structured(await session.call_tool("get_run", waiting))
    assert ended["status"] == "cancelled"


def close_stdin(server: StdioServer) -> None:
    server.stdin.close()


def terminate(server: StdioServer) -> None:
    server.process.send_signal(signal.SIGTERM)


def interrupt(server: StdioServer) -> None:
    server.process.send_signal(signal.SIGINT)


def hang_up(server: StdioServer) -> None:
    server.process.send_signal(signal.SIGHUP)


def interrupt_and_terminate(server: StdioServer) -> None:
    server.process.send_signal(signal.SIGINT)
    time.sleep(0.1)
    server.process.send_signal(signal.SIGTERM)


def vanish(server: StdioServer) -> None:
    server.stdout.close()
    server.stdin.close()


def stop_reading(server: StdioServer) -> None:
    server.stdout.close()
    server.send("tools/list", 3)


def stop_in_the_middle_of_a_line(server: StdioServer) -> None:
    server.stdin.write('{"jsonrpc": "2.0", "method": ')
    server.stdin.close()


@pytest.mark.skipif(sys.platform == "win32", reason="signals are not sent there")
@pytest.mark.parametrize(
    ("end", "status"),
    [
        (close_stdin, 0),
        (vanish, 0),
        (stop_reading, 0),
        (stop_in_the_middle_of_a_line, 0),
        (hang_up, 129),
        (terminate, 143),
        (interrupt, 130),
        (interrupt_and_terminate, 130),
    ],
)
@pytest.mark.parametrize("mode", ERAS)
async def test_a_server_with_work_under_way_ends_and_leaves_the_run_resumable(
    end: Callable[[StdioServer], None],
    status: int,
    mode: str,
    silent: dict[str, str],
    tmp_path: Path,
) -> None:
    with StdioServer(tmp_path, silent, era=mode) as server:
        server.start_work(2)
        end(server)
        assert server.end() == status
        assert server.stderr.read() == ""
    (run,) = await runs_in(tmp_path)
    assert run.status == "interrupted"
    assert run.cancel_requested is None


@pytest.mark.skipif(sys.platform == "win32", reason="there is no nohup")
def test_a_server_that_is_to_outlast_its_terminal_does(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        server = StdioServer(tmp_path)
    finally:
        signal.signal(signal.SIGHUP, before)
    with server:
        hang_up(server)
        server.send("ping", 2)
        server.answer(2)


def kill(server: StdioServer) -> None:
    server.process.kill()


def interrupt_terminate_and_kill(server: StdioServer) -> None:
    """End a server as Claude Code does, which does not wait for long."""
    interrupt_and_terminate(server)
    time.sleep(0.4)
    server.process.kill()


@pytest.mark.skipif(sys.platform == "win32", reason="signals are not sent there")
@pytest.mark.parametrize("end", [kill, interrupt_terminate_and_kill])
@pytest.mark.parametrize("mode", ERAS)
async def test_a_server_that_is_killed_has_written_down_what_it_did(
    end: Callable[[StdioServer], None], mode: str, silent: dict[str, str], tmp_path: Path
) -> None:
    with StdioServer(tmp_path, silent, era=mode) as server:
        server.start_work(2)
        end(server)
        server.end()
    (run,) = await runs_in(tmp_path)
    assert run.status == "interrupted"
    assert run.request.task == WORK["task"]
    assert list(run.subtasks) == ["s1"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals are not sent there")
def test_a_server_whose_client_reads_nothing_ends_all_the_same(tmp_path: Path) -> None:
    with StdioServer(tmp_path) as server:
        for number in range(2, 100):
            server.send("tools/list", number)
        server.answer(2)
        terminate(server)
        assert server.end() == 143


@pytest.mark.parametrize("mode", ERAS)
def test_a_run_goes_on_while_its_client_reads_nothing(mode: str, tmp_path: Path) -> None:
    with (
        held_provider() as provider,
        StdioServer(tmp_path, provider.settings, era=mode) as server,
        StdioServer(tmp_path) as other,
    ):
        server.start_work(2)
        for number in range(3, 100):
            server.send("tools/list", number)
        other.call(2, "get_run", {})
        (run,) = other.answer(2)["structuredContent"]["runs"]
        provider.release()
        other.call(3, "get_run", {"run_id": run["run_id"], "wait_seconds": 30})
        assert other.answer(3)["structuredContent"]["status"] == "succeeded"
        close_stdin(server)
        assert server.end() == 0


@pytest.mark.parametrize("mode", ERAS)
def test_a_client_that_vanishes_is_no_failure(mode: str, tmp_path: Path) -> None:
    with StdioServer(tmp_path, era=mode) as server:
        server.stdout.close()
        server.send("tools/list", 2)
        assert server.end() == 0
        assert "Traceback" not in server.stderr.read()


@pytest.mark.parametrize("mode", ERAS)
def test_a_cancellation_of_an_answered_call_is_ignored(mode: str, tmp_path: Path) -> None:
    with StdioServer(tmp_path, era=mode) as server:
        server.call(2, "get_run", {})
        assert server.answer(2)["structuredContent"]["runs"] == []
        server.send("notifications/cancelled", requestId=2, reason="done with it")
        server.call(3, "get_run", {})
        assert not server.answer(3).get("isError", False)


@pytest.mark.parametrize("line", ["garbage", '{"jsonrpc": "2.0"', "[" * 100_000, "\ufffd\0"])
def test_a_line_that_cannot_be_parsed_is_answered_and_those_after_it_too(
    line: str, tmp_path: Path
) -> None:
    with StdioServer(tmp_path) as server:
        server.stdin.write(f"{line}\n\n")
        server.send("ping", 2)
        error = server.until(bool)
        assert (error["id"], error["error"]["code"]) == (None, -32700)
        assert server.until(bool)["id"] == 2


def test_half_a_character_in_a_call_is_no_reason_to_leave_it_unanswered(tmp_path: Path) -> None:
    with StdioServer(tmp_path) as server:
        server.call(2, "get_run", {"run_id": "r-\ud800"})
        assert "No run 'r-\ufffd'" in server.answer(2)["content"][0]["text"]


def test_two_servers_share_their_runs(silent: dict[str, str], tmp_path: Path) -> None:
    with StdioServer(tmp_path, silent) as one, StdioServer(tmp_path, silent) as other:
        one.start_work(2)
        other.call(2, "get_run", {})
        (run,) = other.answer(2)["structuredContent"]["runs"]
        other.call(3, "cancel_run", {"run_id": run["run_id"]})
        assert other.answer(3)["structuredContent"]["status"] == "cancelled"
        reply: dict[str, Any] = one.answer(2)["structuredContent"]
        assert reply["status"] == "cancelled"
        assert reply["reasons"] == ["The run was cancelled: cancel_run was called."]


@pytest.mark.parametrize("depth", [250, 50_000])
def test_a_request_that_is_nested_too_deeply_is_refused_by_its_id(
    depth: int, tmp_path: Path
) -> None:
    nested = "[" * depth + "]" * depth
    deep = f'{{"jsonrpc": "2.0", "id": 7, "method": "x", "params": {{"a": {nested}}}}}'
    with StdioServer(tmp_path) as server:
        server.stdin.write(f"{deep}\n")
        server.stdin.flush()
        refusal = server.until(lambda message: message.get("id") == 7)
        server.send("tools/list", 8)
        assert server.answer(8)["tools"]
    assert refusal["error"]["code"] == -32700
    assert "nested too deeply" in refusal["error"]["message"]


def initialize(server: StdioServer, number: int) -> None:
    client = {"name": "test", "version": "1"}
    hello: dict[str, Any] = {"protocolVersion": "2025-11-25", "capabilities": {}}
    server.send("initialize", number, clientInfo=client, **hello)


def test_a_client_may_initialize_when_it_has_only_asked_what_the_server_can_do(
    tmp_path: Path,
) -> None:
    with StdioServer(tmp_path, era="unopened") as server:
        server.send("server/discover", 1, _meta=MODERN)
        server.send("notifications/cancelled", requestId=1)
        server.send("server/discover", 2, _meta=MODERN)
        initialize(server, 3)
        # All that it hears of the first is nothing or an answer.
        discovered = server.until(lambda message: message["id"] != 1)
        assert discovered["id"] == 2
        assert "2026-07-28" in discovered["result"]["supportedVersions"]
        assert server.answer(3)["protocolVersion"] == "2025-11-25"
        server.send("notifications/initialized")
        server.send("tools/list", 4)
        assert len(server.answer(4)["tools"]) == 6
        server.send("tools/call", 5, name="get_run", arguments={})
        assert server.answer(5)["structuredContent"]["runs"] == []


def test_a_client_may_not_initialize_after_other_requests(tmp_path: Path) -> None:
    with StdioServer(tmp_path, era="auto") as server:
        server.send("tools/list", 2)
        assert server.answer(2)["tools"]
        initialize(server, 3)
        refusal = server.until(lambda message: message.get("id") == 3)
        assert refusal["error"]["code"] == -32022
        server.send("tools/list", 4)
        assert server.answer(4)["tools"]
