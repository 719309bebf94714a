import json
from pathlib import Path
from typing import Any, cast

import anyio
import pytest

from building import worker
from clients import ERAS, connected, hang, text_of
from concertmaster import __version__
from concertmaster.errors import ModelRequestError
from concertmaster.llm.messages import PlanBrief
from concertmaster.llm.usage import Usage
from concertmaster.mcp_server.tools import TOOLS
from concertmaster.replies.models import PlanReply, RunReply, RunsReply, SubtaskReply
from concertmaster.runs.intake import RunPolicy
from fakes import Script, plan_json, reply_with, subtask, texts
from patterns import decision, screening

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("mode", ERAS)]

PLAN = plan_json(subtask("s1"), subtask("s2", "critic", depends_on=["s1"]))
SCRIPTS = {"planner": PLAN, "worker:critic": "found two faults", "synthesizer": "all is well"}
SCHEMA = {
    "type": "object",
    "properties": {"count": {"type": "integer"}},
    "required": ["count"],
    "additionalProperties": False,
}


def facts(value: Any) -> list[str]:
    """Return everything that structured content says, as it is written in text."""
    match value:
        case dict():
            return [
                fact for inner in cast("dict[str, Any]", value).values() for fact in facts(inner)
            ]
        case list():
            return [fact for inner in cast("list[Any]", value) for fact in facts(inner)]
        case float():
            return [f"{value:g}"]
        case _:
            return [str(value)]


async def test_the_server_says_what_it_is(mode: str, tmp_path: Path) -> None:
    async with connected(tmp_path, mode=mode) as connection:
        info = connection.client.server_info
        instructions = connection.client.instructions
    assert info is not None
    assert (info.name, info.title, info.version) == ("concertmaster", "Concertmaster", __version__)
    assert instructions is not None
    assert "run_orchestration" in instructions
    assert len(instructions.encode()) <= 2048


async def test_the_list_of_tools_is_short_and_free_of_noise(mode: str, tmp_path: Path) -> None:
    async with connected(tmp_path, mode=mode) as connection:
        tools = (await connection.client.list_tools()).tools
    names = [tool.name for tool in tools]
    assert names == [
        "plan_task",
        "run_orchestration",
        "run_worker",
        "get_run",
        "cancel_run",
        "resume_run",
    ]
    listed = [
        tool.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"output_schema"})
        for tool in tools
    ]
    assert len(json.dumps(listed, separators=(",", ":"))) <= 8000
    whole = [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in tools]
    assert len(json.dumps(whole, separators=(",", ":"))) <= 16_000
    for tool in tools:
        assert all("description" in item for item in tool.input_schema["properties"].values())
        assert "$ref" not in json.dumps(tool.input_schema)
        assert '"title": "' not in json.dumps([tool.input_schema, tool.output_schema])
        assert '"null"' not in json.dumps([tool.input_schema, tool.output_schema])


async def test_output_schemas_name_the_fields_that_decide_what_comes_next(mode: str) -> None:
    del mode
    schemas = {tool.name: tool.output_schema or {} for tool in TOOLS}
    for name in ("run_orchestration", "run_worker", "resume_run", "get_run"):
        fields = schemas[name]["properties"]
        assert {"answer", "value", "next_offset", "approval_token", "reasons", "next"} <= {*fields}
        assert "partial" in fields["status"]["enum"]
    for model in (RunReply, SubtaskReply, RunsReply):
        assert model.model_fields.keys() <= schemas["get_run"]["properties"].keys()
    assert PlanReply.model_fields.keys() == schemas["plan_task"]["properties"].keys()
    subtask_fields = schemas["plan_task"]["properties"]["subtasks"]["items"]["properties"]
    assert {"id", "worker", "objective", "depends_on", "strategy"} <= subtask_fields.keys()
    assert all(schema["type"] == "object" for schema in schemas.values())


async def test_tools_that_change_nothing_may_be_called_side_by_side(
    mode: str, tmp_path: Path
) -> None:
    async with connected(tmp_path, mode=mode) as connection:
        tools = (await connection.client.list_tools()).tools
    hints = {tool.name: tool.annotations for tool in tools}
    reading = [name for name, hint in hints.items() if hint and hint.read_only_hint]
    assert reading == ["plan_task", "run_worker", "get_run"]
    cancelling = hints["cancel_run"]
    assert cancelling is not None
    assert cancelling.destructive_hint
    assert cancelling.idempotent_hint


