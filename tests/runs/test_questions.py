"""Questions of runs to people: seen, answered here and from another process, and asked anew."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import anyio
import pytest

from building import setup, worker
from concertmaster.engine.events import ToolAsked
from concertmaster.engine.request import NOBODY, Limits
from concertmaster.errors import UnknownQuestionError, UnknownRunError
from concertmaster.runs.intake import RunPolicy
from concertmaster.runs.orders import WorkerOrder
from concertmaster.runs.principals import Allowance, Principals
from concertmaster.runs.service import RunService, open_service
from concertmaster.runs.state import RunState
from fakes import FakeLLM, FakeTool, Reply, in_turn, wants
from stores import Store

pytestmark = pytest.mark.anyio

ORDER = WorkerOrder(worker="analyst", task="Commit it.")
LIMITS = Limits(ask_seconds=100)


def commit_tool() -> FakeTool:
    return FakeTool("commit", lambda _given, _scope: "committed", effects=True)


@asynccontextmanager
async def process(
    store: Store, *replies: Reply | str, tool: FakeTool | None = None, limits: Limits = LIMITS
) -> AsyncGenerator[RunService]:
    """Open the runs in a store as one process has them, whose worker says these things."""
    tool = tool or commit_tool()
    made = setup(
        FakeLLM({"worker:analyst": in_turn(*replies)}),
        workers=[worker("analyst", tools=("commit",))],
        tools=[tool],
        policy={"commit": "ask"},
    )
    async with (
        store.open() as journal,
        open_service(journal=journal, setup=made, policy=RunPolicy(limits=limits)) as service,
    ):
        yield service


COMMIT = wants(("commit", {"message": "all of it"}))


async def asked(service: RunService, run_id: str) -> ToolAsked:
    """Return the question of a run, once there is one."""
    with anyio.fail_after(60):
        state = await service.get(run_id)
        while not state.questions:
            state = await service.wait_for_change(run_id, seen=state.events, seconds=60)
    (question,) = state.questions.values()
    return question


async def over(service: RunService, run_id: str) -> RunState:
    with anyio.fail_after(60):
        return await service.wait(run_id, seconds=60)


async def test_a_question_is_in_the_state_of_a_run_until_it_is_answered(store: Store) -> None:
    async with process(store, COMMIT, "done", tool=(tool := commit_tool())) as service:
        run_id = (await service.start(ORDER)).run_id
        question = await asked(service, run_id)
        assert (question.subtask_id, question.worker, question.tool, question.arguments) == (
            "s1",
            "analyst",
            "commit",
            '{"message": "all of it"}',
        )
        state = await service.answer(run_id, question.question_id, allowed=True, by="Ann")
        assert state.questions == {}
        state = await over(service, run_id)
    assert (state.status, state.answer, len(tool.calls)) == ("succeeded", "done", 1)


@pytest.mark.parametrize("allowed", [True, False])
async def test_an_answer_from_another_process_reaches_the_run(store: Store, allowed: bool) -> None:
    tool = commit_tool()
    async with process(store, COMMIT, "done", tool=tool) as driver, process(store) as other:
        run_id = (await driver.start(ORDER)).run_id
        question = await asked(other, run_id)
        await other.answer(run_id, question.question_id, allowed=allowed, by="Ann")
        state = await over(driver, run_id)
        assert state.questions == {}
        assert (await over(other, run_id)).status == "succeeded"
    assert len(tool.calls) == int(allowed)
    assert ["Ann said no" in warning for warning in state.warnings] == [True] * (not allowed)


async def test_of_two_answers_that_which_is_first_in_the_journal_counts(store: Store) -> None:
    tool = commit_tool()
    async with process(store, COMMIT, "done", tool=tool) as driver, process(store) as other:
        run_id = (await driver.start(ORDER)).run_id
        question = await asked(other, run_id)
        await other.answer(run_id, question.question_id, allowed=False, by="Ann")
        with suppress(UnknownQuestionError):
            await driver.answer(run_id, question.question_id, allowed=True, by="Bob")
        await over(driver, run_id)
    assert tool.calls == []


async def test_a_question_is_answered_once(store: Store) -> None:
    async with process(store, COMMIT, "done") as service:
        run_id = (await service.start(ORDER)).run_id
        question = await asked(service, run_id)
        await service.answer(run_id, question.question_id, allowed=False, by="Ann")
        with pytest.raises(UnknownQuestionError) as error:
            await service.answer(run_id, question.question_id, allowed=True, by="Ann")
        await over(service, run_id)
    assert "None is open." in str(error.value)


async def test_an_answer_to_no_question_says_which_are_open(store: Store) -> None:
    async with process(store, COMMIT, "done") as service:
        run_id = (await service.start(ORDER)).run_id
        question = await asked(service, run_id)
        with pytest.raises(UnknownQuestionError) as error:
            await service.answer(run_id, "q-none", allowed=True, by="Ann")
    assert f"Open: {question.question_id}." in str(error.value)


async def test_a_question_that_was_open_when_its_process_ended_is_asked_anew(store: Store) -> None:
    tool = commit_tool()
    async with process(store, COMMIT) as first:
        run_id = (await first.start(ORDER)).run_id
        question = await asked(first, run_id)
    async with process(store, "done", tool=tool) as second:
        state = await second.get(run_id)
        assert (state.status, state.questions) == ("interrupted", {})
        with pytest.raises(UnknownQuestionError):
            await second.answer(run_id, question.question_id, allowed=True, by="Ann")
        await second.resume(run_id, by="test")
        again = await asked(second, run_id)
        assert again.question_id == question.question_id
        await second.answer(run_id, again.question_id, allowed=True, by="Ann")
        assert (await over(second, run_id)).status == "succeeded"
    assert len(tool.calls) == 1


async def test_nobody_answers_and_the_run_goes_on_without_the_call(store: Store) -> None:
    tool, limits = commit_tool(), Limits(ask_seconds=0.01)
    async with process(store, COMMIT, "done", tool=tool, limits=limits) as service:
        state = await over(service, (await service.start(ORDER)).run_id)
    assert (state.status, state.questions, tool.calls) == ("succeeded", {}, [])
    assert ["nobody has answered" in warning for warning in state.warnings] == [True]


async def test_a_run_that_is_stopped_asks_nothing_any_more(store: Store) -> None:
    async with process(store, COMMIT) as service:
        run_id = (await service.start(ORDER)).run_id
        await asked(service, run_id)
        state = await service.cancel(run_id, reason="enough")
    assert (state.status, state.questions) == ("cancelled", {})


async def test_a_question_is_open_to_the_principal_of_its_run_alone(store: Store) -> None:
    principals = Principals(Allowance())
    async with process(store, COMMIT, "done") as service:
        ann, bob = (principals.runs_of(service, name) for name in ("ann", "bob"))
        run_id = (await ann.start(ORDER, origin=NOBODY)).run_id
        question = await asked(service, run_id)
        with pytest.raises(UnknownRunError):
            await bob.answer(run_id, question.question_id, allowed=True, by="Bob")
        await ann.answer(run_id, question.question_id, allowed=False, by="Ann")
        await over(service, run_id)


@pytest.mark.parametrize(("allowed", "status"), [(True, "allowed"), (False, "denied")])
async def test_the_trace_has_each_question_with_its_answer(
    store: Store, allowed: bool, status: str
) -> None:
    async with process(store, COMMIT, "done") as service:
        run_id = (await service.start(ORDER)).run_id
        question = await asked(service, run_id)
        running = (await service.trace(run_id)).spans[-1].spans[-1]
        await service.answer(run_id, question.question_id, allowed=allowed, by="Ann")
        await over(service, run_id)
        subtask = (await service.trace(run_id)).spans[-1]
    (span,) = (span for span in subtask.spans if span.kind == "question")
    assert (running.name, running.status) == ("ask commit", "running")
    assert (span.name, span.status, span.attributes["by"]) == ("ask commit", status, "Ann")
    assert span.attributes["arguments"] == question.arguments
    assert span.ended_at is not None


async def test_the_trace_tells_of_a_question_that_nobody_answered(store: Store) -> None:
    async with process(store, COMMIT, "done", limits=Limits(ask_seconds=0.01)) as service:
        run_id = (await service.start(ORDER)).run_id
        await over(service, run_id)
        (subtask,) = (
            span for span in (await service.trace(run_id)).spans if span.kind == "subtask"
        )
    (span,) = (span for span in subtask.spans if span.kind == "question")
    assert span.status == "unanswered"
