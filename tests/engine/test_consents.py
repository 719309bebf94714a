"""Calls of tools that somebody has to agree to: who is asked when, and what becomes of them."""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence

import anyio
import pytest
from anyio.abc import TaskGroup
from pydantic import JsonValue
from trio.testing import MockClock

from building import RecordedRun, setup, worker
from concertmaster.engine.events import (
    Event,
    RunResumed,
    SubtaskFinished,
    ToolAnswered,
    ToolAsked,
    ToolCalled,
    ToolStarted,
)
from concertmaster.engine.plan.plan import Plan
from concertmaster.engine.request import Limits, RunRequest
from concertmaster.engine.run import Setup
from concertmaster.errors import StoreError
from concertmaster.llm.messages import Reply, Request, ToolMessage
from concertmaster.tools.redaction import Masking
from concertmaster.tools.scope import ToolScope
from fakes import FakeLLM, FakeTool, in_turn, subtask, wants
from patterns import finding, findings

pytestmark = pytest.mark.anyio

VIRTUAL = pytest.mark.parametrize(
    "anyio_backend", [("trio", {"clock": MockClock(autojump_threshold=0)})]
)


def request(*subtasks: str, limits: Limits | None = None) -> RunRequest:
    plan = Plan(subtasks=tuple(subtask(name) for name in subtasks or ("s1",)))
    return RunRequest(task="t", plan=plan, limits=limits or Limits())


def commit_tool() -> FakeTool:
    return FakeTool("commit", lambda given, _: f"committed {given.get('n')}", effects=True)


def asking(
    llm: FakeLLM, *tools: FakeTool, secrets: Sequence[str] = (), voters: Sequence[str] = ()
) -> Setup:
    names = tuple(tool.spec.name for tool in tools)
    return setup(
        llm,
        workers=[worker("analyst", tools=names), *map(worker, voters)],
        tools=tools,
        policy={"*": "ask"},
        masking=Masking(secrets),
    )


def wanting(*replies: Reply) -> FakeLLM:
    return FakeLLM({"worker:analyst": in_turn(*replies, "whole")})


def commit(*numbers: int) -> Reply:
    return wants(*(("commit", {"n": number}) for number in numbers))


Person = Callable[[ToolAsked], bool | None]
"""What somebody says to a question; None, if nothing."""


class AttendedRun(RecordedRun):
    """A run with somebody who answers as soon as a question is written down."""

    def __init__(self, order: RunRequest, person: Person, recorded: Sequence[Event] = ()) -> None:
        super().__init__(order, recorded=recorded)
        self._person = person

    async def _append(self, event: Event, /, *, wait: bool = True) -> None:
        await super()._append(event, wait=wait)
        if isinstance(event, ToolAsked) and (allowed := self._person(event)) is not None:
            self.events.append(said(event, allowed))
            self.run.consents.answer(said(event, allowed))


class SlowlyAttendedRun(RecordedRun):
    """A run with somebody who agrees to everything, and takes 50 s for it."""

    def __init__(self, order: RunRequest, tasks: TaskGroup) -> None:
        super().__init__(order)
        self._start_soon = tasks.start_soon

    async def _append(self, event: Event, /, *, wait: bool = True) -> None:
        await super()._append(event, wait=wait)
        if isinstance(event, ToolAsked):
            self._start_soon(self._agree, event)

    async def _agree(self, question: ToolAsked) -> None:
        await anyio.sleep(50)
        self.run.consents.answer(said(question, allowed=True))


def said(question: ToolAsked, allowed: bool) -> ToolAnswered:
    return ToolAnswered(
        name=f"question/{question.question_id}/1",
        at=1,
        question_id=question.question_id,
        allowed=allowed,
        by="Ann",
    )


def questions(run: RecordedRun) -> list[ToolAsked]:
    return [event for event in run.events if isinstance(event, ToolAsked)]


def outcomes(llm: FakeLLM, turn: int = -1) -> list[str]:
    message = llm.requests[turn].messages[-1]
    assert isinstance(message, ToolMessage)
    return [outcome.text for outcome in message.outcomes]


async def test_a_call_that_somebody_agrees_to_is_made() -> None:
    tool, llm = commit_tool(), wanting(commit(1))
    run = AttendedRun(request(), lambda _: True)
    await run.drive(asking(llm, tool))
    assert outcomes(llm) == ["committed 1"]
    (question,) = questions(run)
    assert (question.subtask_id, question.worker, question.tool) == ("s1", "analyst", "commit")
    assert json.loads(question.arguments) == {"n": 1}


