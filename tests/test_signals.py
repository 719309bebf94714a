"""The signals that a process heeds which is told to end."""

import signal
import sys

import pytest

from concertmaster.signals import ending_signals


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such signal")
@pytest.mark.parametrize("ignored", [False, True])
def test_who_was_started_to_outlive_its_terminal_does(ignored: bool) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        assert (signal.SIGHUP in ending_signals()) is not ignored
    finally:
        signal.signal(signal.SIGHUP, before)
