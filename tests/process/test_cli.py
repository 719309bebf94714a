"""The command as people start it: a process of its own."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2
import pytest

from processes import running

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "concertmaster"]
HEAVY = ("anthropic", "mcp", "uvicorn", "starlette", "pydantic_monty", "requests", "trafilatura")


def run(
    *arguments: str, env: Mapping[str, str] | None = None, cwd: Path = ROOT
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=cwd,
        env=os.environ | dict(env or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=100,
        check=False,
    )


def imported(stderr: str) -> set[str]:
    """Return the top-level names among the modules that `-X importtime` told of."""
    return {name.split(".")[0] for name in re.findall(r"\| +([\w.]+)$", stderr, re.M)}


def test_the_first_command_of_the_readme_finds_the_faults_of_the_example() -> None:
    result = run("run", "Review this code for problems", "examples/shop/app.py")
    assert result.returncode == 0, result.stderr
    assert "SQL injection" in result.stdout
    assert "examples/shop/app.py" in result.stdout


def test_what_cannot_be_done_without_a_model_has_failed() -> None:
    result = run("run", "What is 2 + 2?")
    assert (result.returncode, result.stdout) == (1, "")
    assert "the offline model, which works by fixed rules, cannot do this" in result.stderr


def test_the_second_command_of_the_readme_finds_what_a_contract_obliges_to() -> None:
    result = run("run", "Analyse this contract: duties, dates, risks", "examples/contract.md")
    assert result.returncode == 0, result.stderr
    assert "shall" in result.stdout


def test_help_imports_neither_a_model_nor_a_protocol_nor_a_terminal() -> None:
    result = run("--help", env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert "workers" in result.stdout
    assert imported(result.stderr) & {*HEAVY, "pydantic", "rich"} == set()


def test_work_offline_imports_neither_a_provider_nor_a_protocol() -> None:
    result = run("worker", "analyst", "Think", env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert "pydantic" in imported(result.stderr)
    assert imported(result.stderr) & set(HEAVY) == set()


@contextmanager
def silent_endpoint() -> Generator[str]:
    """Listen for requests that are never answered."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.skipif(sys.platform == "win32", reason="event loops receive no signals there")
def test_ctrl_c_stops_the_run_and_says_how_to_see_it() -> None:
    with silent_endpoint() as url:
        env = os.environ | {"CONCERTMASTER_BASE_URL": url, "ANTHROPIC_API_KEY": "none"}
        command = [*COMMAND, "worker", "analyst", "Think"]
        with running(command, env=env, stderr=subprocess.PIPE) as process:
            assert process.stderr is not None
            while "analyst: started" not in (line := process.stderr.readline()):
                assert line
            process.send_signal(signal.SIGINT)
            told = process.stderr.read()
            assert process.wait() == 130
    found = re.search(r"concertmaster show (r-\S+)", told)
    assert found is not None, told
    assert "cancelled" in run("show", found.group(1)).stdout


@pytest.mark.skipif(sys.platform == "win32", reason="event loops receive no signals there")
def test_a_job_that_is_told_to_end_says_nothing_of_what_it_would_change(tmp_path: Path) -> None:
    (tmp_path / "use.py").write_text("x = 1\n")
    with silent_endpoint() as url:
        env = os.environ | {"CONCERTMASTER_BASE_URL": url, "ANTHROPIC_API_KEY": "none"}
        job = ("job", "refactor_files", "use.py", "--change", "x", "--diff", "my.diff", "--apply")
        with running(
            [*COMMAND, *job],
            env=env | {"CONCERTMASTER_DRAIN_SECONDS": "0"},
            cwd=tmp_path,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stderr is not None
            while "agreement coder: started" not in (line := process.stderr.readline()):
                assert line
            process.terminate()
            told = process.stderr.read()
            assert process.wait() == 143
    assert re.fullmatch(r"Letting calls end\. To go on: concertmaster resume r-\S+\n", told)
    assert not (tmp_path / "my.diff").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="there is no such device elsewhere")
