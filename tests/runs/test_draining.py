"""Processes that are to end: what they have begun to pay for ends first, and nothing begins."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from building import setup, worker
from concertmaster.llm.messages import Request
from concertmaster.llm.wrapper import Brake, Braked
from concertmaster.runs.intake import RunPolicy
from concertmaster.runs.orders import RunOrder, WorkerOrder
from concertmaster.runs.service import RunService, open_service
from concertmaster.runs.state import RunState
from concertmaster.store.sqlite.store import open_sqlite
from fakes import USAGE, Answer, FakeLLM, FakeTool, in_turn, plan_json, subtask, wants
from services import Gate, service_in

pytestmark = pytest.mark.anyio

TWO = plan_json(subtask("s1"), subtask("s2", "critic"), subtask("s3", "writer", depends_on=["s1"]))


@asynccontextmanager
async def braked(folder: Path, llm: FakeLLM, *tools: FakeTool) -> AsyncGenerator[RunService]:
    """Open the runs in a folder, as a process has them that can be drained."""
    brake = Brake()
    made = setup(
        Braked(llm, brake),
        workers=[worker("caller", tools=tuple(tool.spec.name for tool in tools))],
        tools=tools,
        policy={"*": "allow"},
    )
    async with (
        open_sqlite(folder) as journal,
        open_service(
            journal=journal, setup=replace(made, brake=brake), policy=RunPolicy()
        ) as service,
    ):
        yield service


def third_has_begun(state: RunState) -> bool:
    return "s3" in state.subtasks and state.subtasks["s3"].status == "running"


async def test_calls_under_way_end_when_a_process_is_to_end_and_none_is_made_again(
    tmp_path: Path,
) -> None:
    first, second = Gate("one"), Gate("two")
    llm = FakeLLM({"planner": TWO, "worker:analyst": first, "worker:critic": second})
    run_id = ""
    async with braked(tmp_path, llm) as service, anyio.create_task_group() as tasks:
        run_id = (await service.start(RunOrder(task="why?"))).run_id
        await first.reached.wait()
        await second.reached.wait()

        async def drain() -> None:
            with anyio.fail_after(60):
                await service.drain(seconds=9)
            drained.set()

        drained = anyio.Event()
        tasks.start_soon(drain)
        await anyio.lowlevel.checkpoint()
        first.opened.set()
        while not third_has_begun(await service.get(run_id)):
            await anyio.lowlevel.checkpoint()
        assert not drained.is_set()
        second.opened.set()
        await drained.wait()
    assert sorted(llm.callers()) == ["planner", "worker:analyst", "worker:critic"]
    rest = FakeLLM({"synthesizer": "because"})
    async with service_in(tmp_path, llm=rest) as service:
        assert (await service.get(run_id)).status == "interrupted"
        await service.resume(run_id, by="test")
        state = await service.wait(run_id, seconds=9)
    assert (state.status, state.answer) == ("succeeded", "because")
    assert rest.callers() == ["worker:writer", "synthesizer"]


async def test_a_call_that_does_not_end_keeps_no_process_from_ending(tmp_path: Path) -> None:
    gate = Gate()
    async with braked(tmp_path, FakeLLM({"worker:analyst": gate})) as service:
        await service.start(WorkerOrder(worker="analyst", task="think"))
        await gate.reached.wait()
        with anyio.fail_after(60):
            await service.drain(seconds=0.01)
            # There is time for another try, and nothing more to wait for.
            gate.opened.set()
            await service.drain(seconds=9)


async def test_whoever_drains_a_process_hears_that_its_calls_have_ended(tmp_path: Path) -> None:
    gate = Gate()
    async with braked(tmp_path, FakeLLM({"worker:analyst": gate})) as service:
        await service.start(WorkerOrder(worker="analyst", task="think"))
        await gate.reached.wait()
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                for _ in range(2):
                    tasks.start_soon(lambda: service.drain(seconds=9))
                await anyio.lowlevel.checkpoint()
                await anyio.lowlevel.checkpoint()
                gate.opened.set()


async def test_a_drain_goes_on_when_its_caller_is_cancelled(tmp_path: Path) -> None:
    gate = Gate("thought")
    async with braked(tmp_path, FakeLLM({"worker:analyst": gate})) as service:
        run_id = (await service.start(WorkerOrder(worker="analyst", task="think"))).run_id
        await gate.reached.wait()
        async with anyio.create_task_group() as tasks:

            async def open_gate() -> None:
                with anyio.CancelScope(shield=True):
                    await anyio.lowlevel.checkpoint()
                    gate.opened.set()

            tasks.start_soon(open_gate)
            tasks.cancel_scope.cancel()
            await service.drain(seconds=9)
        with anyio.fail_after(60):
            assert (await service.wait(run_id, seconds=9)).answer == "thought"


async def test_a_tool_is_not_called_once_the_process_is_to_end(tmp_path: Path) -> None:
    gate = Gate()
    tool = FakeTool("send", lambda _arguments, _scope: "sent", effects=True)
    answers = in_turn(wants(("send", {})), "sent it")

    async def ask(request: Request) -> Answer:
        await gate(request)
        return answers(request)

    llm = FakeLLM({"worker:caller": ask})
    async with braked(tmp_path, llm, tool) as service:
        run_id = (await service.start(WorkerOrder(worker="caller", task="send it"))).run_id
        await gate.reached.wait()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: service.drain(seconds=9))
            await anyio.lowlevel.checkpoint()
            gate.opened.set()
    assert tool.calls == []
    again = FakeLLM({"worker:caller": "sent it"})
    async with braked(tmp_path, again, tool) as service:
        await service.resume(run_id, by="test")
        assert (await service.wait(run_id, seconds=9)).status == "succeeded"
    assert len(tool.calls) == 1


async def test_a_braked_model_is_the_model_that_it_brakes() -> None:
    llm = FakeLLM()
    llm.notice = "no model"
    one = Braked(llm, Brake())
    assert (one.notice, one.model_name("big")) == ("no model", "fake-big")
    assert one.expected("big", USAGE).usd == 0
