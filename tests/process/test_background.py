"""The real command that works in the background: what outlives what, and who shares it."""

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.types import ResourceUpdatedNotification

from clients import ERAS, structured, watching
from concertmaster.cli.commands.serve import AT_TERMINAL
from outliving import (
    BACKGROUND,
    alive_in,
    cleared,
    held_provider,
    report_in,
    short_folder,
    wait_for_end,
)
from processes import (
    COMMAND,
    RUNNING,
    WORK,
    Json,
    StdioServer,
    environment,
    running,
    runs_in,
    silent_provider,
)

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="signals are not sent there"),
]


@pytest.fixture
def folder() -> Generator[Path]:
    with short_folder() as folder:
        yield folder


@pytest.fixture
def silent() -> Generator[dict[str, str]]:
    with silent_provider() as variables:
        yield {**BACKGROUND, **variables}


def close_stdin(front: StdioServer) -> None:
    front.stdin.close()


def terminate(front: StdioServer) -> None:
    front.process.terminate()


def kill(front: StdioServer) -> None:
    front.process.kill()


def end_as_claude_code_does(front: StdioServer) -> None:
    for number, seconds in ((signal.SIGINT, 0.1), (signal.SIGTERM, 0.4), (signal.SIGKILL, 0)):
        front.process.send_signal(number)
        time.sleep(seconds)


def kill_in_mid_message(front: StdioServer) -> None:
    front.stdin.write('{"jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": {"na')
    front.stdin.flush()
    front.process.kill()


def ended_run(front: StdioServer) -> Json:
    """Return the state of the latest run once it is over."""
    front.call(90, "get_run", {})
    run, *_ = front.answer(90)["structuredContent"]["runs"]
    front.call(91, "get_run", {"run_id": run["run_id"], "wait_seconds": 60})
    return front.answer(91)["structuredContent"]


@pytest.mark.parametrize("settings", [{}, BACKGROUND])
def test_a_server_whose_terminal_has_gone_ends(settings: dict[str, str], folder: Path) -> None:
    terminal, stdin = os.openpty()
    with running(
        COMMAND,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(folder, settings),
        text=False,
    ) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        os.close(stdin)
        os.write(terminal, b'{"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {}}\n')
        assert b'"result"' in server.stdout.readline()
        os.close(terminal)
        assert server.wait(60) == 0
        # What a person at the terminal is told, and nothing else.
        assert server.stderr.read().decode() == f"{AT_TERMINAL}\n"


@pytest.mark.parametrize(
    ("end", "mode"),
    [
        (close_stdin, "auto"),
        (close_stdin, "legacy"),
        (terminate, "legacy"),
        (kill, "auto"),
        (end_as_claude_code_does, "auto"),
        (end_as_claude_code_does, "legacy"),
        (kill_in_mid_message, "legacy"),
    ],
)
def test_a_run_goes_on_when_its_client_quits_and_another_client_gets_the_answer(
    end: Callable[[StdioServer], None], mode: str, folder: Path
) -> None:
    with held_provider() as provider:
        extra = {**BACKGROUND, **provider.settings}
        with StdioServer(folder, extra, era=mode) as front:
            front.start_work(2)
            end(front)
            front.end()
            assert front.stderr.read() == ""
        provider.release()
        with StdioServer(folder, extra, era=mode) as other:
            run = ended_run(other)
    assert (run["status"], run["answer"]) == ("succeeded", "done")


def test_a_client_that_quits_as_it_should_is_no_failure(folder: Path) -> None:
    with StdioServer(folder, BACKGROUND) as front:
        front.send("tools/list", 2)
        front.stdin.close()
        assert len(front.answer(2)["tools"]) == 6
        assert front.end() == 0


def test_clients_share_a_server_and_its_runs(silent: dict[str, str], folder: Path) -> None:
    with (
        StdioServer(folder, silent) as one,
        StdioServer(folder, silent, era="auto") as other,
    ):
        assert report_in(folder).sessions == 2
        one.start_work(2)
        assert report_in(folder).runs == 1
        other.call(2, "get_run", {})
        (run,) = other.answer(2)["structuredContent"]["runs"]
        other.call(3, "cancel_run", {"run_id": run["run_id"]})
        assert other.answer(3)["structuredContent"]["status"] == "cancelled"
        assert one.answer(2)["structuredContent"]["status"] == "cancelled"


def test_clients_that_start_at_once_start_one_server(folder: Path) -> None:
    with ExitStack() as stack:
        fronts = [StdioServer(folder, BACKGROUND) for _ in range(3)]
        for front in fronts:
            stack.callback(front.close)
        for front in fronts:
            stack.enter_context(front)
        assert report_in(folder).sessions == 3


