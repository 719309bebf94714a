"""Plans that are approved through a client: by the person there, or by what the client knows."""

import json
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import anyio
import pytest
from mcp import Client
from mcp.client.context import ClientRequestContext
from mcp.types import ElicitRequestFormParams, ElicitRequestParams, ElicitResult

from clients import ERAS, Connection, connected, structured, text_of
from concertmaster.mcp_server import tasks
from concertmaster.mcp_server.elicitation import SHOWN_SUBTASKS
from concertmaster.runs.intake import RunPolicy
from fakes import UNPLANNED, plan_json, subtask
from services import Gate
from serving import ANN, BOB, TEAM, served
from taking_tasks import TakesTasks, ask, call, handed_out

pytestmark = pytest.mark.anyio

both_eras = pytest.mark.parametrize("mode", ERAS)

PLAN = plan_json(subtask("s1"), subtask("s2", "critic", depends_on=["s1"]))
SCRIPTS = {"planner": PLAN, "synthesizer": "because"}
WORKERS = ["worker:analyst", "worker:critic", "synthesizer"]

Action = Literal["accept", "decline", "cancel"]


class Person:
    """Whoever is asked by a client, and answers always the same."""

    def __init__(self, action: Action, **content: Any) -> None:
        self.asked: list[ElicitRequestFormParams] = []
        self._result = ElicitResult(action=action, content=content or None)

    async def __call__(
        self, context: ClientRequestContext, params: ElicitRequestParams
    ) -> ElicitResult:
        del context
        assert isinstance(params, ElicitRequestFormParams)
        self.asked.append(params)
        return self._result


@asynccontextmanager
async def opened(
    folder: Path, mode: str = "auto", person: Person | None = None, **options: Any
) -> AsyncGenerator[Connection]:
    with anyio.fail_after(60):
        async with connected(
            folder, SCRIPTS, mode=mode, elicitation_callback=person, **options
        ) as connection:
            yield connection


async def wanted(connection: Connection, **arguments: Any) -> dict[str, Any]:
    """Return the reply to an order whose plan is to be approved."""
    arguments = {"task": "why?", "approve": "always"} | arguments
    return await connection.ask("run_orchestration", **arguments)


@both_eras
async def test_a_person_who_agrees_has_the_plan_carried_out_within_the_call(
    mode: str, tmp_path: Path
) -> None:
    person = Person("accept")
    async with opened(tmp_path, mode, person) as connection:
        reply = await wanted(connection)
        assert len((await connection.service.recent()).states) == 1
        assert connection.llm.callers() == ["planner", *WORKERS]
    assert (reply["status"], reply["answer"]) == ("succeeded", "because")
    (question,) = person.asked
    assert "- s1 analyst: do s1\n- s2 critic: do s2\n" in question.message
    assert "It is likely to take 3 calls" in question.message
    assert "The limit is 2 USD." in question.message
    assert set(question.requested_schema["properties"]) == {"budget_usd"}


@both_eras
async def test_a_person_can_agree_to_another_limit(mode: str, tmp_path: Path) -> None:
    async with opened(tmp_path, mode, Person("accept", budget_usd=3.5)) as connection:
        reply = await wanted(connection)
    assert (reply["status"], reply["budget"]["usd"]) == ("succeeded", 3.5)


@both_eras
async def test_a_person_cannot_agree_to_more_than_the_operator_allows(
    mode: str, tmp_path: Path
) -> None:
    async with opened(tmp_path, mode, Person("accept", budget_usd=21)) as connection:
        refusal = await connection.refusal("run_orchestration", task="why?", approve="always")
        (state,) = (await connection.service.recent()).states
    assert "at most 20" in refusal
    assert f'resume_run with run_id "{state.run_id}" to have the user asked again' in refusal
    assert state.status == "needs_approval"


@both_eras
async def test_a_limit_that_is_left_blank_is_none(mode: str, tmp_path: Path) -> None:
    async with opened(tmp_path, mode, Person("accept", budget_usd="")) as connection:
        reply = await wanted(connection)
    assert (reply["status"], reply["budget"]["usd"]) == ("succeeded", 2)


@both_eras
async def test_a_person_who_declines_has_the_run_cancelled(mode: str, tmp_path: Path) -> None:
    async with opened(tmp_path, mode, Person("decline")) as connection:
        reply = await wanted(connection)
        assert connection.llm.callers() == ["planner"]
    assert reply["status"] == "cancelled"
    assert reply["reasons"] == ["The run was cancelled: its plan was declined."]