@pytest.mark.parametrize("arguments", [("runs", "--json"), ("runs", "--help"), ("--version",)])
def test_output_for_which_there_is_no_room_is_told_in_a_sentence(arguments: Sequence[str]) -> None:
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [*COMMAND, *arguments], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert result.returncode == 1
    assert re.fullmatch(r"Error: The output could not be written \(.+\n", result.stderr)


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_what_is_no_text_is_no_task_in_any_locale(errors: str) -> None:
    result = subprocess.run(
        [*COMMAND, "run", "-"],
        input=b"Think \x80",
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONIOENCODING": f"utf-8:{errors}"},
    )
    assert result.returncode == 2
    assert result.stderr == b"Error: What comes from stdin is no text, so it is no task.\n"


def test_a_server_ends_when_its_client_leaves() -> None:
    result = run("serve")
    assert (result.returncode, result.stdout) == (0, "")


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such shell")
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_server_that_begins_without_some_of_its_streams_ends_as_usual(closed: str) -> None:
    line = f'exec "$0" -m concertmaster serve {closed}'
    result = subprocess.run(
        ["/bin/sh", "-c", line, sys.executable],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such shell")
def test_what_is_printed_to_a_closed_stream_lands_in_no_file(tmp_path: Path) -> None:
    line = 'exec "$0" -m concertmaster plan "Review it" "$2" --data-folder "$1" <&- >&- 2>&-'
    example = "examples/shop/app.py"
    command = ["/bin/sh", "-c", line, sys.executable, str(tmp_path), example]
    done = subprocess.run(command, cwd=ROOT, timeout=100, check=False)
    assert done.returncode == 0
    listed = run("runs", "--json", "--data-folder", str(tmp_path))
    assert '"status": "succeeded"' in listed.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="no signals can be sent there")
def test_over_http_the_server_tells_its_address_and_answers_there_until_a_signal_comes() -> None:
    command = [*COMMAND, "serve", "--http", "--port", "0"]
    with running(command, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        found = re.match(r"Serving at (http://127\.0\.0\.1:\d+/mcp)$", process.stderr.readline())
        assert found is not None
        assert httpx2.get(found.group(1), timeout=60).status_code < 500
        process.terminate()
        process.stderr.read()
        assert process.wait() == 128 + signal.SIGTERM


@pytest.mark.skipif(sys.platform == "win32", reason="no signals can be sent there")
def test_a_run_goes_to_the_scripted_endpoint_that_another_command_serves() -> None:
    command = [*COMMAND, "dev", "fake-api", "--port", "0", "--subtasks", "3", "--key", "right"]
    command += ["--value", "sure=true", "--spread", "0.5"]
    with running(command, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        found = re.match(r"Serving at (http://127\.0\.0\.1:\d+) until", process.stderr.readline())
        assert found is not None
        address = found.group(1)
        env = {"CONCERTMASTER_BASE_URL": address, "CONCERTMASTER_API_KEY": "right"}
        result = run("run", "Do it", "--json", env=env)
        totals = httpx2.get(f"{address}/ledger", timeout=60).json()["totals"]
        process.send_signal(signal.SIGINT)
        assert "Interrupted." in process.stderr.read()
        assert process.wait() == 130
    assert result.returncode == 0, result.stderr
    usage = json.loads(result.stdout)["usage"]
    assert totals["requests"] == sum(item["attempts"] for item in usage) == 5
    assert totals["tokens_out"] == sum(item["tokens_out"] for item in usage)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals there")
def test_on_a_terminal_the_run_is_drawn_as_it_goes_and_the_answer_is_rendered() -> None:
    ours, its = os.openpty()
    env = os.environ | {"TERM": "xterm", "COLUMNS": "100", "NO_COLOR": "1"}
    command = [*COMMAND, "run", "Review this code", "examples/shop/app.py"]
    with running(command, cwd=ROOT, env=env, stdout=its, stderr=its) as process:
        os.close(its)
        shown = read_all(ours)
        assert process.wait() == 0, shown
    assert "planning" in shown
    assert re.search(r"✓  s\d  security-reviewer ", shown)
    assert "5 subtasks" in shown
    assert "•" in shown
    assert "\x1b[2K" in shown
    assert not re.search(r"\x1b\[3\d", shown), "there is a colour in it"


def read_all(terminal: int) -> str:
    """Return what was written to a pseudo-terminal until its last writer left."""
    read = bytearray()
    # Linux ends the reading with an error, others with an empty read.
    with suppress(OSError):
        while chunk := os.read(terminal, 65536):
            read += chunk
    os.close(terminal)
    return read.decode("utf-8")