async def test_a_call_that_somebody_denies_is_not_made_and_the_worker_is_told_why() -> None:
    tool, llm = commit_tool(), wanting(commit(1))
    run = AttendedRun(request(), lambda _: False)
    await run.drive(asking(llm, tool))
    assert tool.calls == []
    (told,) = outcomes(llm)
    assert "commit is called only if somebody agrees, and Ann said no." in told
    assert run.first(ToolCalled).denied
    assert not [event for event in run.events if isinstance(event, ToolStarted)]
    assert run.end.status == "succeeded"


async def test_a_yes_is_for_one_call() -> None:
    llm = wanting(commit(1), commit(1))
    answers = iter([True, False])
    run = AttendedRun(request(), lambda _: next(answers))
    await run.drive(asking(llm, tool := commit_tool()))
    assert len({question.question_id for question in questions(run)}) == 2
    assert tool.calls == [{"n": 1}]


async def test_a_no_stands_for_the_rest_of_the_subtask_without_another_question() -> None:
    llm = wanting(commit(1), commit(2))
    run = AttendedRun(request(), lambda _: False)
    await run.drive(asking(llm, tool := commit_tool()))
    assert len(questions(run)) == 1
    assert tool.calls == []
    assert "Ann said no" in outcomes(llm, 1)[0]


async def test_a_no_to_one_of_several_calls_in_a_reply_is_a_no_to_those_after_it() -> None:
    llm = wanting(commit(1, 2, 3))
    answers = iter([True, False])
    run = AttendedRun(request(), lambda _: next(answers))
    await run.drive(asking(llm, tool := commit_tool()))
    assert len(questions(run)) == 2
    assert len(tool.calls) == 1


async def test_a_no_is_for_one_tool_and_for_one_subtask() -> None:
    look = FakeTool("look", lambda _given, _scope: "seen")
    turns = {"do s1": [commit(1), wants(("look", {}))], "do s2": [commit(2)]}

    def script(asked: Request) -> Reply | str:
        mine = next(turns[key] for key in turns if key in str(asked.messages[0]))
        return mine.pop(0) if mine else "whole"

    llm = FakeLLM({"worker:analyst": script})
    run = AttendedRun(
        request("s1", "s2"), lambda asked: asked.subtask_id == "s2" or asked.tool == "look"
    )
    await run.drive(asking(llm, tool := commit_tool(), look))
    assert {(asked.subtask_id, asked.tool) for asked in questions(run)} == {
        ("s1", "commit"),
        ("s1", "look"),
        ("s2", "commit"),
    }
    assert tool.calls == [{"n": 2}]
    assert len(look.calls) == 1


@pytest.mark.parametrize("slots", [1, 8])
async def test_a_subtask_waits_for_its_answer_while_others_go_on(slots: int) -> None:
    plan = Plan(subtasks=(subtask("s1"), subtask("s2", "critic")))
    order = RunRequest(task="t", plan=plan, limits=Limits(slots=slots))
    llm = wanting(commit(1))
    asked = anyio.Event()
    run: RecordedRun

    async def attend(event: Event) -> None:
        if isinstance(event, ToolAsked):
            asked.set()
        if isinstance(event, SubtaskFinished) and event.result.subtask_id == "s2":
            run.run.consents.answer(said(run.first(ToolAsked), allowed=True))

    async def when_asked(_request: Request) -> str:
        await asked.wait()
        await anyio.wait_all_tasks_blocked()
        return "criticised"

    llm.scripts["worker:critic"] = when_asked
    run = RecordedRun(order, before=attend)
    with anyio.fail_after(5):
        await run.drive(asking(llm, tool := commit_tool()))
    assert tool.calls == [{"n": 1}]
    assert {name: result.status for name, result in run.results.items()} == {
        "s1": "succeeded",
        "s2": "succeeded",
    }


def rivals(limits: Limits) -> RunRequest:
    """Return an order for a subtask that asks, and two that do not."""
    others = (subtask("s2", "critic"), subtask("s3", "critic"))
    return RunRequest(task="t", plan=Plan(subtasks=(subtask("s1"), *others)), limits=limits)


def taking(seconds: float) -> Callable[[Request], Awaitable[str]]:
    async def answer(_request: Request) -> str:
        await anyio.sleep(seconds)
        return "whole"

    return answer


