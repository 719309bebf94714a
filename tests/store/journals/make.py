"""Prints a journal as this version of Concertmaster writes it, to be kept as version-N.sql.

It has a run that is done, one that was cut off in its second subtask, and a plan. The result
of their first subtasks is long. Run it with `python -m tests.store.journals.make` from the
root, with `tests/support` on the path.
"""

import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import anyio
import anyio.lowlevel

from concertmaster.runs.orders import Order, PlanOrder, RunOrder
from concertmaster.runs.service import RunService
from concertmaster.tools.inputs import InlineInput
from fakes import plan_json, subtask
from services import Gate, service_in
from stores import LONG_RESULT

INPUTS = (InlineInput(name="a.txt", text="ALPHA"),)
PLAN = plan_json(subtask("s1", inputs=["a.txt"]), subtask("s2", "critic", depends_on=["s1"]))


async def finish(service: RunService, order: Order) -> str:
    """Return the id of a run that is over."""
    run_id = (await service.start(order)).run_id
    await service.wait(run_id, seconds=60)
    return run_id


async def make(folder: Path) -> dict[str, str]:
    """Write a journal, and return the names for its run ids."""
    order = RunOrder(task="why?", inputs=INPUTS)
    said = {"planner": PLAN, "worker:analyst": LONG_RESULT}
    async with service_in(folder, {**said, "synthesizer": "because"}) as service:
        done = await finish(service, order)
        planned = await finish(service, PlanOrder(task="why?", inputs=INPUTS))
    gate = Gate()
    async with service_in(folder, {**said, "worker:critic": gate}) as service:
        cut_off = (await service.start(order)).run_id
        await gate.reached.wait()
        while (await service.get(cut_off)).status != "running":
            await anyio.lowlevel.checkpoint()
    return {done: "r-done", planned: "r-planned", cut_off: "r-cut-off"}


def main() -> None:
    """Print the journal as SQL."""
    with tempfile.TemporaryDirectory() as folder:
        names = anyio.run(make, Path(folder))
        with closing(sqlite3.connect(Path(folder) / "runs.db")) as connection:
            text = "\n".join(connection.iterdump())
    for run_id, name in names.items():
        text = text.replace(run_id, name)
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    main()
