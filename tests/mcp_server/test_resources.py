import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mcp import MCPError
from mcp.types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    ResourceLink,
    ResourceTemplateReference,
    TextResourceContents,
)

from building import worker
from clients import ERAS, Connection, connected, hang, structured, text_of
from concertmaster.errors import ModelRequestError, StoreError
from fakes import Script, plan_json, subtask
from patterns import screening

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("mode", ERAS)]

SCRIPTS = {
    "planner": plan_json(subtask("s1"), subtask("s2", "critic")),
    "worker:critic": "two faults",
    "synthesizer": "# All is well",
}


async def read(connection: Connection, uri: str) -> tuple[str, str]:
    """Return the MIME type and the text of a resource."""
    (content,) = (await connection.client.read_resource(uri)).contents
    assert isinstance(content, TextResourceContents)
    return content.mime_type or "", content.text


async def read_json(connection: Connection, uri: str) -> Any:
    mime_type, text = await read(connection, uri)
    assert mime_type == "application/json"
    return json.loads(text)


async def test_what_there_is_to_read_is_listed(mode: str, tmp_path: Path) -> None:
    async with connected(tmp_path, mode=mode) as connection:
        resources = (await connection.client.list_resources()).resources
        templates = (await connection.client.list_resource_templates()).resource_templates
    assert [item.uri for item in resources] == ["workers://catalog", "runs://recent"]
    assert [item.uri_template for item in templates] == [
        "workers://{name}",
        "runs://{run_id}",
        "runs://{run_id}/plan",
        "runs://{run_id}/graph",
        "runs://{run_id}/trace{?offset}",
        "runs://{run_id}/subtasks/{subtask_id}",
        "runs://{run_id}/answer",
        "runs://{run_id}/diff",
    ]
    assert all(item.description for item in (*resources, *templates))


async def test_workers_are_listed_and_shown(mode: str, tmp_path: Path) -> None:
    poet = worker(
        "poet",
        best_for=("odes",),
        model="opus",
        instructions="Write verse.",
        examples=("Write an ode to rain.",),
    )
    async with connected(tmp_path, workers=[poet], mode=mode) as connection:
        catalog = await read_json(connection, "workers://catalog")
        shown = await read_json(connection, "workers://poet")
    assert [card["name"] for card in catalog["workers"]] == ["analyst", "critic", "poet", "writer"]
    assert "instructions" not in catalog["workers"][2]
    assert shown["best_for"] == ["odes"]
    assert shown["model"] == "opus"
    assert shown["examples"] == ["Write an ode to rain."]
    assert shown["instructions"] == "Write verse."


async def test_the_catalog_of_all_built_in_workers_is_short(mode: str, tmp_path: Path) -> None:
    async with connected(tmp_path, mode=mode, built_in=True) as connection:
        _, text = await read(connection, "workers://catalog")
        names = [worker.name for worker in connection.service.catalog]
    cards = json.loads(text)["workers"]
    assert len(text) < 10_000
    assert [card["name"] for card in cards] == names
    assert all(card["description"] and card["best_for"] and card["needs"] for card in cards)


async def test_the_catalog_says_how_many_workers_it_leaves_out(mode: str, tmp_path: Path) -> None:
    many = [worker(f"poet-{number}", description="Writes odes. " * 20) for number in range(400)]
    async with connected(tmp_path, workers=many, mode=mode) as connection:
        _, text = await read(connection, "workers://catalog")
    catalog = json.loads(text)
    assert 8_000 < len(text) < 10_000
    assert len(catalog["workers"]) + catalog["more_workers"] == 400 + 3
    assert "workers://NAME" in catalog["next"]


async def test_all_parts_of_a_run_can_be_read(mode: str, tmp_path: Path) -> None:
    async with connected(tmp_path, SCRIPTS, mode=mode) as connection:
        run_id = (await connection.ask("run_orchestration", task="x"))["run_id"]
        base = f"runs://{run_id}"
        recent = await read_json(connection, "runs://recent")
        run = await read_json(connection, base)
        plan = await read_json(connection, f"{base}/plan")
        trace = await read_json(connection, f"{base}/trace")
        result = await read_json(connection, f"{base}/subtasks/s2")
        answer = await read(connection, f"{base}/answer")
    assert recent["runs"][0]["run_id"] == run_id
    assert (run["status"], run["answer"]) == ("succeeded", "# All is well")
    assert [item["id"] for item in plan["subtasks"]] == ["s1", "s2"]
    assert trace["name"] == "invoke_workflow"
    assert (result["worker"], result["text"]) == ("critic", "two faults")
    assert answer == ("text/markdown", "# All is well")