@VIRTUAL
async def test_once_it_has_its_answer_a_subtask_waits_for_a_slot_and_its_time_stands_still() -> (
    None
):
    llm = wanting(wants(("commit", {}), ("look", {})), commit(3))
    llm.scripts["worker:critic"] = taking(80)
    looked = FakeTool("look", lambda _given, _scope: "seen", parallel=True)
    limits = Limits(slots=1, ask_seconds=100, subtask_seconds=90)
    async with anyio.create_task_group() as tasks:
        run = SlowlyAttendedRun(rivals(limits), tasks)
        await run.drive(asking(llm, tool := commit_tool(), looked))
        results = {name: result.status for name, result in run.results.items()}
        assert results == dict.fromkeys(("s1", "s2", "s3"), "succeeded")
        assert len(tool.calls) == 2
        finished = [event for event in run.events if isinstance(event, SubtaskFinished)]
        assert [event.result.subtask_id for event in finished] == ["s2", "s3", "s1"]


@VIRTUAL
async def test_a_subtask_that_waits_for_a_slot_until_the_time_of_the_run_is_up_does_not_go_on() -> (
    None
):
    llm = wanting(commit(1))
    llm.scripts["worker:critic"] = taking(1000)
    limits = Limits(slots=1, ask_seconds=10, run_seconds=125, subtask_seconds=200)
    run = AttendedRun(rivals(limits), lambda _: None)
    began = anyio.current_time()
    await run.drive(asking(llm, tool := commit_tool()))
    assert anyio.current_time() - began == pytest.approx(100)
    assert tool.calls == []
    assert {name: result.status for name, result in run.results.items()} == {
        "s1": "failed",
        "s2": "failed",
        "s3": "skipped",
    }


@VIRTUAL
async def test_a_question_that_cannot_be_written_down_ends_the_run_and_waits_for_no_slot() -> None:
    def refuse(_asked: ToolAsked) -> None:
        raise StoreError("The disk is full.")

    llm = wanting(commit(1))
    llm.scripts["worker:critic"] = taking(80)
    run = AttendedRun(rivals(Limits(slots=1)), refuse)
    began = anyio.current_time()
    with pytest.raises(StoreError):
        await run.drive(asking(llm, commit_tool()))
    assert anyio.current_time() == pytest.approx(began)


async def test_an_answer_that_is_not_waited_for_any_more_costs_no_slot_and_makes_none() -> None:
    asked = anyio.Event()
    at_work: set[int] = set()
    most = 0

    async def agree(_request: Request) -> str:
        await asked.wait()
        return "the same"

    async def work(request: Request) -> str:
        nonlocal most
        at_work.add(id(request))
        most = max(most, len(at_work))
        await anyio.wait_all_tasks_blocked()
        at_work.remove(id(request))
        return "whole"

    def person(_asked: ToolAsked) -> None:
        asked.set()

    names = ("analyst", "one", "two")
    vote = {"kind": "vote", "decide": "consensus", "voters": [{"worker": name} for name in names]}
    others = (subtask(f"s{number}", "critic") for number in range(2, 9))
    plan = Plan(subtasks=(subtask("s1", strategy=vote), *others))
    llm = wanting(commit(1))
    llm.scripts |= {"worker:one": agree, "worker:two": agree, "worker:critic": work}
    run = AttendedRun(RunRequest(task="t", plan=plan, limits=Limits(slots=3)), person)
    with anyio.fail_after(5):
        await run.drive(asking(llm, commit_tool(), voters=names[1:]))
    assert most == 3
    assert {result.status for result in run.results.values()} == {"succeeded"}


async def test_somebody_is_asked_while_a_result_is_being_mended_too() -> None:
    plan = Plan(subtasks=(subtask("s1"), subtask("s2", "critic")))
    llm = FakeLLM({"worker:analyst": in_turn("whole", commit(1), "mended")})
    llm.scripts["verifier"] = findings(finding("They differ.", "s1"))
    run = AttendedRun(RunRequest(task="t", plan=plan, verify="mend"), lambda _: True)
    await run.drive(asking(llm, tool := commit_tool()))
    assert tool.calls == [{"n": 1}]
    assert run.results["s1"].text == "mended"