async def test_an_orchestration_answers_in_one_call(mode: str, tmp_path: Path) -> None:
    async with connected(tmp_path, SCRIPTS, mode=mode) as connection:
        reply = await connection.ask("run_orchestration", task="check it")
    assert reply["status"] == "succeeded"
    assert reply["task"] == "check it"
    assert reply["answer"] == "all is well"
    lines = [(line["subtask_id"], line["worker"], line["status"]) for line in reply["subtasks"]]
    assert lines == [("s1", "analyst", "succeeded"), ("s2", "critic", "succeeded")]
    assert reply["usd"] == 0.04
    (usage,) = reply["usage"]
    assert (usage["model"], usage["calls"], usage["tokens_in"]) == ("fake", 4, 400)
    run_id = reply["run_id"]
    assert reply["links"]["trace"] == f"runs://{run_id}/trace"


async def test_text_and_structured_content_carry_the_same_facts(mode: str, tmp_path: Path) -> None:
    scripts = SCRIPTS | {
        "worker:analyst": ModelRequestError("refused"),
        "worker:writer": '{"count": 3}',
    }
    async with connected(tmp_path, scripts, mode=mode, notice="No model is in use.") as connection:
        ask = connection.client.call_tool
        run = await ask("run_orchestration", {"task": "check it"})
        plan = await ask("plan_task", {"task": "check it"})
        assert run.structured_content is not None
        run_id = run.structured_content["run_id"]
        results = [
            run,
            plan,
            await ask("run_worker", {"worker": "writer", "task": "x", "output_schema": SCHEMA}),
            await ask("get_run", {}),
            await ask("get_run", {"run_id": run_id, "subtask_id": "s2"}),
            await ask("cancel_run", {"run_id": run_id}),
        ]
    for result in results:
        text = text_of(result)
        missing = [fact for fact in facts(result.structured_content) if fact not in text]
        assert missing == []
        assert "No model is in use." in text


GIVEN: dict[str, Any] = {
    "context": "The shop closes in May.",
    "constraints": ["Name no customer."],
}


async def test_context_and_constraints_reach_everyone_who_works_on_a_task(
    mode: str, tmp_path: Path
) -> None:
    decided = decision(done=True, reason="enough")
    planned = plan_json(subtask("s1", decisive=True), subtask("s2", "critic"), mode="adaptive")
    scripts: dict[str, Script] = {
        "planner": planned,
        "orchestrator": decided,
        "guard": screening(allowed=True),
    }
    async with connected(tmp_path, SCRIPTS | scripts, mode=mode) as connection:
        reply = await connection.ask("run_orchestration", task="check it", guard="critic", **GIVEN)
        found = await connection.ask("get_run", run_id=reply["run_id"])
        asked = {request.caller: texts([request])[0] for request in connection.llm.requests}
    callers = {"guard", "planner", "worker:analyst", "worker:critic", "orchestrator", "synthesizer"}
    assert asked.keys() == callers
    for text in asked.values():
        assert "The shop closes in May." in text
        assert "Name no customer." in text
    assert {key: found[key] for key in GIVEN} == GIVEN


async def test_a_plan_keeps_its_context_and_constraints_and_a_run_may_add_to_them(
    mode: str, tmp_path: Path
) -> None:
    async with connected(tmp_path, SCRIPTS, mode=mode) as connection:
        plan = await connection.ask("plan_task", task="check it", **GIVEN)
        reply = await connection.ask(
            "run_orchestration",
            plan_id=plan["plan_id"],
            context="It opens in June.",
            constraints=["Be brief.", "Name no customer."],
        )
        analyst = next(item for item in connection.llm.requests if item.caller == "worker:analyst")
    assert reply["constraints"] == ["Name no customer.", "Be brief."]
    (text,) = texts([analyst])
    assert "The shop closes in May.\n\nIt opens in June." in text


async def test_a_client_says_which_model_a_worker_uses_and_how_long_it_may_take(
    mode: str, tmp_path: Path
) -> None:
    picky = worker("picky", model="opus")
    async with connected(tmp_path, workers=[picky], mode=mode) as connection:
        for model in ("haiku", ""):
            await connection.ask("run_worker", worker="picky", task="think", model=model)
        assert [request.model for request in connection.llm.requests] == ["haiku", "opus"]
        refusal = await connection.refusal(
            "run_worker", worker="picky", task="think", deadline_seconds=-1
        )
        assert "deadline_seconds is -1" in refusal
    async with connected(tmp_path / "slow", default=hang, mode=mode) as connection:
        reply = await connection.ask(
            "run_worker", worker="analyst", task="think", deadline_seconds=1
        )
    assert reply["status"] == "failed"
    assert "deadline of 1 s" in " ".join(reply["reasons"] + [reply["subtasks"][0]["error"]])


