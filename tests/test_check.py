"""The runner of all checks, and how the processes of tests end."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import check
from processes import running

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are not sent there")

PAUSE = "import signal; signal.pause()"

SIGNALS = f"""
import os, signal, subprocess, sys
sys.path.insert(0, {str(Path(check.__file__).parent)!r})
import check

check.inherit_usual_signals()
os.kill(os.getpid(), signal.SIGHUP)
show = (
    "import signal; ignored = {{n.name for n in signal.valid_signals()"
    " if signal.getsignal(n) is signal.SIG_IGN}} - {{'SIGPIPE', 'SIGXFSZ'}};"
    " print(ignored, signal.pthread_sigmask(signal.SIG_BLOCK, ()))"
)
subprocess.run([sys.executable, "-c", show], check=True)
"""
"""Shows what a child of a process that ignores and blocks signals would ignore and block."""


def ignore_and_block() -> None:
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGUSR1,))


def test_processes_of_a_runner_started_with_nohup_in_the_background_have_the_usual_signals() -> (
    None
):
    done = subprocess.run(
        [sys.executable, "-c", SIGNALS],
        preexec_fn=ignore_and_block,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("set() set()\n", "", 0)


STUBBORN = """
import signal, subprocess, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
if sys.argv[2:]:
    subprocess.Popen([sys.executable, "-c", sys.argv[2], sys.argv[1]])
else:
    pipe = open(sys.argv[1], "w")
    print("started", file=pipe, flush=True)
signal.pause()
"""
"""Cannot be interrupted, and starts another like it, which keeps a pipe open."""


def test_what_a_check_has_started_ends_with_it_though_it_cannot_be_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "CLEANUP_SECONDS", 0)
    os.mkfifo(tmp_path / "pipe")
    process = check.start([sys.executable, "-c", STUBBORN, tmp_path / "pipe", STUBBORN])
    try:
        with (tmp_path / "pipe").open() as pipe:
            assert pipe.readline() == "started\n"
            check.end(process)
            assert pipe.read() == ""
    finally:
        check.end(process)
    assert process.returncode == -signal.SIGKILL


def test_a_check_that_takes_longer_than_its_limit_is_ended() -> None:
    assert check.run([sys.executable, "-c", PAUSE], seconds=0.1) is None


def test_a_check_that_ends_in_time_has_its_status() -> None:
    assert check.run([sys.executable, "-c", "import sys; sys.exit(3)"], seconds=60) == 3


def test_a_process_is_killed_when_the_assertion_of_a_test_fails() -> None:
    with (
        pytest.raises(AssertionError),
        running([sys.executable, "-c", PAUSE], stdout=subprocess.PIPE) as process,
    ):
        raise AssertionError
    assert process.returncode == -signal.SIGKILL
    assert process.stdout is not None
    assert process.stdout.closed