@VIRTUAL
async def test_where_nobody_answers_the_call_is_denied_and_nobody_is_asked_again() -> None:
    look = FakeTool("look", lambda _given, _scope: "seen")
    llm = wanting(commit(1), wants(("look", {})))
    limits = Limits(ask_seconds=90, subtask_seconds=10)
    run = AttendedRun(request(limits=limits), lambda _: None)
    began = anyio.current_time()
    await run.drive(asking(llm, tool := commit_tool(), look))
    assert anyio.current_time() - began == pytest.approx(90)
    assert len(questions(run)) == 1
    assert (tool.calls, look.calls) == ([], [])
    assert "nobody has answered" in outcomes(llm)[0]
    assert [event.by for event in run.events if isinstance(event, ToolAnswered)] == [""]


@VIRTUAL
async def test_the_time_of_a_subtask_stands_still_while_somebody_is_asked() -> None:
    async def slow(_given: Mapping[str, JsonValue], _scope: ToolScope) -> str:
        await anyio.sleep(6)
        return "committed"

    llm = wanting(commit(1), commit(2))
    limits = Limits(ask_seconds=100, subtask_seconds=10)
    async with anyio.create_task_group() as tasks:
        run = SlowlyAttendedRun(request(limits=limits), tasks)
        await run.drive(asking(llm, FakeTool("commit", slow, effects=True)))
        # Asked for twice 50 s, which do not count, and then 10 of twice 6 s are over.
        assert "deadline of 10 s" in run.results["s1"].errors[0]
        assert len([event for event in run.events if isinstance(event, ToolCalled)]) == 1


@VIRTUAL
async def test_two_questions_at_the_same_time_stop_the_time_once() -> None:
    look = FakeTool("look", lambda _given, _scope: "seen")
    llm = wanting(wants(("commit", {}), ("look", {})))
    limits = Limits(ask_seconds=100, subtask_seconds=10)
    async with anyio.create_task_group() as tasks:
        run = SlowlyAttendedRun(request(limits=limits), tasks)
        await run.drive(asking(llm, commit_tool(), look))
        assert run.results["s1"].status == "succeeded"


@VIRTUAL
async def test_an_answer_is_not_waited_for_beyond_half_of_what_the_run_has_left() -> None:
    llm = wanting(commit(1))
    limits = Limits(ask_seconds=1000, run_seconds=100)
    run = AttendedRun(request(limits=limits), lambda _: None)
    began = anyio.current_time()
    await run.drive(asking(llm, commit_tool()))
    assert anyio.current_time() - began < 50
    assert run.end.status == "succeeded"


async def test_the_first_answer_counts() -> None:
    llm = wanting(commit(1))
    run: RecordedRun

    async def attend(event: Event) -> None:
        if isinstance(event, ToolAsked):
            run.run.consents.answer(said(event, allowed=False))
            run.run.consents.answer(said(event, allowed=True))

    run = RecordedRun(request(), before=attend)
    await run.drive(asking(llm, tool := commit_tool()))
    assert tool.calls == []


async def test_an_answer_to_no_open_question_changes_nothing() -> None:
    llm = wanting(commit(1))
    run = AttendedRun(request(), lambda _: True)
    question = ToolAsked(
        name="x",
        at=1,
        step="x",
        question_id="q-none",
        subtask_id="s1",
        worker="analyst",
        tool="commit",
        arguments="{}",
        until=2,
    )
    run.run.consents.answer(said(question, allowed=False))
    await run.drive(asking(llm, tool := commit_tool()))
    assert len(tool.calls) == 1


async def test_secrets_are_not_in_a_question_and_no_value_hides_what_follows_it() -> None:
    given: dict[str, JsonValue] = {
        "message": "see tok-12345678 " + "x" * 5_000,
        "password": "hunter2",
        "to": ["tok-12345678", {"api_key": "abc", "port": 1}],
        "order": "back\u202ewards",
    }
    llm = wanting(wants(("commit", given)))
    run = AttendedRun(request(), lambda _: True)
    await run.drive(asking(llm, tool := commit_tool(), secrets=["tok-12345678"]))
    (question,) = questions(run)
    shown = json.loads(question.arguments)
    assert shown["message"].startswith("see *** xxx")
    assert shown["message"].endswith("more characters]")
    del shown["message"]
    assert shown == {
        "password": "***",
        "to": ["***", {"api_key": "***", "port": 1}],
        "order": "back\ufffdwards",
    }
    assert tool.calls == [given]