@both_eras
async def test_a_declined_plan_is_final_and_the_reply_says_how_to_order_it_with_changes(
    mode: str, tmp_path: Path
) -> None:
    person = Person("decline")
    async with opened(tmp_path, mode, person) as connection:
        reply = await wanted(connection)
        run_id = reply["run_id"]
        refusals = [
            await connection.refusal("resume_run", run_id=run_id, **more)
            for more in ({}, {"budget_usd": 4}, {"from_subtask": "s2"})
        ]
        found = await connection.ask("get_run", run_id=run_id)
        assert len(person.asked) == 1
        edited = {"subtasks": [subtask("s1").model_dump(mode="json", exclude=UNPLANNED)]}
        other = await connection.ask("resume_run", run_id=run_id, plan=edited)
        assert len(person.asked) == 2
        assert connection.llm.callers() == ["planner"]
    assert other["run_id"] != run_id
    for text in (reply["next"], found["next"], *refusals):
        assert "was declined, which is final" in text
        assert "run_orchestration with a changed task or changed constraints" in text
        assert "edited plan" in text


@both_eras
async def test_a_plan_is_declined_with_cancel_run_where_nobody_can_be_asked(
    mode: str, tmp_path: Path
) -> None:
    async with opened(tmp_path, mode) as connection:
        reply = await wanted(connection)
        gone = await connection.ask("cancel_run", run_id=reply["run_id"])
        refusal = await connection.refusal("resume_run", run_id=reply["run_id"])
    assert "was declined, which is final" in gone["next"]
    assert "was declined, which is final" in refusal


@both_eras
async def test_a_person_who_says_nothing_can_be_asked_again(mode: str, tmp_path: Path) -> None:
    async with opened(tmp_path, mode, Person("cancel")) as connection:
        reply = await wanted(connection)
        found = await connection.ask("get_run", run_id=reply["run_id"])
    assert reply["status"] == found["status"] == "needs_approval"
    # Whoever has somebody to ask gets nothing to do without.
    assert "approval_token" not in reply
    assert "approval_token" not in found
    assert f'resume_run with run_id "{reply["run_id"]}" to have the user asked' in reply["next"]
    person = Person("accept")
    async with opened(tmp_path, mode, person) as connection:
        again = await connection.ask("resume_run", run_id=reply["run_id"], budget_usd=4)
        assert connection.llm.callers() == WORKERS
    assert (again["status"], again["budget"]["usd"]) == ("succeeded", 4)
    (question,) = person.asked
    assert "The limit is 4 USD." in question.message


@both_eras
async def test_a_yes_to_one_limit_is_none_to_another(mode: str, tmp_path: Path) -> None:
    class Late(Person):
        async def __call__(
            self, context: ClientRequestContext, params: ElicitRequestParams
        ) -> ElicitResult:
            if not self.asked:
                (state,) = (await connection.service.recent()).states
                await connection.service.cancel(state.run_id, reason="no")
                await connection.service.resume(state.run_id, by="another", budget_usd=15)
                await connection.service.wait(state.run_id, seconds=60)
            return await super().__call__(context, params)

    person = Late("accept")
    async with opened(tmp_path, mode, person) as connection:
        order = {"task": "why?", "approve": "always"}
        result = await connection.client.call_tool("run_orchestration", order)
        if mode == "legacy":
            assert "not with its limit" in text_of(result)
            assert connection.llm.callers() == ["planner"]
        else:
            assert structured(result)["status"] == "succeeded"
            assert [
                limit in item.message
                for item, limit in zip(person.asked, ("2 USD", "15 USD"), strict=True)
            ] == [True, True]


