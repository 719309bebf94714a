"""The scripted endpoint over HTTP: replies, limits, faults and the ledger."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx2
import pytest

from concertmaster.errors import SettingsError
from concertmaster.fake_api import Behaviour, Fault, ServedApi, serve_fake_api

pytestmark = pytest.mark.anyio

Events = list[tuple[str, str]]


class Client:
    """Sends requests, and reads streams as the names and data of their events."""

    def __init__(self, http: httpx2.AsyncClient, api: ServedApi) -> None:
        self.http = http
        self.api = api

    async def post(self, **fields: Any) -> httpx2.Response:
        body: dict[str, Any] = {
            "model": "claude-sonnet-5-5",
            "max_tokens": 1000,
            "stream": True,
            "messages": [{"role": "user", "content": "Why?"}],
        }
        return await self.http.post("/v1/messages", json=body | fields)

    async def events(self, **fields: Any) -> Events:
        response = await self.post(**fields)
        assert response.status_code == 200, response.text
        return events_of(response.text)


def events_of(body: str) -> Events:
    events: Events = []
    for part in filter(None, body.split("\n\n")):
        kind, data = part.split("\n")
        events.append((kind.removeprefix("event: "), data.removeprefix("data: ")))
    return events


def text_of(events: Events) -> str:
    deltas = [json.loads(data) for kind, data in events if kind == "content_block_delta"]
    return "".join(event["delta"]["text"] for event in deltas)


def end_of(events: Events) -> dict[str, Any]:
    return json.loads(dict(events)["message_delta"])


@asynccontextmanager
async def client(**behaviour: Any) -> AsyncGenerator[Client]:
    async with (
        serve_fake_api(Behaviour(**behaviour)) as api,
        httpx2.AsyncClient(base_url=api.address, timeout=60) as http,
    ):
        yield Client(http, api)


async def test_a_reply_is_streamed_and_charged() -> None:
    async with client(reply_tokens=10) as asking:
        events = await asking.events()
        (entry,) = asking.api.ledger.entries
    assert [kind for kind, _ in events] == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * 3,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert len(text_of(events)) == 40
    usage = json.loads(events[0][1])["message"]["usage"]
    assert usage["input_tokens"] == entry.tokens_in == 1
    assert end_of(events)["usage"]["output_tokens"] == entry.tokens_out == 10
    assert entry.ended is not None


async def test_the_ledger_can_be_read_over_http() -> None:
    async with client() as asking:
        response = await asking.post()
        ledger = (await asking.http.get("/ledger")).json()
    assert ledger["entries"][0]["request_id"] == response.headers["request-id"]
    assert ledger["totals"]["requests"] == 1


async def test_a_cached_beginning_is_charged_as_such() -> None:
    part = {"type": "text", "text": "x" * 8000, "cache_control": {"type": "ephemeral"}}
    async with client() as asking:
        for _ in range(2):
            await asking.events(system=[part])
        totals = asking.api.ledger.totals
    assert (totals.cache_write, totals.cache_read) == (2000, 2000)
    assert totals.charged_in == 2 * 1 + 1.25 * 2000 + 0.1 * 2000


async def test_a_reply_longer_than_its_limit_is_cut() -> None:
    async with client(reply_tokens=10) as asking:
        events = await asking.events(max_tokens=5)
    assert len(text_of(events)) == 20
    assert end_of(events)["delta"]["stop_reason"] == "max_tokens"


async def test_a_schema_is_kept() -> None:
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "count": {"type": "integer"},
            "sure": {"type": "boolean"},
            "none": {"type": "null"},
            "grade": {"enum": ["a", "b"]},
            "fixed": {"const": 3},
            "either": {"anyOf": [{"$ref": "#/$defs/leaf"}, {"type": "null"}]},
            "free": {"type": "array"},
        },
        "$defs": {"leaf": {"type": "array", "items": {"type": ["string", "null"]}}},
    }
    config = {"format": {"type": "json_schema", "schema": schema}}
    async with client() as asking:
        text = text_of(await asking.events(output_config=config))
    assert json.loads(text) == {
        "name": "words",
        "count": 1,
        "sure": False,
        "none": None,
        "grade": "a",
        "fixed": 3,
        "either": ["words"],
        "free": [],
    }


def plan_of(worker: dict[str, Any] | None) -> dict[str, Any]:
    one = {"type": "object", "properties": {"worker": worker} if worker else {}}
    return {"properties": {"subtasks": {"type": "array", "items": one}}, "type": "object"}


async def test_properties_have_the_values_that_were_asked_for() -> None:
    schema = {
        "type": "object",
        "properties": {
            "allowed": {"type": "boolean"},
            "parts": {
                "type": "array",
                "items": {"type": "object", "properties": {"allowed": {"type": "boolean"}}},
            },
            "sure": {"type": "boolean"},
        },
    }
    form = {"format": {"type": "json_schema", "schema": schema}}
    async with client(values={"allowed": True}) as asking:
        events = await asking.events(output_config=form)
    assert json.loads(text_of(events)) == {
        "allowed": True,
        "parts": [{"allowed": True}],
        "sure": False,
    }


@pytest.mark.parametrize(
    ("outcome", "line"), [("not_met", "Not done: "), ("partly_met", "Partly done: "), ("met", "")]
)
async def test_a_reply_in_words_begins_with_the_outcome_that_was_asked_for(
    outcome: str, line: str
) -> None:
    async with client(values={"outcome": outcome}) as given:
        text = text_of(await given.events())
    assert text.startswith(line or "Some words")


async def test_the_ledger_tells_when_a_whole_reply_had_been_sent() -> None:
    async with client(faults={"cut": 1.0}) as asking:
        await asking.events()
        assert asking.api.ledger.entries[0].sent is None
    async with client() as asking:
        await asking.events()
        (entry,) = asking.api.ledger.entries
        assert entry.sent is not None
        assert entry.began <= entry.sent <= asking.api.now()


@pytest.mark.parametrize(
    ("worker", "named"),
    [
        ({"enum": ["a", "b"]}, ["a", "b", "a"]),
        ({"anyOf": [{"enum": ["a", "b"]}, {"type": "string"}]}, ["a", "b", "a"]),
        ({"type": "string"}, ["words"]),
        (None, [None]),
    ],
)
async def test_a_plan_names_workers_that_there_are(
    worker: dict[str, Any] | None, named: list[str | None]
) -> None:
    config = {"format": {"type": "json_schema", "schema": plan_of(worker)}}
    async with client(subtasks=3) as asking:
        plan = json.loads(text_of(await asking.events(output_config=config)))
    assert [one.get("worker") for one in plan["subtasks"]] == named


MARKED_TOOLS = [{"name": str(number), "cache_control": "any"} for number in range(5)]


@pytest.mark.parametrize(
    ("fields", "status", "problem"),
    [
        ({"model": "gpt"}, 404, "model: gpt"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"stream": False}, 400, "stream"),
        ({"tools": MARKED_TOOLS}, 400, "at most 4"),
    ],
)
async def test_a_request_that_is_wrong_is_told_what_is(
    fields: dict[str, Any], status: int, problem: str
) -> None:
    async with client() as asking:
        response = await asking.post(**fields)
        assert asking.api.ledger.entries[0].status == status
    assert response.status_code == status
    assert problem in response.json()["error"]["message"]


async def test_only_the_right_key_is_accepted_if_there_is_one() -> None:
    async with client(key="right") as asking:
        statuses = [
            (await asking.http.post("/v1/messages", headers=headers, json={})).status_code
            for headers in ({}, {"x-api-key": "wrong"}, {"authorization": "Bearer right"})
        ]
    assert statuses == [401, 401, 400]


async def test_requests_beyond_the_limit_per_minute_are_refused_and_told_when_to_come() -> None:
    async with client(per_minute=2) as asking:
        responses = [await asking.post() for _ in range(3)]
    assert [response.status_code for response in responses] == [200, 200, 429]
    remaining = "anthropic-ratelimit-requests-remaining"
    assert [response.headers[remaining] for response in responses] == ["1", "0", "0"]
    assert 1 <= int(responses[2].headers["retry-after"]) <= 30


async def test_requests_beyond_those_at_once_are_refused_until_one_has_ended() -> None:
    async with client(concurrent=1, faults={"silence": 1.0}, silence_seconds=3600) as asking:
        body = {"model": "claude-x", "max_tokens": 9, "stream": True}
        body |= {"messages": [{"role": "user", "content": "Why?"}]}
        async with asking.http.stream("POST", "/v1/messages", json=body):
            assert (await asking.post()).status_code == 429
        with anyio.fail_after(60):
            while asking.api.ledger.entries[0].ended is None:
                await anyio.lowlevel.checkpoint()
        async with asking.http.stream("POST", "/v1/messages", json=body) as response:
            assert response.status_code == 200


@pytest.mark.parametrize(
    ("fault", "status", "retry_after"),
    [
        ("rate_limit", 429, "7"),
        ("rate_limit_bare", 429, None),
        ("overloaded", 529, None),
        ("server_error", 500, None),
        ("not_a_stream", 200, None),
        ("redirect", 302, None),
        ("forbidden", 403, None),
    ],
)
async def test_some_faults_are_errors_that_cost_nothing(
    fault: Fault, status: int, retry_after: str | None
) -> None:
    async with client(faults={fault: 1.0}, retry_after=7) as asking:
        response = await asking.post()
        (entry,) = asking.api.ledger.entries
    assert response.status_code == status
    assert response.headers.get("retry-after") == retry_after
    assert (entry.fault, entry.tokens_in, entry.tokens_out) == (fault, 0, 0)


@pytest.mark.parametrize(
    ("fault", "last"),
    [
        ("cut", "content_block_delta"),
        ("error_event", "error"),
        ("malformed", "content_block_delta"),
    ],
)
async def test_some_faults_end_a_stream_before_its_time(fault: Fault, last: str) -> None:
    async with client(faults={fault: 1.0}) as asking:
        events = await asking.events()
        (entry,) = asking.api.ledger.entries
    assert events[-1][0] == last
    assert "message_delta" not in dict(events)
    assert (entry.tokens_in, entry.tokens_out, entry.sent) == (1, 200, None)


async def test_malformed_data_is_no_json() -> None:
    async with client(faults={"malformed": 1.0}) as asking:
        events = await asking.events()
    with pytest.raises(json.JSONDecodeError):
        json.loads(events[-1][1])


async def test_a_reset_closes_the_connection_in_the_middle() -> None:
    async with client(faults={"reset": 1.0}) as asking:
        with pytest.raises(httpx2.RemoteProtocolError):
            await asking.post()


@pytest.mark.parametrize(
    ("fault", "reason", "text"),
    [
        ("refusal", "refusal", ""),
        ("empty", "end_turn", ""),
        ("wrong_schema", "end_turn", '{"unexpected": true}'),
        ("max_tokens", "max_tokens", "Some words of an ans"),
    ],
)
async def test_some_faults_are_replies_that_are_of_no_use(
    fault: Fault, reason: str, text: str
) -> None:
    async with client(faults={fault: 1.0}, reply_tokens=10) as asking:
        events = await asking.events()
    assert end_of(events)["delta"]["stop_reason"] == reason
    assert text_of(events) == text
    assert events[-1][0] == "message_stop"


async def test_a_port_that_is_taken_is_an_error() -> None:
    async with client() as asking:
        port = int(asking.api.address.rpartition(":")[2])
        with pytest.raises(SettingsError, match=f"Port {port} cannot be had"):
            async with serve_fake_api(port=port):
                raise AssertionError("unreachable")


SEARCH = {"type": "web_search_20260318", "name": "web_search"}


def kinds_of(events: Events) -> list[str]:
    starts = [json.loads(data) for kind, data in events if kind == "content_block_start"]
    return [event["content_block"]["type"] for event in starts]


async def test_a_request_that_lets_the_web_be_searched_is_answered_with_a_search() -> None:
    async with client() as asking:
        events = await asking.events(tools=[SEARCH])
        entry, totals = asking.api.ledger.entries[0], asking.api.ledger.totals
    assert kinds_of(events) == ["server_tool_use", "web_search_tool_result", "text"]
    usage = end_of(events)["usage"]
    assert usage["server_tool_use"]["web_search_requests"] == totals.searches == 1
    assert usage["input_tokens"] == entry.tokens_in > 500
    assert any("web_search_result_location" in data for _, data in events)


async def test_a_search_may_be_followed_by_a_pause_and_is_not_made_again() -> None:
    async with client(pause=True) as asking:
        first = await asking.events(tools=[SEARCH])
        said: list[dict[str, Any]] = [
            {"role": "user", "content": "Why?"},
            {"role": "assistant", "content": []},
        ]
        second = await asking.events(tools=[SEARCH], messages=said)
    assert kinds_of(first) == ["server_tool_use", "web_search_tool_result"]
    assert end_of(first)["delta"]["stop_reason"] == "pause_turn"
    assert kinds_of(second) == ["text"]
    assert end_of(second)["delta"]["stop_reason"] == "end_turn"
    assert any("web_search_result_location" in data for _, data in second)
