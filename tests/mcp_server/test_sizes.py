"""No reply is longer than clients can take, whatever is in it, and nothing is lost."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mcp.types import CallToolResult, Implementation, InitializeRequestParams

from clients import ERAS, Connection, connected, structured, text_of
from concertmaster.engine.plan.plan import Subtask
from concertmaster.engine.request import Limits
from concertmaster.errors import ModelRequestError
from concertmaster.mcp_server.client_profiles import (
    ClientProfile,
    client_profiles,
    profile_named,
    profile_of,
)
from concertmaster.replies.markdown import one_line
from concertmaster.replies.pagination import page_of
from concertmaster.runs.intake import RunPolicy
from fakes import plan_json, reply_with, subtask

pytestmark = pytest.mark.anyio

PARAGRAPH = "It was found that the figures do not add up. Somebody should look.\n"
LONG_TEXTS = {
    "prose": PARAGRAPH * 700,
    "one word": "x" * 45_000,
    "not ASCII": "Größe 大きさ 🎻 " * 4_000,
    "escaped": '\\"\n\t' * 10_000,
    "control characters": "\x01\x02" * 15_000,
}


UNKNOWN = Implementation(name="unheard-of", version="1")
REPLY_CHARS = profile_named(UNKNOWN.name).size


def size(result: CallToolResult) -> int:
    message = result.model_dump(mode="json", by_alias=True, exclude_none=True)
    return len(json.dumps(message, ensure_ascii=False))


def read_by_model(result: CallToolResult, reads: str) -> str:
    """Return what a client that `reads` so passes to its model."""
    shown = json.dumps(result.structured_content, ensure_ascii=False, separators=(",", ":"))
    text = text_of(result)
    return {"structured": shown, "text": text}.get(reads, text + shown)


def named(name: str) -> Implementation:
    return Implementation(name=name, version="1")


async def ask(connection: Connection, tool: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    result = await connection.client.call_tool(tool, dict(arguments))
    assert not result.is_error, text_of(result)
    assert size(result) <= REPLY_CHARS
    assert result.structured_content is not None
    return result.structured_content


async def read_on(
    connection: Connection, reply: Mapping[str, Any], key: str, **where: str
) -> tuple[str, int]:
    """Return the whole text that begins in `reply`, and how many replies it took."""
    text, pages = reply[key], 1
    while "next_offset" in reply:
        arguments = where | {"offset": reply["next_offset"]}
        assert f"offset {reply['next_offset']}" in reply["next"]
        reply = await ask(connection, "get_run", arguments)
        text += reply[key]
        pages += 1
    return text, pages


@pytest.mark.parametrize("text", LONG_TEXTS.values(), ids=LONG_TEXTS)
async def test_a_long_answer_comes_in_pages(text: str, tmp_path: Path) -> None:
    async with connected(tmp_path, default=text, client_info=UNKNOWN) as connection:
        reply = await ask(connection, "run_worker", {"worker": "analyst", "task": "write"})
        assert reply["answer_chars"] == len(text.strip())
        whole, pages = await read_on(connection, reply, "answer", run_id=reply["run_id"])
        result = await ask(connection, "get_run", {"run_id": reply["run_id"], "subtask_id": "s1"})
        where = {"run_id": reply["run_id"], "subtask_id": "s1"}
        whole_result, _ = await read_on(connection, result, "result", **where)
    assert whole == whole_result == text.strip()
    assert pages <= 24


async def test_pages_of_plain_text_use_most_of_the_room(tmp_path: Path) -> None:
    async with connected(tmp_path, default=PARAGRAPH * 700, client_info=UNKNOWN) as connection:
        result = await connection.client.call_tool(
            "run_worker", {"worker": "analyst", "task": "write"}
        )
    assert size(result) > REPLY_CHARS * 3 // 4
    assert result.structured_content is not None
    assert result.structured_content["answer"].endswith("look.\n")


async def test_a_value_that_does_not_fit_comes_as_its_json(tmp_path: Path) -> None:
    value = {"findings": [f"finding {number}" for number in range(3_000)]}
    schema = {"type": "object"}
    async with connected(tmp_path, default=json.dumps(value), client_info=UNKNOWN) as connection:
        arguments = {"worker": "analyst", "task": "list", "output_schema": schema}
        reply = await ask(connection, "run_worker", arguments)
        assert "value" not in reply
        whole, _ = await read_on(connection, reply, "answer", run_id=reply["run_id"])
        where = {"run_id": reply["run_id"], "subtask_id": "s1"}
        result = await ask(connection, "get_run", where)
        assert "value" not in result
    assert json.loads(whole) == value


def wide(number: int, text: str) -> Subtask:
    return subtask(
        f"s{number}-{'i' * 35}",
        objective=text,
        why=text,
        expects=text,
        depends_on=[f"s{earlier}-{'i' * 35}" for earlier in range(number)],
        inputs=[f"{'input' * 30}-{index}" for index in range(20)],
    )


def wide_run(text: str) -> dict[str, Any]:
    inputs = [{"name": f"{'input' * 30}-{index}", "text": "x"} for index in range(20)]
    return {"task": text[:90_000], "inputs": inputs, "max_subtasks": 50}


QUOTES = '"quoted" \\ ' * 200
WIDE = "大きさ 🎻 " * 200
REPLIES: Mapping[str, tuple[str, Any]] = {
    "failed": (QUOTES, ModelRequestError(QUOTES)),
    "partial": (WIDE, reply_with(WIDE, stop_reason="max_tokens")),
    "succeeded": (QUOTES, QUOTES),
}


@pytest.mark.parametrize(("text", "reply"), REPLIES.values(), ids=REPLIES)
async def test_a_wide_run_fits_however_much_it_has_to_tell(
    text: str, reply: Any, tmp_path: Path
) -> None:
    plan = plan_json(*(wide(number, text) for number in range(50)))
    scripts = {"planner": plan, "synthesizer": text * 50}
    policy = RunPolicy(limits=Limits(slots=50))
    async with connected(
        tmp_path, scripts, default=reply, policy=policy, notice="Offline. " * 9, client_info=UNKNOWN
    ) as connection:
        planned = await ask(connection, "plan_task", wide_run(text))
        assert planned["shortened"]
        assert planned["more_subtasks"] + len(planned["subtasks"]) == 50
        run = await ask(connection, "run_orchestration", {"plan_id": planned["plan_id"]})
        assert run["more_subtasks"] + len(run["subtasks"]) == 50
        listed = await ask(connection, "get_run", {})
        assert len(listed["runs"]) == 2
        assert len(run.get("reasons", [])) <= 21


async def test_a_plan_too_long_for_a_reply_is_read_in_pages(tmp_path: Path) -> None:
    objectives = [f"Look into {number}. {PARAGRAPH * 9}" for number in range(40)]
    plan = plan_json(*(subtask(f"s{n}", objective=text) for n, text in enumerate(objectives)))
    async with connected(tmp_path, {"planner": plan}, client_info=UNKNOWN) as connection:
        planned = await ask(connection, "plan_task", {"task": "x", "max_subtasks": 40})
        assert planned["shortened"]
        reply = await ask(connection, "get_run", {"run_id": planned["plan_id"]})
        whole, _ = await read_on(connection, reply, "answer", run_id=planned["plan_id"])
    assert json.loads(whole)["subtasks"][39]["objective"] == objectives[39]


async def test_a_long_direct_answer_is_read_on_with_get_run(tmp_path: Path) -> None:
    answer = PARAGRAPH * 700
    scripts = {"planner": plan_json(direct_answer=answer)}
    async with connected(tmp_path, scripts, client_info=UNKNOWN) as connection:
        planned = await ask(connection, "plan_task", {"task": "x"})
        first = planned["direct_answer"]
        assert f"offset {planned['next_offset']}" in planned["next"]
        rest = await ask(
            connection,
            "get_run",
            {"run_id": planned["plan_id"], "offset": planned["next_offset"]},
        )
        more, _ = await read_on(connection, rest, "answer", run_id=planned["plan_id"])
    assert first + more == answer


@pytest.mark.parametrize("mode", ERAS)
@pytest.mark.parametrize(
    ("name", "calls"),
    [
        ("claude-code", 1),
        ("Claude-Code", 1),
        ("gemini-cli-mcp-client-concertmaster", 1),
        ("opencode", 1),
        ("qwen-cli-mcp-client-concertmaster", 1),
        ("mcp", 1),
        ("codex-mcp-client", 2),
        ("github-copilot-developer", 2),
        ("@cline/core", 3),
        ("unheard-of", 3),
    ],
)
async def test_an_answer_of_18_000_characters_takes_as_few_calls_as_the_client_allows(
    name: str, calls: int, mode: str, tmp_path: Path
) -> None:
    answer = (PARAGRAPH * 300)[:18_000].strip()
    client, read = profile_named(name), list[str]()
    async with connected(
        tmp_path, default=answer, mode=mode, client_info=named(name)
    ) as connection:
        await connection.client.list_tools()
        arguments: dict[str, Any] = {"worker": "analyst", "task": "write"}
        result = await connection.client.call_tool("run_worker", arguments)
        run_id = structured(result)["run_id"]
        while True:
            read.append(read_by_model(result, client.reads))
            offset = re.search(r"offset (\d+) for the rest", read[-1])
            if offset is None:
                break
            arguments = {"run_id": run_id, "offset": int(offset[1])}
            result = await connection.client.call_tool("get_run", arguments)
    assert len(read) == calls
    assert all(client.measure(text) <= client.size for text in read)
    copies = 2 if client.reads == "either" else 1
    found = sum(text.count("It was found that") for text in read)
    assert found == answer.count("It was found that") * copies


@pytest.mark.parametrize("mode", ERAS)
@pytest.mark.parametrize("client", client_profiles(), ids=lambda client: client.client)
async def test_every_client_reads_each_fact_of_a_run(
    client: ClientProfile, mode: str, tmp_path: Path
) -> None:
    plan = plan_json(subtask("s1", "analyst", objective="count them"), subtask("s2", "critic"))
    scripts = {
        "planner": plan,
        "worker:critic": ModelRequestError("no"),
        "synthesizer": "41 in all",
    }
    name = client.names[0].replace("*", "-x")
    async with connected(tmp_path, scripts, mode=mode, client_info=named(name)) as connection:
        await connection.client.list_tools()
        result = await connection.client.call_tool("run_orchestration", {"task": "count"})
        runs = await connection.client.call_tool("get_run", {})
    run_id = structured(result)["run_id"]
    read = read_by_model(result, client.reads)
    facts = ("41 in all", "partial", "count them", "s2", "critic", "failed", "subtask_id", "/trace")
    assert [fact for fact in (run_id, *facts) if fact not in read] == []
    assert run_id in read_by_model(runs, client.reads)


@pytest.mark.parametrize("client", client_profiles(), ids=lambda client: client.client)
async def test_a_wide_run_fits_into_what_each_client_takes(
    client: ClientProfile, tmp_path: Path
) -> None:
    plan = plan_json(*(wide(number, WIDE) for number in range(50)))
    scripts = {"planner": plan, "synthesizer": QUOTES * 50}
    policy = RunPolicy(limits=Limits(slots=50))
    name = client.names[0].replace("*", "-x")
    async with connected(
        tmp_path, scripts, policy=policy, notice="Offline. " * 9, client_info=named(name)
    ) as connection:
        call = connection.client.call_tool
        planned = await call("plan_task", wide_run(WIDE))
        plan_id = structured(planned)["plan_id"]
        run = await call("run_orchestration", {"plan_id": plan_id})
        run_id = structured(run)["run_id"]
        found = await call("get_run", {"run_id": run_id, "subtask_id": f"s1-{'i' * 35}"})
        listed = await call("get_run", {})
    for result in (planned, run, found, listed):
        assert not result.is_error
        assert client.measure(read_by_model(result, client.reads)) <= client.size


async def test_an_offset_past_the_end_is_told_so(tmp_path: Path) -> None:
    async with connected(tmp_path, default="short") as connection:
        run = await connection.ask("run_worker", worker="analyst", task="x")
        sentence = await connection.refusal("get_run", run_id=run["run_id"], offset=9)
        other = await connection.refusal("get_run", run_id=run["run_id"], subtask_id="s1", offset=9)
    assert (
        sentence
        == other
        == (
            "offset is 9, but the text has 5 characters. "
            "Leave offset out to read it from its beginning."
        )
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One paragraph.\n\nAnd another one", "One paragraph.\n\n"),
        ("First line, and\nsecond line, too long", "First line, and\n"),
        ("A sentence here. And one more of them", "A sentence here. "),
        ("several words without a dot at all", "several words "),
        ("Donaudampfschifffahrtsgesellschaft", "Donaudampfschifffahr"),
        ("fits in one page", "fits in one page"),
    ],
)
def test_a_page_ends_where_a_reader_would_stop(text: str, expected: str) -> None:
    assert page_of(text, offset=0, limit=20).text == expected


def test_a_line_is_cut_and_freed_of_control_characters() -> None:
    assert one_line("two\nlines \x1b[31mred", 40) == "two lines [31mred"
    assert one_line("abcdef", 4) == "abc…"
    assert one_line(" " * 40 + "x", 4) == "…"


def test_a_client_that_does_not_say_its_name_is_treated_as_an_unknown_one() -> None:
    @dataclass
    class Session:
        client_params: InitializeRequestParams | None = None

    assert profile_of(Session()) == profile_named("unheard-of")


def test_each_client_profile_says_where_it_was_observed_and_no_name_has_two() -> None:
    names = [name for client in client_profiles() for name in client.names]
    assert len(set(names)) == len(names)
    assert all(len(client.source) > 40 for client in client_profiles())
    assert [profile_named(client.names[0]) for client in client_profiles()] == [*client_profiles()]