@both_eras
async def test_a_person_may_take_hours_to_answer(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(Person):
        async def __call__(
            self, context: ClientRequestContext, params: ElicitRequestParams
        ) -> ElicitResult:
            later = SimpleNamespace(time=lambda: time.time() + 23 * 3600)
            monkeypatch.setattr("mcp.server.request_state.time", later)
            return await super().__call__(context, params)

    async with opened(tmp_path, mode, Slow("accept")) as connection:
        assert (await wanted(connection))["status"] == "succeeded"


@both_eras
async def test_a_run_made_anew_is_asked_for_again(mode: str, tmp_path: Path) -> None:
    person = Person("accept")
    async with opened(tmp_path, mode, person) as connection:
        first = await wanted(connection)
        again = await connection.ask("resume_run", run_id=first["run_id"], from_subtask="s2")
    assert again["status"] == "succeeded"
    assert again["run_id"] != first["run_id"]
    assert len(person.asked) == 2


@both_eras
async def test_a_client_that_leaves_while_somebody_is_asked_cancels_the_run(
    mode: str, tmp_path: Path
) -> None:
    asked = anyio.Event()

    class Silent(Person):
        async def __call__(
            self, context: ClientRequestContext, params: ElicitRequestParams
        ) -> ElicitResult:
            asked.set()
            await anyio.sleep_forever()
            return await super().__call__(context, params)

    async with opened(tmp_path, mode, Silent("accept")) as connection:
        async with anyio.create_task_group() as calls:
            calls.start_soon(wanted, connection)
            await asked.wait()
            calls.cancel_scope.cancel()
        (state,) = (await connection.service.recent()).states
        # A client of today's protocol has its call answered while it asks.
        expected = "cancelled" if mode == "legacy" else "needs_approval"
        while state.status != expected:
            await anyio.lowlevel.checkpoint()
            state = await connection.service.get(state.run_id)
    assert state.usage.calls == 1


@both_eras
async def test_a_client_that_can_ask_nobody_gets_the_plan_and_a_token(
    mode: str, tmp_path: Path
) -> None:
    async with opened(tmp_path, mode) as connection:
        result = await connection.client.call_tool(
            "run_orchestration", {"task": "why?", "approve": "always"}
        )
        reply, token = structured(result), structured(result)["approval_token"]
        assert reply["status"] == "needs_approval"
        assert [line["status"] for line in reply["subtasks"]] == ["pending", "pending"]
        assert reply["estimate"]["calls"] == {"low": 3, "high": 3}
        assert f'approval_token "{token}"' in reply["next"]
        assert 'the edited plan and approve "always"' in reply["next"]
        assert token in text_of(result)
        assert connection.llm.callers() == ["planner"]
        done = await connection.ask(
            "resume_run", run_id=reply["run_id"], approval_token=token, budget_usd=3
        )
        assert (done["status"], done["run_id"]) == ("succeeded", reply["run_id"])
        assert done["budget"]["usd"] == 3
        paid = len(connection.llm.requests)
        refusal = await connection.refusal(
            "resume_run", run_id=reply["run_id"], approval_token=token
        )
        assert "does not wait for approval: it is succeeded" in refusal
        assert len(connection.llm.requests) == paid


@both_eras
async def test_a_budget_that_is_given_without_a_token_is_what_the_next_token_is_for(
    mode: str, tmp_path: Path
) -> None:
    async with opened(tmp_path, mode) as connection:
        reply = await wanted(connection)
        dearer = await connection.ask("resume_run", run_id=reply["run_id"], budget_usd=4)
        assert (dearer["status"], dearer["budget"]["usd"]) == ("needs_approval", 4)
        assert connection.llm.callers() == ["planner"]
        assert "not for the plan" in await connection.refusal(
            "resume_run", run_id=reply["run_id"], approval_token=reply["approval_token"]
        )
        done = await connection.ask(
            "resume_run", run_id=reply["run_id"], approval_token=dearer["approval_token"]
        )
    assert (done["status"], done["budget"]["usd"]) == ("succeeded", 4)


async def incomplete(connection: Connection) -> dict[str, Any]:
    """Return the reply on a run whose plan was approved, and of which a part failed."""
    connection.llm.scripts["worker:critic"] = ""
    reply = await wanted(connection)
    if token := reply.get("approval_token"):
        run_id = reply["run_id"]
        reply = await connection.ask("resume_run", run_id=run_id, approval_token=token)
    assert reply["status"] == "partial"
    connection.llm.scripts["worker:critic"] = "done"
    return reply


@both_eras
async def test_a_person_is_asked_again_about_a_larger_budget_and_not_about_the_same(
    mode: str, tmp_path: Path
) -> None:
    person = Person("accept")
    async with opened(tmp_path, mode, person) as connection:
        reply = await incomplete(connection)
        assert len(person.asked) == 1
        done = await connection.ask("resume_run", run_id=reply["run_id"], budget_usd=5)
        assert (done["status"], done["budget"]["usd"]) == ("succeeded", 5)
        other = await incomplete(connection)
        assert len(person.asked) == 3
        done = await connection.ask("resume_run", run_id=other["run_id"])
        assert done["status"] == "succeeded"
    assert len(person.asked) == 3
    question = person.asked[1].message
    assert "The limit is 5 USD; 1 of the subtasks ended before, and 0." in question


@both_eras
async def test_a_larger_budget_for_what_was_approved_needs_another_token(
    mode: str, tmp_path: Path
) -> None:
    async with opened(tmp_path, mode) as connection:
        reply = await incomplete(connection)
        paid = len(connection.llm.requests)
        waits = await connection.ask("resume_run", run_id=reply["run_id"], budget_usd=5)
        assert (waits["status"], waits["answer"]) == ("needs_approval", "because")
        assert "until then no work is done" in waits["next"]
        assert len(connection.llm.requests) == paid
        done = await connection.ask(
            "resume_run", run_id=reply["run_id"], approval_token=waits["approval_token"]
        )
    assert done["status"] == "succeeded"


@both_eras
async def test_a_token_is_of_no_use_for_another_run(mode: str, tmp_path: Path) -> None:
    async with opened(tmp_path, mode) as connection:
        one, other = await wanted(connection), await wanted(connection)
        refusal = await connection.refusal(
            "resume_run", run_id=other["run_id"], approval_token=one["approval_token"]
        )
        assert "not for the plan" in refusal
        without = await connection.ask("resume_run", run_id=other["run_id"])
        assert without["status"] == "needs_approval"
        assert connection.llm.callers() == ["planner", "planner"]


@both_eras
async def test_a_plan_is_approved_after_a_restart(mode: str, tmp_path: Path) -> None:
    async with opened(tmp_path, mode) as connection:
        reply = await wanted(connection)
    async with opened(tmp_path, mode) as connection:
        found = await connection.ask("get_run", run_id=reply["run_id"])
        assert found["approval_token"] != reply["approval_token"]
        (line,) = (await connection.ask("get_run"))["runs"]
        assert line["status"] == "needs_approval"
        done = await connection.ask(
            "resume_run", run_id=reply["run_id"], approval_token=reply["approval_token"]
        )
    assert done["status"] == "succeeded"


@both_eras
async def test_a_plan_that_is_not_wanted_is_cancelled(mode: str, tmp_path: Path) -> None:
    async with opened(tmp_path, mode) as connection:
        reply = await wanted(connection)
        gone = await connection.ask("cancel_run", run_id=reply["run_id"])
        assert gone["status"] == "cancelled"
        assert "does not wait for approval" in await connection.refusal(
            "resume_run", run_id=reply["run_id"], approval_token=reply["approval_token"]
        )


async def test_an_edited_plan_is_an_order_of_its_own(tmp_path: Path) -> None:
    async with opened(tmp_path) as connection:
        reply = await wanted(connection)
        state = await connection.service.get(reply["run_id"])
        assert state.plan is not None
        plan = state.plan.model_dump(mode="json", exclude_defaults=True)
        plan["subtasks"] = plan["subtasks"][:1]
        other = await wanted(connection, plan=plan)
        assert other["run_id"] != reply["run_id"]
        assert len(other["subtasks"]) == 1
        refusal = await connection.refusal(
            "resume_run", run_id=other["run_id"], approval_token=reply["approval_token"]
        )
    assert "not for the plan" in refusal


@both_eras
async def test_what_the_operator_wants_holds_for_every_tool_that_has_work_done(
    mode: str, tmp_path: Path
) -> None:
    policy = RunPolicy(approve="always")
    async with opened(tmp_path, mode, policy=policy) as connection:
        run = await connection.ask("run_orchestration", task="why?", approve="never")
        work = await connection.ask("run_worker", worker="analyst", task="x")
        plan = await connection.ask("plan_task", task="why?")
    assert run["status"] == work["status"] == "needs_approval"
    assert plan["status"] == "succeeded"


async def test_a_long_plan_is_shown_in_short(tmp_path: Path) -> None:
    count = SHOWN_SUBTASKS + 5
    plan = plan_json(*(subtask(f"s{number}", objective="x" * 500) for number in range(count)))
    person = Person("decline")
    async with opened(tmp_path, "auto", person) as connection:
        await wanted(connection, plan=json.loads(plan))
    (question,) = person.asked
    assert "- and 5 more" in question.message
    assert len(question.message) < 4000


@pytest.mark.parametrize("mode", ERAS)
async def test_another_principals_token_and_run_do_not_exist(mode: str, tmp_path: Path) -> None:
    async with (
        served(tmp_path, SCRIPTS, access=TEAM) as server,
        server.client(ANN, mode=mode) as ann,
        server.client(BOB, mode=mode) as bob,
    ):
        order = {"task": "why?", "approve": "always"}
        reply = structured(await ann.call_tool("run_orchestration", order))
        token = {"run_id": reply["run_id"], "approval_token": reply["approval_token"]}
        refused = await bob.call_tool("resume_run", token)
        assert refused.is_error
        assert "No run" in text_of(refused)
        done = structured(await ann.call_tool("resume_run", token))
    assert done["status"] == "succeeded"


@both_eras
async def test_a_person_is_asked_over_http(mode: str, tmp_path: Path) -> None:
    person = Person("accept")
    async with (
        served(tmp_path, SCRIPTS) as server,
        Client(server.address, mode=mode, elicitation_callback=person) as client,
    ):
        result = await client.call_tool("run_orchestration", {"task": "why?", "approve": "always"})
    assert structured(result)["status"] == "succeeded"
    assert len(person.asked) == 1


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every call that would wait become a task."""
    monkeypatch.setattr(tasks, "GRACE_SECONDS", 0)


@asynccontextmanager
async def a_task(
    folder: Path, person: Person | None = None
) -> AsyncGenerator[tuple[Connection, str, dict[str, Any]]]:
    """Give out the task of a run whose plan waits for approval."""
    gate = Gate(PLAN)
    scripts = {"planner": gate, "synthesizer": "because"}
    with anyio.fail_after(60):
        async with connected(
            folder, scripts, extensions=[TakesTasks()], elicitation_callback=person
        ) as connection:
            order = {"task": "why?", "approve": "always"}
            handle = await handed_out(connection.client, "run_orchestration", **order)
            gate.opened.set()
            await connection.service.wait(handle.task_id, seconds=60)
            task = await ask(connection.client, "tasks/get", handle.task_id)
            yield connection, handle.task_id, task


Said = Callable[[str], dict[str, Any]]


def says(action: Action, **content: Any) -> Said:
    return lambda key: {key: {"action": action, "content": content or None}}


def to_another_question(key: str) -> dict[str, Any]:
    return {f"not {key}": {"action": "accept"}}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("said", "status", "budget_usd"),
    [
        (says("accept"), "completed", 2),
        (says("accept", budget_usd=3), "completed", 3),
        (says("decline"), "cancelled", 2),
        (says("cancel"), "input_required", 2),
        (to_another_question, "input_required", 2),
    ],
    ids=["agrees", "agrees to another limit", "declines", "says nothing", "was asked otherwise"],
)
async def test_the_task_of_a_run_asks_for_approval(
    said: Said, status: str, budget_usd: float, tmp_path: Path
) -> None:
    async with a_task(tmp_path, Person("accept")) as (connection, task_id, task):
        assert task["status"] == "input_required"
        ((key, request),) = task["inputRequests"].items()
        assert request["method"] == "elicitation/create"
        assert "- s1 analyst: do s1" in request["params"]["message"]
        await ask(connection.client, "tasks/update", task_id, said(key))
        state = await connection.service.wait(task_id, seconds=60)
        task = await ask(connection.client, "tasks/get", task_id)
    assert task["status"] == status
    assert state.request.limits.budget_usd == budget_usd


@pytest.mark.usefixtures("impatient")
async def test_an_answer_that_comes_again_changes_nothing(tmp_path: Path) -> None:
    async with a_task(tmp_path, Person("accept")) as (connection, task_id, task):
        (key,) = task["inputRequests"]
        for _ in range(2):
            await ask(connection.client, "tasks/update", task_id, says("accept")(key))
            await connection.service.wait(task_id, seconds=60)
        assert connection.llm.callers() == ["planner", *WORKERS]


@pytest.mark.usefixtures("impatient")
async def test_the_task_of_a_client_that_can_ask_nobody_is_completed_with_a_token(
    tmp_path: Path,
) -> None:
    async with a_task(tmp_path) as (connection, task_id, task):
        assert task["status"] == "completed"
        token = task["result"]["structuredContent"]["approval_token"]
        await call(connection.client, "resume_run", run_id=task_id, approval_token=token)
        assert (await connection.service.wait(task_id, seconds=60)).status == "succeeded"
