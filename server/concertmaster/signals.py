"""The signals that tell a process to end."""

import os
import signal
import stat


def ending_signals() -> tuple[signal.Signals, ...]:
    """Return them: with the one that a closed terminal sends, unless nohup keeps that off."""
    hangup = signal.Signals.__members__.get("SIGHUP")
    if hangup is None or signal.getsignal(hangup) is signal.SIG_IGN:
        return (signal.SIGINT, signal.SIGTERM)
    return (signal.SIGINT, signal.SIGTERM, hangup)


def leave_closed_terminal(number: int) -> None:
    """Have nothing read from or written to a terminal that was closed, if a signal tells that.

    Else the first word about how the process ends would be the last thing that it does.
    """
    if number != signal.Signals.__members__.get("SIGHUP"):
        return
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        if stat.S_ISCHR(os.fstat(stream).st_mode):
            os.dup2(nothing, stream)
    os.close(nothing)