async def test_a_plan_is_returned_without_being_run(mode: str, tmp_path: Path) -> None:
    async with connected(tmp_path, SCRIPTS, mode=mode) as connection:
        reply = await connection.ask("plan_task", task="check it")
        assert connection.llm.callers() == ["planner"]
    assert reply["status"] == "succeeded"
    assert reply["analysis"] == "what it is about"
    assert reply["subtasks"] == [
        {"id": "s1", "worker": "analyst", "objective": "do s1"},
        {"id": "s2", "worker": "critic", "objective": "do s2", "depends_on": ["s1"]},
    ]
    assert "shortened" not in reply
    assert reply["plan_id"] in reply["next"]


async def test_a_plan_can_be_run_by_its_id(mode: str, tmp_path: Path) -> None:
    async with connected(tmp_path, SCRIPTS, mode=mode) as connection:
        plan = await connection.ask("plan_task", task="check it")
        reply = await connection.ask("run_orchestration", plan_id=plan["plan_id"])
        assert connection.llm.callers().count("planner") == 1
    assert reply["answer"] == "all is well"


async def test_a_plan_can_be_edited_and_run(mode: str, tmp_path: Path) -> None:
    async with connected(tmp_path, SCRIPTS, mode=mode) as connection:
        plan = await connection.ask("plan_task", task="check it")
        edited = {"analysis": plan["analysis"], "subtasks": plan["subtasks"][:1]}
        reply = await connection.ask("run_orchestration", task="check it", plan=edited)
    assert [line["subtask_id"] for line in reply["subtasks"]] == ["s1"]
    assert reply["answer"] == "done"


