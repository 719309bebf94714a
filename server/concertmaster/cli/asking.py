"""Questions of a run, answered with a key by the person who watches it."""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress

import anyio
from rich.console import Console

from concertmaster.cli.wording import asked, harmless
from concertmaster.engine.record.events import ToolAsked
from concertmaster.errors import UnknownQuestionError
from concertmaster.runs.service import RunService
from concertmaster.runs.state import RunState

_SAID = {b"y": True, b"Y": True, b"n": False, b"N": False}
"""What keys mean."""

if sys.platform == "win32":

    def can_ask(_console: Console) -> bool:
        """Return False: here nobody can be waited for without holding up the run."""
        return False

    @contextmanager
    def _single_keys() -> Generator[None]:
        yield

else:
    import termios
    import tty

    def can_ask(console: Console) -> bool:
        """Tell whether the person who sees the run is also the one at the keyboard."""
        try:
            # Whoever changes a terminal in the background is stopped.
            foreground = os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
        except (OSError, ValueError):
            return False
        return foreground and console.is_terminal and not console.is_dumb_terminal

    @contextmanager
    def _single_keys() -> Generator[None]:
        """Have each key read at once and unseen; what was typed before is no answer."""
        keyboard = sys.stdin.fileno()
        before = termios.tcgetattr(keyboard)
        try:
            tty.setcbreak(keyboard, termios.TCSAFLUSH)
            yield
        finally:
            # The terminal may have been closed.
            with suppress(termios.error):
                termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


async def answer_questions(service: RunService, run_id: str, console: Console) -> None:
    """Put each question of a run to the person at the keyboard, as long as it goes on."""
    state = await service.get(run_id)
    while not state.still:
        question = next(iter(state.questions.values()), None)
        if question is None:
            state = await service.wait_for_change(run_id, seen=state.events, seconds=60)
            continue
        with _single_keys():
            _tell(console, f"{asked(question)}\nAllow this one call? y/n")
            said = await _said(service, state, question)
        if said is not None and not await _answered(service, run_id, question, said):
            said = None
        _tell(console, _OUTCOMES[said])
        state = await service.get(run_id)


_OUTCOMES = {True: "Allowed.", False: "Denied.", None: "Not asked any more."}


async def _answered(service: RunService, run_id: str, question: ToolAsked, said: bool) -> bool:
    """Pass an answer on; tell whether nobody was faster."""
    try:
        await service.answer(
            run_id, question.question_id, allowed=said, by="the person at the terminal"
        )
    except UnknownQuestionError:
        return False
    return True


def _tell(console: Console, text: str) -> None:
    console.print(harmless(text), soft_wrap=True)


async def _said(service: RunService, state: RunState, question: ToolAsked) -> bool | None:
    """Return what the person says; nothing once the question is not open any more."""
    said: bool | None = None
    async with anyio.create_task_group() as tasks:

        async def watch(state: RunState) -> None:
            while question.question_id in state.questions:
                seen = state.events
                state = await service.wait_for_change(state.run_id, seen=seen, seconds=60)
            tasks.cancel_scope.cancel()

        tasks.start_soon(watch, state)
        said = await _answer()
        tasks.cancel_scope.cancel()
    return said


async def _answer() -> bool:
    """Return what the next key says that says anything."""
    keyboard = sys.stdin.fileno()
    while True:
        await anyio.wait_readable(keyboard)
        key = os.read(keyboard, 1)
        if not key:
            # The terminal is gone.
            await anyio.sleep_forever()
        if key in _SAID:
            return _SAID[key]
