"""Draws the picture in the README from a real run: `uv run docs/picture.py`."""

import copy
import io
import re
import tempfile
import time
from pathlib import Path

import anyio
from rich.console import Console

from concertmaster.cli.bootstrap import open_runs
from concertmaster.cli.view.live import render
from concertmaster.runs.orders import RunOrder
from concertmaster.runs.state import RunState
from concertmaster.settings.load import Settings

ROOT = Path(__file__).resolve().parent.parent


async def moments() -> list[tuple[RunState, float]]:
    """Return the run after each of its events, with the time."""
    seen: list[tuple[RunState, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        loaded = Settings.load({"offline": True, "data_folder": Path(folder)})
        async with open_runs(loaded, roots=(ROOT / "examples",)) as service:
            order = RunOrder(task="Review this code for problems", inputs=("shop/app.py",))
            state = await service.start(order)
            while not state.over:
                seen.append((copy.deepcopy(state), time.time()))
                state = await service.wait_for_change(state.run_id, seen=state.events, seconds=10)
    return seen


def main() -> None:
    """Write the moment at which two workers have ended and the others are at work."""
    seen = anyio.run(moments)
    state, now = next(moment for moment in seen if moment[0].ended_subtasks == 2)
    console = Console(record=True, width=100, force_terminal=True, file=io.StringIO())
    console.print(render(state, now))
    drawing = console.export_svg(title="concertmaster run")
    # The fonts would be fetched from elsewhere; any monospaced one does.
    drawing = re.sub(r"@font-face \{.*?\}", "", drawing, flags=re.DOTALL)
    Path(__file__).with_name("run.svg").write_text(drawing, encoding="utf-8")


main()