async def test_a_plan_under_way_is_told_as_such(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("concertmaster.replies.next_steps.FOLLOW_SECONDS", 0)
    async with connected(tmp_path, {"planner": hang}, mode=mode) as connection:
        reply = await connection.ask("plan_task", task="check it")
    assert reply["status"] == "planning"
    assert f'run_id "{reply["plan_id"]}"' in reply["next"]
    assert reply["links"] == {"run": f"runs://{reply['plan_id']}"}


async def test_a_simple_request_is_answered_directly(mode: str, tmp_path: Path) -> None:
    scripts = {"planner": plan_json(direct_answer="It is four.")}
    async with connected(tmp_path, scripts, mode=mode) as connection:
        plan = await connection.ask("plan_task", task="two and two?")
        run = await connection.ask("run_orchestration", plan_id=plan["plan_id"])
    assert plan["direct_answer"] == "It is four."
    assert "subtasks" not in plan
    assert "no workers" in plan["next"]
    assert run["answer"] == "It is four."


async def test_a_worker_answers_with_the_value_of_a_schema(mode: str, tmp_path: Path) -> None:
    async with connected(tmp_path, default='{"count": 3}', mode=mode) as connection:
        reply = await connection.ask(
            "run_worker",
            worker="analyst",
            task="count",
            context="of apples",
            constraints=["be exact"],
            inputs=[{"name": "basket", "text": "apple apple apple"}],
            output_schema=SCHEMA,
        )
        (request,) = connection.llm.requests
    assert reply["value"] == {"count": 3}
    assert "answer" not in reply
    said = request.shared + str(request.messages)
    assert all(word in said for word in ("of apples", "be exact", "apple apple apple"))


async def test_an_input_may_stand_alone(mode: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("buy milk")
    policy = RunPolicy(roots=(tmp_path,))
    async with connected(tmp_path, mode=mode, policy=policy) as connection:
        for given in ("notes.txt", {"name": "list", "text": "buy milk"}):
            await connection.ask("run_worker", worker="analyst", task="read", inputs=given)
    assert all("buy milk" in request.shared for request in connection.llm.requests)


async def test_a_worker_to_choose_from_may_stand_alone(mode: str, tmp_path: Path) -> None:
    scripts = {"planner": plan_json(subtask("s1", "critic"))}
    async with connected(tmp_path, scripts, mode=mode) as connection:
        await connection.ask("plan_task", task="check it", workers="critic")
        (request,) = connection.llm.requests
    assert isinstance(request.brief, PlanBrief)
    assert [card.name for card in request.brief.workers] == ["critic"]


async def test_a_run_that_takes_long_is_followed_by_its_id(mode: str, tmp_path: Path) -> None:
    go = anyio.Event()

    async def wait(_: object) -> str:
        await go.wait()
        return "late but right"

    scripts = {"worker:analyst": wait}
    async with connected(tmp_path, scripts, mode=mode) as connection:
        reply = await connection.ask("run_worker", worker="analyst", task="think", wait_seconds=0)
        assert reply["status"] in ("planning", "running")
        assert "answer" not in reply
        run_id = reply["run_id"]
        assert f'get_run with run_id "{run_id}" and wait_seconds 45' in reply["next"]
        under_way = await connection.ask("get_run", run_id=run_id, wait_seconds=0.2)
        assert under_way["progress"] == "0 of 1 subtasks ended; analyst is running"
        pending = await connection.ask("get_run", run_id=run_id, subtask_id="s1")
        assert (pending["status"], pending["next"][:17]) == ("running", "The run goes on. ")
        go.set()
        with anyio.fail_after(60):
            reply = await connection.ask("get_run", run_id=run_id, wait_seconds=60)
    assert (reply["status"], reply["answer"]) == ("succeeded", "late but right")


async def test_runs_are_listed_newest_first(mode: str, tmp_path: Path) -> None:
    async with connected(tmp_path, mode=mode) as connection:
        nothing = await connection.ask("get_run")
        await connection.ask("run_worker", worker="analyst", task="first")
        await connection.ask("run_worker", worker="analyst", task="second")
        listed = await connection.ask("get_run")
    assert nothing["runs"] == []
    assert "no runs yet" in nothing["next"]
    assert [run["task"] for run in listed["runs"]] == ["second", "first"]
    assert listed["runs"][0]["kind"] == "worker"


async def test_one_result_is_shown_in_full(mode: str, tmp_path: Path) -> None:
    async with connected(tmp_path, SCRIPTS, mode=mode) as connection:
        run = await connection.ask("run_orchestration", task="check it")
        reply = await connection.ask("get_run", run_id=run["run_id"], subtask_id="s2")
    assert (reply["worker"], reply["result"]) == ("critic", "found two faults")
    assert "next" not in reply


async def test_a_result_of_a_schema_is_a_value(mode: str, tmp_path: Path) -> None:
    async with connected(tmp_path, default='{"count": 3}', mode=mode) as connection:
        run = await connection.ask(
            "run_worker", worker="analyst", task="count", output_schema=SCHEMA
        )
        reply = await connection.ask("get_run", run_id=run["run_id"], subtask_id="s1")
    assert reply["value"] == {"count": 3}
    assert "result" not in reply


async def test_a_cancelled_run_keeps_what_is_finished(mode: str, tmp_path: Path) -> None:
    scripts = SCRIPTS | {"worker:critic": hang}
    async with connected(tmp_path, scripts, mode=mode) as connection:
        run = await connection.ask("run_orchestration", task="check it", wait_seconds=0)
        with anyio.fail_after(60):
            while run["progress"] != "1 of 2 subtasks ended; critic is running":
                run = await connection.ask("get_run", run_id=run["run_id"], wait_seconds=0.05)
            reply = await connection.ask("cancel_run", run_id=run["run_id"])
    assert reply["status"] == "cancelled"
    assert [line["status"] for line in reply["subtasks"]] == ["succeeded", "cancelled"]
    assert reply["reasons"] == ["The run was cancelled: cancel_run was called."]


async def test_a_run_that_failed_says_why(mode: str, tmp_path: Path) -> None:
    broken = reply_with("", stop_reason="refusal")
    async with connected(tmp_path, default=broken, mode=mode) as connection:
        reply = await connection.ask("run_worker", worker="analyst", task="x")
    assert reply["status"] == "failed"
    assert reply["reasons"]
    assert reply["subtasks"][0]["error"]


async def test_a_run_whose_process_ended_is_interrupted(mode: str, tmp_path: Path) -> None:
    async with connected(tmp_path, default=hang, mode=mode) as connection:
        run = await connection.ask("run_worker", worker="analyst", task="x", wait_seconds=0)
    async with connected(tmp_path, mode=mode) as connection:
        reply = await connection.ask("get_run", run_id=run["run_id"], wait_seconds=60)
    assert reply["status"] == "interrupted"
    assert f'resume_run with run_id "{run["run_id"]}"' in reply["next"]


async def test_an_unknown_price_is_never_zero(mode: str, tmp_path: Path) -> None:
    unpriced = reply_with("done", usage=Usage(model="new", calls=1, attempts=1, usd=None))
    async with connected(tmp_path, default=unpriced, mode=mode) as connection:
        result = await connection.client.call_tool("run_worker", {"worker": "analyst", "task": "x"})
    assert result.structured_content is not None
    assert "usd" not in result.structured_content
    assert "price unknown" in text_of(result)
