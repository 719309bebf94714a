"""What the command line tells of background servers, and how it ends them."""

import os
import signal
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from concertmaster.background import client as front
from concertmaster.cli.app import cli
from outliving import BACKGROUND, alive_in, report_in, short_folder
from processes import StdioServer, silent_provider


@pytest.fixture
def folder() -> Generator[Path]:
    with short_folder() as folder:
        yield folder


def command(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def test_doctor_shows_a_server_and_stop_ends_it(folder: Path) -> None:
    with silent_provider() as variables:
        extra = {**BACKGROUND, **variables, "CONCERTMASTER_LOG_LEVEL": "info"}
        with StdioServer(folder, extra) as client:
            client.start_work(2)
            (files,) = alive_in(folder)
            told = " ".join(command("doctor", "--data-folder", str(folder)).stdout.split())
            pid = report_in(folder).pid
            assert f"process {pid} since " in told
            assert f"1 client, 1 run under way; log: {files.log}" in told
            assert "ready" in files.log.read_text(encoding="utf-8")
            ended = command("stop", "--data-folder", str(folder))
            assert (ended.exit_code, ended.stdout) == (0, "")
            assert f"Ended process {pid}; 1 run interrupted" in ended.stderr
            assert client.end() == 1
    assert alive_in(folder) == []


def test_without_a_server_there_is_none_to_end(folder: Path) -> None:
    ended = command("stop", "--data-folder", str(folder))
    assert (ended.exit_code, ended.stderr) == (0, "There is no background server.\n")


def test_doctor_says_that_a_server_will_be_started(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = command("doctor", "--data-folder", str(folder)).stdout
    assert "background server" not in told
    monkeypatch.setenv("CONCERTMASTER_BACKGROUND", "true")
    told = command("doctor", "--data-folder", str(folder)).stdout
    assert "none now: the next client over stdio starts one" in told


@pytest.mark.skipif(sys.platform == "win32", reason="processes cannot be stopped there")
def test_a_server_that_does_not_answer_is_told_as_broken(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front, "HANDSHAKE_SECONDS", 0.2)
    with StdioServer(folder, BACKGROUND):
        (files,) = alive_in(folder)
        pid = files.record().pid
        os.kill(pid, signal.SIGSTOP)
        try:
            told = command("doctor", "--data-folder", str(folder))
            ended = command("stop", "--data-folder", str(folder))
        finally:
            os.kill(pid, signal.SIGCONT)
    assert told.exit_code == 1
    assert "background server It does not answer: timed out." in " ".join(told.stdout.split())
    assert ended.exit_code == 1
    assert f"process {pid} cannot be ended" in ended.stderr


def test_over_http_a_background_server_is_refused() -> None:
    refused = command("serve", "--http", "--background")
    assert refused.exit_code == 2
    assert "--background is for stdio" in refused.stderr