async def test_a_run_is_drawn_with_the_state_of_each_step(mode: str, tmp_path: Path) -> None:
    planned = plan_json(subtask("end"), subtask("s2", "critic", depends_on=["end"]))
    scripts: dict[str, Script] = {
        "planner": planned,
        "worker:critic": ModelRequestError("refused"),
        "synthesizer": "Half of it.",
    }
    async with connected(tmp_path, scripts, mode=mode) as connection:
        run_id = (await connection.ask("run_orchestration", task="Why?"))["run_id"]
        mime_type, chart = await read(connection, f"runs://{run_id}/graph")
    assert mime_type == "text/vnd.mermaid"
    lines = [line.strip() for line in chart.splitlines()]
    assert lines[:12] == [
        "flowchart TD",
        'start(["START"])',
        'plan["plan<br/>Why#63;"]',
        't1["end · analyst · succeeded<br/>do end"]',
        't2["s2 · critic · failed<br/>do s2"]',
        'synthesis["synthesis"]',
        'finish(["END"])',
        "start --> plan",
        "plan --> t1",
        "t1 --> t2",
        "t2 --> synthesis",
        "synthesis --> finish",
    ]
    assert lines[-3:] == ["class plan,t1,synthesis done", "class t2 failed", "class finish partial"]


async def test_a_plan_and_what_a_guard_holds_back_are_drawn_as_far_as_may_be_shown(
    mode: str, tmp_path: Path
) -> None:
    scripts = SCRIPTS | {"guard": screening(allowed=False)}
    async with connected(tmp_path, scripts, mode=mode) as connection:
        plan_id = (await connection.ask("plan_task", task="x"))["plan_id"]
        plan = (await read(connection, f"runs://{plan_id}/graph"))[1]
        reply = await connection.ask("run_orchestration", task="x", guard="critic")
        held_back = (await read(connection, f"runs://{reply['run_id']}/graph"))[1]
        worker_id = (await connection.ask("run_worker", worker="analyst", task="y"))["run_id"]
        one = (await read(connection, f"runs://{worker_id}/graph"))[1]
    assert "class plan done" in plan
    assert 't2["s2 · critic<br/>do s2"]' in plan
    assert "class guard,finish failed" in held_back
    assert "do s1" not in held_back
    assert "start --> t1" in one
    assert "t1 --> finish" in one
    assert "synthesis" not in one


@pytest.mark.parametrize(
    "uri",
    [
        "workers://poet",
        "runs://r-9",
        "runs://r-9/plan",
        "runs://r-9/graph",
        "runs://r-9/trace",
        "runs://r-9/answer",
        "runs://r-9/subtasks/s1",
        "nothing://at/all",
    ],
)
async def test_what_does_not_exist_is_told_as_not_found(
    uri: str, mode: str, tmp_path: Path
) -> None:
    async with connected(tmp_path, mode=mode) as connection:
        with pytest.raises(MCPError) as caught:
            await connection.client.read_resource(uri)
    assert caught.value.code == INVALID_PARAMS


@pytest.mark.parametrize("part", ["plan", "answer", "subtasks/s1"])
async def test_what_does_not_exist_yet_is_told_as_not_found(
    part: str, mode: str, tmp_path: Path
) -> None:
    async with connected(tmp_path, {"planner": hang}, mode=mode) as connection:
        run_id = (await connection.ask("run_orchestration", task="x", wait_seconds=0))["run_id"]
        with pytest.raises(MCPError) as caught:
            await connection.client.read_resource(f"runs://{run_id}/{part}")
    assert caught.value.code == INVALID_PARAMS