async def test_another_tool_or_other_arguments_are_another_question() -> None:
    ids: list[str] = []
    for number in (1, 2):
        run = AttendedRun(request(), lambda _: True)
        await run.drive(asking(wanting(commit(number)), commit_tool()))
        ids += [question.question_id for question in questions(run)]
    assert len(set(ids)) == 2


async def cut_off(person: Person, keep: type[Event]) -> list[Event]:
    """Return the events of a run up to the first of a kind that it was cut off after."""
    run = AttendedRun(request(), person)
    await run.drive(asking(wanting(commit(1)), commit_tool()))
    at = next(n for n, event in enumerate(run.events) if isinstance(event, keep))
    return list(run.events[: at + 1])


async def test_an_answer_from_before_a_restart_is_kept() -> None:
    recorded = await cut_off(lambda _: True, ToolAnswered)
    run = AttendedRun(request(), lambda _: False, recorded)
    await run.drive(asking(wanting(), tool := commit_tool()))
    assert (questions(run), tool.calls) == ([], [{"n": 1}])


async def test_a_question_that_was_open_before_a_restart_is_asked_anew() -> None:
    recorded = await cut_off(lambda _: True, ToolAsked)
    run = AttendedRun(request(), lambda _: True, recorded)
    await run.drive(asking(wanting(), tool := commit_tool()))
    assert [asked.question_id for asked in questions(run)] == [
        event.question_id for event in recorded if isinstance(event, ToolAsked)
    ]
    assert tool.calls == [{"n": 1}]


async def test_a_call_that_was_agreed_to_and_finished_before_a_restart_is_not_asked_about() -> None:
    recorded = await cut_off(lambda _: True, ToolCalled)
    run = AttendedRun(request(), lambda _: False, recorded)
    await run.drive(asking(llm := wanting(), tool := commit_tool()))
    assert (questions(run), tool.calls) == ([], [])
    assert outcomes(llm) == ["committed 1"]


async def test_a_no_from_before_a_restart_stands() -> None:
    recorded = await cut_off(lambda _: False, ToolCalled)
    run = AttendedRun(request(), lambda _: True, recorded)
    await run.drive(asking(wanting(commit(2)), tool := commit_tool()))
    assert (questions(run), tool.calls) == ([], [])


async def test_that_nobody_was_there_before_a_restart_does_not_mean_that_nobody_is_now() -> None:
    tool = commit_tool()
    limits = Limits(ask_seconds=0.01)
    run = AttendedRun(request(limits=limits), lambda _: None)
    await run.drive(asking(wanting(commit(1)), tool))
    at = next(n for n, event in enumerate(run.events) if isinstance(event, ToolCalled))
    resumed = AttendedRun(request(), lambda _: True, run.events[: at + 1])
    await resumed.drive(asking(wanting(commit(2)), tool))
    assert tool.calls == [{"n": 2}]


async def test_work_that_is_done_anew_is_asked_about_anew() -> None:
    tool = commit_tool()
    run = AttendedRun(request(), lambda _: True)
    llm = FakeLLM({"worker:analyst": in_turn(commit(1), "", "")})
    await run.drive(asking(llm, tool))
    assert run.end.status == "failed"
    late = said(questions(run)[0], allowed=True)
    resumed = RunResumed(name="run/resume/2", at=2, epoch=2, by="test")
    recorded = [*run.events, late, resumed, late]
    again = AttendedRun(request(), lambda _: False, recorded)
    await again.drive(asking(wanting(commit(1)), tool))
    assert len(questions(again)) == 1
    assert len(tool.calls) == 1


async def test_nobody_is_asked_before_the_guard_has_let_the_task_pass() -> None:
    wanted = anyio.Event()
    asked_before: list[ToolAsked] = []

    def want(asked: Request) -> Reply | str:
        wanted.set()
        return "whole" if isinstance(asked.messages[-1], ToolMessage) else commit(1)

    async def screen(_request: Request) -> str:
        await wanted.wait()
        await anyio.wait_all_tasks_blocked()
        asked_before.extend(questions(run))
        return '{"allowed": true, "reason": ""}'

    run = AttendedRun(request().model_copy(update={"guard": "critic"}), lambda _: True)
    llm = FakeLLM({"worker:analyst": want, "guard": screen})
    await run.drive(asking(llm, tool := commit_tool()))
    assert asked_before == []
    assert tool.calls == [{"n": 1}]
