"""Questions of a run, answered with a key by the person who watches it."""

import math
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import anyio
import click
from anyio.abc import TaskStatus
from rich.console import Console

from concertmaster.cli.options import run_async
from concertmaster.cli.view.formatting import asked, harmless
from concertmaster.cli.view.live import View, open_view
from concertmaster.cli.view.render import plan_markdown
from concertmaster.cli.view.terminal import print_aside
from concertmaster.engine.events import ToolAsked
from concertmaster.errors import UnknownQuestionError
from concertmaster.runs.approvals import digest_to_approve
from concertmaster.runs.service import RunService
from concertmaster.runs.state import RunState
from concertmaster.signals import ending_signals, leave_closed_terminal

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


@dataclass(frozen=True, slots=True)
class Followed:
    """How a run that was watched came to its end."""

    state: RunState
    stopped: bool
    """Whether a person stopped it."""
    ended_by: int = 0
    """The signal because of which it was left before its end, to be gone on with."""


async def follow(
    service: RunService, state: RunState, console: Console, *, drain_seconds: float = 0.0
) -> Followed:
    """Show a run on `console`, and return once nothing more will happen to it.

    If the process is told to end before that, calls under way may take so many seconds more.
    """
    heard = _Heard(service, state.run_id, console, drain_seconds)
    with open_view(console) as view:
        async with anyio.create_task_group() as tasks:
            await tasks.start(heard.heed, tasks.cancel_scope)
            if can_ask(console):
                tasks.start_soon(answer_questions, service, state.run_id, console)
            state = await _watch(service, state, view)
            tasks.cancel_scope.cancel()
    return Followed(state, heard.stopped, 0 if state.still else heard.ended_by)


async def _watch(service: RunService, state: RunState, view: View) -> RunState:
    # As the run's own times, these do not change when the clock of the machine is set.
    offset = time.time() - time.monotonic()
    while not state.still:
        view.show(state, offset + time.monotonic())
        state = await service.wait_for_change(
            state.run_id, seen=state.events, seconds=view.frame_seconds
        )
    view.show(state, offset + time.monotonic())
    return state


class _Heard:
    """What signals have said to the process that watches a run."""

    def __init__(
        self, service: RunService, run_id: str, console: Console, drain_seconds: float
    ) -> None:
        self.stopped = False
        self.ended_by = 0
        self._service = service
        self._run_id = run_id
        self._console = console
        self._drain_seconds = drain_seconds

    async def heed(self, following: anyio.CancelScope, *, task_status: TaskStatus[None]) -> None:
        """Do what signals say, for as long as the run is being followed."""
        try:
            with anyio.open_signal_receiver(*ending_signals()) as signals:
                task_status.started()
                async with anyio.create_task_group() as tasks:
                    async for number in signals:
                        if number == signal.SIGINT:
                            self._tell_to_stop()
                            tasks.start_soon(self._cancel)
                        elif not self.ended_by:
                            self.ended_by = number
                            tasks.start_soon(self._end, following)
        except NotImplementedError:
            # On Windows, where event loops receive no signals, they end the process as usual.
            task_status.started()

    def _tell_to_stop(self) -> None:
        """Have the run cancelled at the first Ctrl-C; at the second, leave it as it is."""
        if self.stopped:
            raise KeyboardInterrupt
        self.stopped = True
        self._tell("Stopping. What is finished stays: ")

    async def _cancel(self) -> None:
        await self._service.cancel(self._run_id, reason="interrupted at the terminal")

    async def _end(self, following: anyio.CancelScope) -> None:
        leave_closed_terminal(self.ended_by)
        self._tell("Letting calls end. To go on: ")
        await self._service.drain(seconds=self._drain_seconds)
        following.cancel()

    def _tell(self, what: str) -> None:
        told = f"{what}concertmaster resume {self._run_id}"
        self._console.print(told, soft_wrap=True)


Begin = Callable[[RunService], Awaitable[RunState]]
"""Has a run begin or go on, and returns where it stands."""

FollowedT = TypeVar("FollowedT", bound=Followed)


def see_through(begin: Begin, work: Callable[[Begin], Awaitable[FollowedT]]) -> FollowedT:
    """Return how a run came to its end that `work` follows, once `begin` has begun it.

    If its plan has to be approved, that is asked at the terminal. Where there is none, or
    nobody answers, the run is left waiting.
    """
    followed = run_async(partial(work, begin))
    while followed.state.status == "needs_approval" and not followed.stopped:
        _show_plan(followed.state)
        if not at_terminal() or (decision := _decision(followed.state)) is None:
            break
        followed = run_async(partial(work, decision))
    return followed


def approval(
    run_id: str, *, by: str, budget_usd: float | None, shown: RunState | None = None
) -> Begin:
    """Return what has a run go on with the plan that was `shown`, or else with what it has."""

    async def approve(service: RunService) -> RunState:
        approved = digest_to_approve(shown or await service.get(run_id))
        return await service.resume(run_id, by=by, budget_usd=budget_usd, approved=approved)

    return approve


def at_terminal() -> bool:
    """Tell whether somebody is there to read a question and to answer it."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def _show_plan(state: RunState) -> None:
    if state.plan is not None:
        print_aside(plan_markdown(state.plan, state.estimate))


def _decision(state: RunState) -> Begin | None:
    """Return what is to be done with a plan, if somebody says so."""
    limit = f"{state.request.limits.budget_usd:g} USD"
    question = f"Carry out this plan, for {limit} at most? (y, n, or another limit in USD)"
    try:
        answer = click.prompt(question, value_proc=_approval_answer, err=True)
    except click.Abort:
        return None
    if answer == "no":
        reason = "its plan was declined"
        return lambda service: service.cancel(state.run_id, reason=reason, declined=True)
    budget_usd = None if answer == "yes" else float(answer)
    return approval(
        state.run_id, by="whoever approved its plan", budget_usd=budget_usd, shown=state
    )


def _approval_answer(said: str) -> str:
    said = said.strip().lower()
    if said in ("y", "yes", "n", "no"):
        return "yes" if said.startswith("y") else "no"
    try:
        usable = 0 < float(said) < math.inf
    except ValueError:
        usable = False
    if not usable:
        raise click.UsageError("Say y, n, or an amount such as 2.5.")
    return said