async def test_a_store_that_fails_is_told_as_such(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail() -> None:
        raise StoreError("The disk is full.")

    async with connected(tmp_path, mode=mode) as connection:
        monkeypatch.setattr(connection.service, "recent", fail)
        with pytest.raises(MCPError) as caught:
            await connection.client.read_resource("runs://recent")
    assert caught.value.code == INTERNAL_ERROR
    assert str(caught.value) == "The disk is full."


@pytest.mark.parametrize("length", [50_000, 100_000])
async def test_an_error_that_quotes_too_much_is_cut(length: int, mode: str, tmp_path: Path) -> None:
    async with connected(tmp_path, mode=mode) as connection:
        with pytest.raises(MCPError) as caught:
            await connection.client.read_resource(f"runs://{'n' * length}")
    assert caught.value.code == INVALID_PARAMS
    assert len(str(caught.value)) < 4_100
    assert "characters…]" in str(caught.value)


async def test_a_run_that_cannot_be_read_is_named_wherever_runs_are_listed(
    mode: str, tmp_path: Path
) -> None:
    async with connected(tmp_path, SCRIPTS, mode=mode) as connection:
        bad = (await connection.ask("run_orchestration", task="x"))["run_id"]
        with closing(sqlite3.connect(tmp_path / "data" / "runs.db")) as database, database:
            database.execute("UPDATE events SET data = '{}'")
        good = (await connection.ask("run_orchestration", task="x"))["run_id"]
        result = await connection.client.call_tool("get_run", {})
        recent = await read_json(connection, "runs://recent")
        completed = await complete(connection, "runs://{run_id}", "run_id", "r-")
    assert [line["run_id"] for line in recent["runs"]] == completed == [good]
    (sentence,) = recent["unreadable"]
    assert sentence.startswith(f"Run {bad} cannot be read")
    assert sentence in text_of(result)
    assert structured(result)["unreadable"] == [sentence]


async def complete(
    connection: Connection, uri: str, name: str, value: str, **given: str
) -> list[str]:
    result = await connection.client.complete(
        ResourceTemplateReference(uri=uri),
        {"name": name, "value": value},
        context_arguments=given or None,
    )
    return result.completion.values


async def test_parameters_complete(mode: str, tmp_path: Path) -> None:
    async with connected(tmp_path, SCRIPTS, mode=mode) as connection:
        run_id = (await connection.ask("run_orchestration", task="x"))["run_id"]
        subtasks = "runs://{run_id}/subtasks/{subtask_id}"
        assert await complete(connection, "workers://{name}", "name", "c") == ["critic"]
        assert await complete(connection, "runs://{run_id}", "run_id", run_id[:5]) == [run_id]
        assert await complete(connection, "runs://{run_id}", "run_id", "x") == []
        assert await complete(connection, subtasks, "subtask_id", "", run_id=run_id) == [
            "s1",
            "s2",
        ]
        assert await complete(connection, subtasks, "subtask_id", "", run_id="r-9") == []
        assert await complete(connection, subtasks, "subtask_id", "") == []
        assert await complete(connection, subtasks, "colour", "") == []


async def hints(connection: Connection, uri: str) -> tuple[int | None, str | None]:
    result = await connection.client.read_resource(uri)
    return result.ttl_ms, result.cache_scope


async def test_workers_may_be_kept_by_whoever_reads_them_and_runs_by_nobody(
    mode: str, tmp_path: Path
) -> None:
    async with connected(tmp_path, SCRIPTS, mode=mode) as connection:
        run_id = (await connection.ask("run_orchestration", task="x"))["run_id"]
        workers = [await hints(connection, f"workers://{name}") for name in ("catalog", "critic")]
        runs = [await hints(connection, f"runs://{name}") for name in ("recent", run_id)]
        listed = await connection.client.list_resources()
    known_to_clients = mode == "auto"
    assert workers == [(300_000, "public") if known_to_clients else (0, "private")] * 2
    assert runs == [(0, "private")] * 2
    assert (listed.ttl_ms == 300_000) == known_to_clients


async def test_replies_link_to_what_can_be_read_of_a_run(mode: str, tmp_path: Path) -> None:
    async with connected(tmp_path, SCRIPTS, mode=mode) as connection:
        result = await connection.client.call_tool("run_orchestration", {"task": "x"})
        links = [block for block in result.content if isinstance(block, ResourceLink)]
        read_types = {link.uri: (await read(connection, link.uri))[0] for link in links}
    assert {link.name: link.uri for link in links} == structured(result)["links"]
    assert {link.uri: link.mime_type for link in links} == read_types
