"""Calls of tools that the person at a client has to agree to, in both eras of the protocol."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest
from mcp.client.context import ClientRequestContext
from mcp.types import ElicitRequestFormParams, ElicitRequestParams, ElicitResult

from building import worker
from clients import ERAS, Connection, connected, structured
from concertmaster.engine.events import Event, PlanAccepted, RunStarted, ToolAsked
from concertmaster.engine.plan.plan import Plan
from concertmaster.engine.request import Limits, RunRequest
from concertmaster.mcp_server.client_profiles import profile_named
from concertmaster.mcp_server.results import run_result, size_read
from concertmaster.mcp_server.tools import TOOLS
from concertmaster.runs.intake import RunPolicy
from concertmaster.runs.state import fold
from fakes import FakeTool, in_turn, subtask, wants
from taking_tasks import TakesTasks, ask, handed_out

pytestmark = pytest.mark.anyio

both_eras = pytest.mark.parametrize("mode", ERAS)

WORK = {"worker": "analyst", "task": "Commit it."}


def says(action: Literal["accept", "decline", "cancel"], **content: Any) -> ElicitResult:
    return ElicitResult(action=action, content=content or None)


class Person:
    """Somebody at a client, who answers in turn, or never once there is no answer left."""

    def __init__(self, *answers: ElicitResult) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []
        self.reached = anyio.Event()
        self.let_go = anyio.Event()

    async def __call__(
        self, context: ClientRequestContext, params: ElicitRequestParams
    ) -> ElicitResult:
        del context
        assert isinstance(params, ElicitRequestFormParams)
        self.asked.append(params.message)
        self.reached.set()
        if self._answers:
            return self._answers.pop(0)
        try:
            await anyio.sleep_forever()
        finally:
            self.let_go.set()
        raise AssertionError("unreachable")


@asynccontextmanager
async def committing(
    folder: Path, tool: FakeTool, *replies: Any, ask_seconds: float = 20, **options: Any
) -> AsyncGenerator[Connection]:
    """Connect to a server whose worker wants to call a tool that is asked about."""
    script = in_turn(*(replies or (wants(("commit", {"message": "all"})), "done")))
    async with connected(
        folder,
        {"worker:analyst": script},
        workers=[worker("analyst", tools=("commit",))],
        tools=[tool],
        tool_policy={"commit": "ask"},
        policy=RunPolicy(limits=Limits(ask_seconds=ask_seconds)),
        **options,
    ) as connection:
        yield connection


@pytest.fixture
def tool() -> FakeTool:
    return FakeTool("commit", lambda _given, _scope: "committed", effects=True)


@both_eras
async def test_a_call_is_made_once_the_person_at_the_client_agrees(
    mode: str, tmp_path: Path, tool: FakeTool
) -> None:
    person = Person(says("accept", allow=True))
    async with committing(tmp_path, tool, mode=mode, elicitation_callback=person) as connection:
        reply = await connection.ask("run_worker", **WORK)
        recent = await connection.service.recent()
    assert (reply["status"], reply["answer"], len(tool.calls)) == ("succeeded", "done", 1)
    assert person.asked == [
        "The worker analyst (subtask s1) wants to call the tool commit with "
        '{"message": "all"}. Allow this one call?'
    ]
    assert [state.run_id for state in recent.states] == [reply["run_id"]]


@both_eras
@pytest.mark.parametrize("said", [says("decline"), says("accept", allow=False)])
async def test_a_call_is_not_made_that_the_person_at_the_client_denies(
    mode: str, said: ElicitResult, tmp_path: Path, tool: FakeTool
) -> None:
    person = Person(said)
    async with committing(tmp_path, tool, mode=mode, elicitation_callback=person) as connection:
        reply = await connection.ask("run_worker", **WORK)
    assert (reply["status"], tool.calls) == ("succeeded", [])
    assert ["the client's user said no" in warning for warning in reply["warnings"]] == [True]


@both_eras
async def test_each_call_of_a_tool_is_asked_about(
    mode: str, tmp_path: Path, tool: FakeTool
) -> None:
    commits = [wants(("commit", {"n": number})) for number in (1, 2)]
    person = Person(says("accept", allow=True), says("accept", allow=True))
    async with committing(
        tmp_path, tool, *commits, "done", mode=mode, elicitation_callback=person
    ) as connection:
        await connection.ask("run_worker", **WORK)
    assert [('"n": 1' in text, '"n": 2' in text) for text in person.asked] == [
        (True, False),
        (False, True),
    ]
    assert len(tool.calls) == 2


@both_eras
@pytest.mark.parametrize("said", [says("cancel"), says("accept", allow="perhaps")])
async def test_a_form_that_is_closed_or_filled_in_wrongly_leaves_the_question_open(
    mode: str, said: ElicitResult, tmp_path: Path, tool: FakeTool
) -> None:
    person = Person(said)
    async with (
        committing(tmp_path, tool, mode=mode, elicitation_callback=person) as connection,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(agree, connection, person)
        reply = await connection.ask("run_worker", **WORK)
        assert (reply["status"], len(tool.calls), len(person.asked)) == ("succeeded", 1, 1)


async def agree(connection: Connection, person: Person) -> None:
    """Agree elsewhere, once a person has been asked."""
    await person.reached.wait()
    asked = await question_of(connection)
    (state,) = (await connection.service.recent()).states
    await connection.service.answer(state.run_id, asked.question_id, allowed=True, by="Ann")


async def question_of(connection: Connection) -> ToolAsked:
    """Return the question of the one run that there is, once there is one."""
    with anyio.fail_after(60):
        while True:
            for state in (await connection.service.recent()).states:
                for asked in state.questions.values():
                    return asked
            await anyio.lowlevel.checkpoint()


async def test_a_question_that_is_answered_elsewhere_is_taken_back(
    tmp_path: Path, tool: FakeTool
) -> None:
    person = Person()
    async with (
        committing(tmp_path, tool, mode="legacy", elicitation_callback=person) as connection,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(agree, connection, person)
        reply = await connection.ask("run_worker", **WORK)
        assert (reply["status"], len(tool.calls)) == ("succeeded", 1)
        with anyio.fail_after(60):
            await person.let_go.wait()


async def test_a_call_is_not_over_while_the_person_is_being_asked(
    tmp_path: Path, tool: FakeTool
) -> None:
    person = Person()
    async with committing(
        tmp_path, tool, mode="legacy", elicitation_callback=person, ask_seconds=1.5
    ) as connection:
        reply = await connection.ask("run_worker", **WORK, wait_seconds=1)
        assert "questions" not in reply
        with anyio.fail_after(60):
            await person.let_go.wait()


@both_eras
async def test_a_client_that_cannot_ask_is_told_what_waits_and_who_can_answer(
    mode: str, tmp_path: Path, tool: FakeTool
) -> None:
    async with committing(tmp_path, tool, mode=mode) as connection:
        reply = await connection.ask("run_worker", **WORK, wait_seconds=0)
        asked = await question_of(connection)
        run_id = reply["run_id"]
        result = await connection.client.call_tool("get_run", {"run_id": run_id})
        reply = await connection.ask("get_run", run_id=run_id)
        await connection.service.answer(run_id, asked.question_id, allowed=True, by="Ann")
    assert reply["questions"] == [
        {
            "question_id": asked.question_id,
            "subtask_id": "s1",
            "worker": "analyst",
            "tool": "commit",
            "arguments": '{"message": "all"}',
        }
    ]
    assert f"concertmaster answer {run_id} {asked.question_id} yes (or no)" in reply["next"]
    assert "that person is not you" in reply["next"]
    assert reply["progress"].endswith("; analyst waits for leave to call commit")
    line = f'- {asked.question_id}: s1 analyst calling commit with {{"message": "all"}}'
    assert line in getattr(result.content[0], "text", "")


def test_no_tool_of_ours_answers_a_question() -> None:
    assert {tool.name for tool in TOOLS} == {
        "plan_task",
        "run_orchestration",
        "run_worker",
        "get_run",
        "cancel_run",
        "resume_run",
    }
    assert not [tool.name for tool in TOOLS if "question" in str(tool.parameters)]


@pytest.mark.parametrize(
    ("response", "calls"),
    [
        ({"action": "accept", "content": {"allow": True}}, 1),
        ({"action": "decline"}, 0),
    ],
)
async def test_a_task_says_what_it_asks_and_is_answered(
    response: dict[str, Any], calls: int, tmp_path: Path, tool: FakeTool
) -> None:
    takes = TakesTasks()
    person: Callable[..., Any] = Person()
    async with committing(
        tmp_path, tool, elicitation_callback=person, extensions=[takes]
    ) as connection:
        task = await begun_task(connection)
        asked = await question_of(connection)
        told = await ask(connection.client, "tasks/get", task)
        assert told["status"] == "input_required"
        (key, request), *others = told["inputRequests"].items()
        assert (key, others, request["method"]) == (asked.question_id, [], "elicitation/create")
        assert set(request["params"]["requestedSchema"]["properties"]) == {"allow"}
        await ask(connection.client, "tasks/update", task, {"q-other": response})
        assert (await ask(connection.client, "tasks/get", task))["status"] == "input_required"
        await ask(connection.client, "tasks/update", task, {key: response})
        with anyio.fail_after(60):
            await connection.service.wait(task, seconds=60)
        assert (await ask(connection.client, "tasks/get", task))["status"] == "completed"
    assert len(tool.calls) == calls


async def begun_task(connection: Connection) -> str:
    handle = await handed_out(connection.client, "run_worker", **WORK)
    return handle.task_id


async def test_a_task_of_a_client_that_cannot_ask_is_at_work(
    tmp_path: Path, tool: FakeTool
) -> None:
    async with committing(tmp_path, tool, extensions=[TakesTasks()]) as connection:
        task = await begun_task(connection)
        asked = await question_of(connection)
        told = await ask(connection.client, "tasks/get", task)
        assert (told["status"], "inputRequests" in told) == ("working", False)
        assert told["statusMessage"].endswith("waits for leave to call commit")
        await connection.service.answer(task, asked.question_id, allowed=False, by="Ann")


def test_a_reply_fits_however_much_is_asked() -> None:
    subtasks = tuple(subtask(f"s{number}") for number in range(50))
    events: list[Event] = [
        RunStarted(name="run/start", at=1, request=RunRequest(task="t")),
        PlanAccepted(name="plan/1", at=2, plan=Plan(subtasks=subtasks)),
    ]
    events += [
        ToolAsked(
            name=f"{item.id}/question",
            at=3,
            step=item.id,
            question_id=f"q-{item.id}",
            subtask_id=item.id,
            worker="analyst",
            tool="t" * 500,
            arguments='"' * 2_000,
            until=9,
        )
        for item in subtasks
    ]
    client = profile_named("unheard-of")
    result = run_result(fold("r-1", events, alive=True), client=client)
    assert size_read(result, client) <= client.size
    assert structured(result)["questions"][0]["question_id"] == "q-s0"


async def test_the_resource_of_a_run_has_its_questions(tmp_path: Path, tool: FakeTool) -> None:
    async with committing(tmp_path, tool) as connection:
        reply = await connection.ask("run_worker", **WORK, wait_seconds=0)
        asked = await question_of(connection)
        (content,) = (await connection.client.read_resource(f"runs://{reply['run_id']}")).contents
    assert f'"question_id": "{asked.question_id}"' in getattr(content, "text", "")