def test_a_server_that_nobody_needs_ends_and_one_with_a_run_does_not(folder: Path) -> None:
    with held_provider() as provider:
        idle = {"CONCERTMASTER_BACKGROUND_IDLE_SECONDS": "0.2"}
        extra = {**BACKGROUND, **provider.settings, **idle}
        with StdioServer(folder, extra) as front:
            front.start_work(2)
            (files,) = alive_in(folder)
        provider.release()
        wait_for_end(files)
    (run,) = anyio.run(runs_in, folder)
    assert run.status == "succeeded"
    assert not files.socket.exists()
    assert sorted(path.suffix for path in files.folder.iterdir()) == [".lock", ".log", ".start"]


def test_a_client_whose_server_dies_is_told_and_the_next_one_gets_another(
    silent: dict[str, str], folder: Path
) -> None:
    with StdioServer(folder, silent) as front:
        front.start_work(2)
        before = report_in(folder).pid
        os.kill(before, signal.SIGKILL)
        assert front.end() == 1
        told = front.stderr.read()
    assert told.startswith("Error: The background server has ended.")
    assert told.count("\n") == 1
    (files,) = {path.stem for path in (folder / "background").glob("*.sock")}
    with StdioServer(folder, silent) as front:
        assert report_in(folder).pid != before
        assert ended_run(front)["status"] == "interrupted"
        assert [path.stem for path in (folder / "background").glob("*.sock")] == [files]


def test_a_client_with_another_key_gets_a_server_of_its_own(
    silent: dict[str, str], folder: Path
) -> None:
    other = {**silent, "CONCERTMASTER_API_KEY": "another-key"}
    with StdioServer(folder, silent) as one, StdioServer(folder, other) as two:
        assert len(alive_in(folder)) == 2
        one.start_work(2)
        two.call(2, "get_run", {})
        (run,) = two.answer(2)["structuredContent"]["runs"]
        assert run["status"] == "running"


def test_without_a_place_for_a_socket_a_port_of_this_machine_serves(tmp_path: Path) -> None:
    with cleared(tmp_path / ("x" * 100)) as folder, held_provider() as provider:
        extra = {**BACKGROUND, **provider.settings}
        with StdioServer(folder, extra) as front:
            front.start_work(2)
            (files,) = alive_in(folder)
            assert files.record().port
            front.process.kill()
        provider.release()
        with StdioServer(folder, extra) as other:
            assert ended_run(other)["status"] == "succeeded"


def test_a_server_keeps_what_it_has_to_itself(folder: Path) -> None:
    with StdioServer(folder, BACKGROUND):
        modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.rglob("*"))}
    assert all(mode in (0o700, 0o600) for mode in modes.values()), modes


def test_where_no_server_can_be_had_a_client_is_served_all_the_same(folder: Path) -> None:
    folder.mkdir()
    (folder / "background").write_text("in the way", encoding="utf-8")
    with StdioServer(folder, BACKGROUND) as front:
        front.send("tools/list", 2)
        assert len(front.answer(2)["tools"]) == 6
        front.stdin.close()
        assert front.end() == 0
        told = front.stderr.read()
    assert told.startswith("Warning: The background server cannot be used.")
    assert str(folder / "background") in told


def test_long_messages_pass_and_a_client_that_does_not_read_holds_up_no_other(
    folder: Path,
) -> None:
    text = "word " * 999_999 + "word"
    with StdioServer(folder, BACKGROUND) as lazy, StdioServer(folder, BACKGROUND) as other:
        for number in range(2, 60):
            lazy.send("tools/list", number)
        other.call(2, "run_worker", {"worker": "summarizer", "task": "x", "context": text})
        assert other.answer(2)["content"][0]["text"].startswith("context has 4,999,999 characters")
        answers = [lazy.answer(number) for number in range(2, 60)]
    assert all(len(answer["tools"]) == 6 for answer in answers)


def client(folder: Path, mode: str, extra: dict[str, str], **options: Any) -> Client:
    parameters = StdioServerParameters(
        command=COMMAND[0], args=COMMAND[1:], env=environment(folder, extra)
    )
    return Client(stdio_client(parameters), mode=mode, **options)


@pytest.mark.parametrize("mode", ERAS)
async def test_a_cancelled_call_cancels_its_run(
    mode: str, silent: dict[str, str], folder: Path
) -> None:
    running = anyio.Event()

    async def note(progress: float, total: float | None, message: str | None) -> None:
        del progress, total
        if message == RUNNING:
            running.set()

    with anyio.fail_after(100):
        async with client(folder, mode, silent) as session:
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


@pytest.mark.parametrize("mode", ERAS)
async def test_a_client_is_told_of_what_another_does(mode: str, folder: Path) -> None:
    told = anyio.Event()

    async def note(message: object) -> None:
        if isinstance(message, ResourceUpdatedNotification):
            told.set()

    with anyio.fail_after(100):
        async with (
            client(folder, mode, BACKGROUND, message_handler=note) as one,
            client(folder, mode, BACKGROUND) as other,
            watching(one, mode, ["runs://recent"]),
        ):
            await other.call_tool("run_worker", {"worker": "analyst", "task": "x"})
            await told.wait()
