"""A run watched from its start to its end: its questions answered, or stopped with Ctrl-C."""

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


@dataclass(frozen=True, slots=True)
class Followed:
    """How a run that was watched came to its end."""

    state: RunState
    stopped: bool
    """Whether a person stopped it."""


async def follow(service: RunService, state: RunState, console: Console) -> Followed:
    """Show a run on `console`, and return once nothing more will happen to it."""
    stopped = anyio.Event()
    with open_view(console) as view:
        async with anyio.create_task_group() as tasks:
            await tasks.start(_stop_on_signal, service, state.run_id, stopped, console)
            if can_ask(console):
                tasks.start_soon(answer_questions, service, state.run_id, console)
            state = await _watch(service, state, view)
            tasks.cancel_scope.cancel()
    return Followed(state, stopped.is_set())


async def _watch(service: RunService, state: RunState, view: View) -> RunState:
    while not state.still:
        view.show(state, time.time())
        state = await service.wait_for_change(
            state.run_id, seen=state.events, seconds=view.frame_seconds
        )
    view.show(state, time.time())
    return state


async def _stop_on_signal(
    service: RunService,
    run_id: str,
    stopped: anyio.Event,
    console: Console,
    *,
    task_status: TaskStatus[None],
) -> None:
    """Cancel the run at the first Ctrl-C; at the second, leave it as it is."""

    async def cancel() -> None:
        await service.cancel(run_id, reason="interrupted at the terminal")

    try:
        with anyio.open_signal_receiver(signal.SIGINT) as signals:
            task_status.started()
            async with anyio.create_task_group() as tasks:
                async for _ in signals:
                    if stopped.is_set():
                        raise KeyboardInterrupt
                    stopped.set()
                    told = f"Stopping. What is finished stays: concertmaster resume {run_id}"
                    console.print(told, soft_wrap=True)
                    tasks.start_soon(cancel)
    except NotImplementedError:
        # On Windows, where event loops receive no signals, Ctrl-C ends the process as usual.
        task_status.started()
