"""A run watched from its start to its end: its questions answered, or stopped with Ctrl-C.

A process that is told to end, or whose terminal is closed, lets calls under way end first.
"""

import signal
import time
from dataclasses import dataclass

import anyio
from anyio.abc import TaskStatus
from rich.console import Console

from concertmaster.cli.asking import answer_questions, can_ask
from concertmaster.cli.live import View, open_view
from concertmaster.runs.service import RunService
from concertmaster.runs.state import RunState
from concertmaster.signals import ending_signals, leave_closed_terminal


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
