"""Requests and replies, over the real SDK."""

import re
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator
from dataclasses import replace
from importlib.abc import MetaPathFinder
from typing import Any

import anyio
import httpx2
import pytest
from anyio import to_thread

from concertmaster.errors import ModelReplyError, ModelUnavailableError, SettingsError
from concertmaster.llm.anthropic import Connection
from concertmaster.llm.messages import (
    AssistantMessage,
    Draft,
    Image,
    Reply,
    Request,
    ToolCall,
    ToolMessage,
    ToolOutcome,
    ToolSpec,
    UserMessage,
)
from concertmaster.llm.token_count import most_tokens_in
from concertmaster.llm.usage import Usage
from scripted_anthropic import (
    EVENT_STREAM,
    KEY,
    Provider,
    ask,
    block,
    connected,
    ended,
    event,
    started,
    stream,
    text_block,
    tool_block,
    whole,
)

pytestmark = pytest.mark.anyio


async def reply_to(request: Request, *events: bytes | Exception) -> tuple[Reply, dict[str, Any]]:
    """Return the reply, and the body of the request that was sent for it."""
    provider = Provider(stream(*(events or (whole(),))))
    async with connected(provider) as llm:
        return await llm.complete(request, Draft()), provider.body


class SlowImport(MetaPathFinder):
    """Makes the import of a module wait."""

    def __init__(self, module: str) -> None:
        self._module = module
        self.reached = threading.Event()
        self.let_go = threading.Event()

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        del path, target
        if fullname == self._module:
            self.reached.set()
            self.let_go.wait(60)
            raise ImportError(fullname)


async def test_a_call_that_is_cancelled_does_not_wait_for_the_import_of_the_sdk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow = SlowImport("concertmaster.llm.anthropic.client")
    monkeypatch.delitem(sys.modules, "concertmaster.llm.anthropic.client", raising=False)
    monkeypatch.setattr(sys, "meta_path", [slow, *sys.meta_path])
    try:
        async with connected(Provider(stream(whole()))) as llm:
            with anyio.fail_after(60):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(llm.complete, ask(), Draft())
                    await to_thread.run_sync(slow.reached.wait, 10)
                    tasks.cancel_scope.cancel()
            assert not slow.let_go.is_set()
    finally:
        slow.let_go.set()


async def test_a_reply_has_the_text_of_all_its_pieces_and_what_it_cost() -> None:
    reply, _ = await reply_to(
        ask(),
        started(cache_read_input_tokens=5000, cache_creation_input_tokens=2000),
        text_block("Because ", "it "),
        text_block("rained.", index=1),
        ended(),
    )
    assert (reply.text, reply.stop_reason, reply.detail) == ("Because it rained.", "end", "")
    usage = reply.usage
    assert usage.model_dump(exclude={"usd", "saved_usd", "seconds"}) == {
        "model": "claude-sonnet-5-5",
        "calls": 1,
        "attempts": 1,
        "tokens_in": 1000,
        "estimated_in": 0,
        "tokens_out": 200,
        "estimated_out": 0,
        "cache_read": 5000,
        "cache_write": 2000,
        "searches": 0,
        "fetches": 0,
        "containers": 0,
    }
    assert usage.usd == pytest.approx((1000 * 2 + 200 * 10 + 5000 * 0.1 + 2000 * 2.5) / 1e6)
    assert usage.saved_usd == pytest.approx((5000 * (2 - 0.1) + 2000 * (2 - 2.5)) / 1e6)
    assert usage.cache_hit_rate == 5000 / 8000
    assert usage.seconds >= 0


async def test_what_a_call_will_cost_is_known_before_it_is_made() -> None:
    async with connected(Provider()) as llm:
        asked = Usage(tokens_in=1000, tokens_out=200, cache_read=5000, cache_write=2000)
        expected = llm.expected("sonnet", asked)
        assert expected.usd == pytest.approx((1000 * 2 + 200 * 10 + 5000 * 0.1 + 2000 * 2.5) / 1e6)
        assert expected.tokens == asked.tokens
        assert llm.expected("house-model", asked).usd is None


async def test_the_last_report_of_input_tokens_holds() -> None:
    reply, _ = await reply_to(ask(), started(), text_block("x"), ended(input_tokens=1234))
    assert reply.usage.tokens_in == 1234


async def test_the_usage_names_the_model_that_answered() -> None:
    reply, _ = await reply_to(
        ask(model="haiku"), started(model="claude-haiku-4-5-20251001"), text_block("x"), ended()
    )
    assert reply.usage.model == "claude-haiku-4-5-20251001"
    assert reply.usage.usd == pytest.approx((1000 * 1 + 200 * 5) / 1e6)


async def test_a_model_without_a_price_costs_an_unknown_sum() -> None:
    reply, body = await reply_to(
        ask(model="house-model"), started(model="house-model"), text_block("x"), ended()
    )
    assert body["model"] == "house-model"
    assert reply.usage.usd is None


async def test_a_count_below_zero_is_not_believed() -> None:
    reply, _ = await reply_to(
        ask(), started(cache_read_input_tokens=-5), text_block("x"), ended(output_tokens=-3)
    )
    usage = reply.usage
    assert (usage.tokens_in, usage.tokens_out, usage.cache_read) == (1000, 1 + 1, 0)


@pytest.mark.parametrize("name", ["", None])
async def test_a_reply_that_names_no_model_is_of_the_one_that_was_asked(name: Any) -> None:
    reply, _ = await reply_to(ask(), started(model=name), text_block("x"), ended())
    assert reply.usage.model == "claude-sonnet-5-5"
    assert reply.usage.usd == pytest.approx((1000 * 2 + 200 * 10) / 1e6)


async def test_a_character_that_comes_in_two_halves_is_whole() -> None:
    reply, _ = await reply_to(
        ask(), started(), text_block("so \ud83d", "\ude00 far \ud83d"), ended()
    )
    assert reply.text == "so \N{GRINNING FACE} far \ufffd"


async def test_half_a_character_in_a_tool_call_or_a_thought_can_be_given_back() -> None:
    reply, _ = await reply_to(
        ask(tools=[TOOL]),
        started(),
        block(0, {"type": "thinking", "thinking": "Hm \ud800", "signature": ""}),
        tool_block("t1", "lint", r'{"\ud800": "a\udc00.py"}', index=1),
        ended("tool_use"),
    )
    assert reply.tool_calls[0].arguments == {"\ufffd": "a\ufffd.py"}
    said = AssistantMessage(tool_calls=reply.tool_calls, native=reply.native)
    outcome = ToolMessage(outcomes=(ToolOutcome(id="t1", text="clean"),))
    _, body = await reply_to(ask(UserMessage(text="Why?"), said, outcome))
    assert body["messages"][1]["content"] == list(reply.native)
    assert Reply.model_validate_json(reply.model_dump_json()) == reply


async def test_what_is_shared_comes_first_and_is_marked_for_caching() -> None:
    _, body = await reply_to(ask(shared="<document>…</document>", model="opus"))
    cached = {"cache_control": {"type": "ephemeral"}}
    assert body == {
        "model": "claude-opus-5-5",
        "max_tokens": 500,
        "stream": True,
        "system": [{"type": "text", "text": "You are an analyst."} | cached],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "<document>…</document>"} | cached,
                    {"type": "text", "text": "Why?"},
                ],
            }
        ],
    }


async def test_nothing_is_sent_for_what_a_request_does_not_have() -> None:
    _, body = await reply_to(ask(system=""))
    assert set(body) == {"model", "max_tokens", "stream", "messages"}
    assert body["messages"][0]["content"] == [{"type": "text", "text": "Why?"}]


async def test_an_output_schema_constrains_the_reply_and_its_text_is_left_as_it_is() -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 1}},
        "required": ["n"],
    }
    reply, body = await reply_to(ask(output_schema=schema), whole('{"n": 0'))
    assert reply.text == '{"n": 0'
    assert body["output_config"]["format"] == {
        "type": "json_schema",
        "schema": {
            "type": "object",
            "properties": {"n": {"type": "integer", "description": "{minimum: 1}"}},
            "required": ["n"],
            "additionalProperties": False,
        },
    }


async def test_a_schema_that_cannot_constrain_the_reply_is_told_in_words() -> None:
    _, body = await reply_to(ask(output_schema={"type": "object"}))
    assert "output_config" not in body
    last = body["messages"][0]["content"][-1]
    assert last["text"].endswith('{"type": "object"}')
    # Below all that is cached, which other requests share.
    assert "cache_control" not in last


TOOL = ToolSpec(name="lint", description="Lints.", input_schema={"type": "object"})


async def test_tools_are_offered_and_the_calls_of_them_come_back() -> None:
    reply, body = await reply_to(
        ask(tools=[TOOL]),
        started(),
        text_block("I look."),
        tool_block("t1", "lint", '{"path": ', '"a.py"}', index=1),
        tool_block("t2", "lint", index=2),
        tool_block("t3", "lint", "", index=3),
        ended("tool_use"),
    )
    assert body["tools"] == [
        {"name": "lint", "description": "Lints.", "input_schema": {"type": "object"}}
    ]
    assert (reply.text, reply.stop_reason) == ("I look.", "tool_use")
    assert reply.tool_calls == (
        ToolCall(id="t1", name="lint", arguments={"path": "a.py"}),
        ToolCall(id="t2", name="lint", arguments={}),
        ToolCall(id="t3", name="lint", arguments={}),
    )
    assert reply.native == ()


def tools(*names: str) -> list[ToolSpec]:
    return [replace(TOOL, name=name) for name in names]


LONG = "server." + "very_" * 20


async def test_tools_have_names_that_the_provider_takes_and_are_called_by_our_own() -> None:
    ours = ("time.now", "time__now", "a.b.c d", "read_file", LONG)
    _, body = await reply_to(ask(tools=tools(*ours)))
    theirs = [tool["name"] for tool in body["tools"]]
    assert theirs[1:4] == ["time__now", "a__b_c_d", "read_file"]
    assert re.fullmatch(r"time__now_[0-9a-f]{8}", theirs[0])
    assert re.fullmatch(r"server__(very_)+[a-z]*_[0-9a-f]{8}", theirs[4])
    assert [name for name in theirs if len(name) > 64] == []
    calls = [tool_block(f"t{at}", name, index=at) for at, name in enumerate([*theirs, "none"])]
    reply, _ = await reply_to(ask(tools=tools(*ours)), started(), *calls, ended("tool_use"))
    assert [call.name for call in reply.tool_calls] == [*ours, "none"]


async def test_what_the_provider_refuses_in_a_schema_is_left_to_the_tool() -> None:
    choice = {"type": "object", "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}
    _, body = await reply_to(ask(tools=[replace(TOOL, input_schema=choice)]))
    assert body["tools"][0]["input_schema"] == {"type": "object"}


async def test_earlier_calls_have_the_names_under_which_tools_are_offered() -> None:
    call = ToolCall(id="t1", name="time.now", arguments={})
    messages = (
        UserMessage(text="When?"),
        AssistantMessage(tool_calls=(call,)),
        ToolMessage(outcomes=(ToolOutcome(id="t1", text="noon"),)),
    )
    _, body = await reply_to(ask(*messages, tools=tools("time.now")))
    assert body["messages"][1]["content"][0]["name"] == body["tools"][0]["name"] == "time__now"
    _, body = await reply_to(ask(*messages))
    assert body["messages"][1]["content"][0]["name"] == "time__now"


async def test_outcomes_of_tool_calls_are_given_back_in_the_next_request() -> None:
    call = ToolCall(id="t1", name="lint", arguments={"path": "a.py"})
    _, body = await reply_to(
        ask(
            UserMessage(text="Why?"),
            AssistantMessage(text="I look.", tool_calls=(call,)),
            ToolMessage(outcomes=(ToolOutcome(id="t1", text="No such file.", failed=True),)),
            AssistantMessage(tool_calls=(call,)),
            ToolMessage(outcomes=(ToolOutcome(id="t1", text="clean"),)),
        )
    )
    used = {"type": "tool_use", "id": "t1", "name": "lint", "input": {"path": "a.py"}}
    answer: dict[str, Any] = {"type": "tool_result", "tool_use_id": "t1"}
    assert body["messages"][1:] == [
        {"role": "assistant", "content": [{"type": "text", "text": "I look."}, used]},
        {"role": "user", "content": [answer | {"content": "No such file.", "is_error": True}]},
        {"role": "assistant", "content": [used]},
        {"role": "user", "content": [answer | {"content": "clean", "is_error": False}]},
    ]


async def test_images_of_an_outcome_follow_its_text() -> None:
    call = ToolCall(id="t1", name="look", arguments={})
    image = Image(media_type="image/png", data="iVBORw0KGgo=")
    seen = ToolOutcome(id="t1", text="seen", images=(image,))
    _, body = await reply_to(
        ask(
            UserMessage(text="Look."),
            AssistantMessage(tool_calls=(call,)),
            ToolMessage(outcomes=(seen,)),
        )
    )
    source = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
    (result,) = body["messages"][-1]["content"]
    assert result["content"] == [
        {"type": "text", "text": "seen"},
        {"type": "image", "source": source},
    ]


async def test_thinking_that_led_to_tool_calls_is_given_back_as_it_came() -> None:
    """The provider wants it back, in place and with its signature."""
    reply, _ = await reply_to(
        ask(tools=[TOOL]),
        started(),
        block(
            0,
            {"type": "thinking", "thinking": "", "signature": ""},
            {"type": "thinking_delta", "thinking": "Hm, "},
            {"type": "thinking_delta", "thinking": "a file."},
            {"type": "signature_delta", "signature": "c2ln"},
        ),
        block(1, {"type": "redacted_thinking", "data": "ZGF0YQ"}),
        text_block(index=2),
        tool_block("t1", "lint", '{"path": "a.py"}', index=3),
        ended("tool_use"),
    )
    blocks = [
        {"type": "thinking", "thinking": "Hm, a file.", "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "ZGF0YQ"},
        {"type": "tool_use", "id": "t1", "name": "lint", "input": {"path": "a.py"}},
    ]
    assert reply.text == ""
    assert list(reply.native) == blocks
    _, body = await reply_to(
        ask(
            UserMessage(text="Why?"),
            AssistantMessage(tool_calls=reply.tool_calls, native=reply.native),
            ToolMessage(outcomes=(ToolOutcome(id="t1", text="clean"),)),
        )
    )
    assert body["messages"][1] == {"role": "assistant", "content": blocks}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("end_turn", "end"),
        ("stop_sequence", "end"),
        ("max_tokens", "max_tokens"),
        ("pause_turn", "pause"),
        ("model_context_window_exceeded", "context_full"),
    ],
)
async def test_every_reason_for_stopping_has_a_name_here(given: str, expected: str) -> None:
    reply, _ = await reply_to(ask(), started(), text_block("so far"), ended(given))
    assert (reply.text, reply.stop_reason, reply.detail) == ("so far", expected, "")


@pytest.mark.parametrize("given", ["moonrise", None])
async def test_a_reason_for_stopping_that_nobody_knows_does_not_pass_for_the_end(
    given: str | None,
) -> None:
    reply, _ = await reply_to(ask(), started(), text_block("so far"), ended(given))
    assert reply.stop_reason == "pause"
    assert reply.detail == f"it gave {given!r} as its reason for stopping"


@pytest.mark.parametrize(
    ("details", "expected"),
    [
        ({"type": "refusal", "category": "cyber", "explanation": "No."}, "cyber: No."),
        ({"type": "refusal", "category": None, "explanation": None}, ""),
        (None, ""),
    ],
)
async def test_a_refusal_comes_with_the_reason_and_is_paid_for(
    details: dict[str, Any] | None, expected: str
) -> None:
    reply, _ = await reply_to(ask(), started(), ended("refusal", stop_details=details))
    assert (reply.stop_reason, reply.detail) == ("refusal", expected)
    assert reply.usage.tokens_out == 200


async def test_a_reply_that_was_cut_asks_for_no_tools() -> None:
    reply, _ = await reply_to(
        ask(tools=[TOOL]), started(), tool_block("t1", "lint", '{"pa'), ended("max_tokens")
    )
    assert (reply.stop_reason, reply.tool_calls) == ("max_tokens", ())


async def test_events_and_pieces_of_unknown_kinds_are_passed_over() -> None:
    reply, _ = await reply_to(
        ask(),
        started(),
        event("ping"),
        event("weather", outlook="fair"),
        block(
            0,
            {"type": "text", "text": ""},
            {"type": "text_delta", "text": "done"},
            {"type": "citations_delta", "citation": {"type": "char_location"}},
        ),
        ended(),
    )
    assert reply.text == "done"


async def test_the_draft_shows_the_text_and_the_cost_as_they_come() -> None:
    seen: list[tuple[str, int, int]] = []

    def watch(draft: Draft) -> None:
        state = (draft.text, draft.usage.tokens_in, draft.usage.tokens_out)
        if state not in seen:
            seen.append(state)

    async with connected(Provider(stream(started(), text_block("a", "b"), ended()))) as llm:
        draft = Draft(watch)
        reply = await llm.complete(ask(), draft)
    assert draft.usage == reply.usage
    assert seen == [
        ("", 0, 0),
        ("", most_tokens_in(ask()).all, 0),
        ("", 1000, 1),
        ("a", 1000, 1),
        ("ab", 1000, 1),
        ("ab", 1000, 200),
    ]


class Hanging(httpx2.AsyncByteStream):
    """A body that begins and then hangs until it is given up."""

    def __init__(self, beginning: bytes) -> None:
        self._beginning = beginning
        self.reached = anyio.Event()
        self.closed = False

    def __aiter__(self) -> "Hanging":
        return self

    async def __anext__(self) -> bytes:
        if self._beginning:
            beginning, self._beginning = self._beginning, b""
            return beginning
        self.reached.set()
        await anyio.sleep_forever()
        raise AssertionError("unreachable")

    async def aclose(self) -> None:
        self.closed = True


def unfinished(kind: str, **delta: str) -> bytes:
    """Return the beginning of a reply that is broken off in its first block."""
    starts: dict[str, dict[str, Any]] = {
        "text": {"text": ""},
        "thinking": {"thinking": "", "signature": ""},
        "tool_use": {"id": "t1", "name": "look", "input": {}},
    }
    begun = event("content_block_start", index=0, content_block={"type": kind, **starts[kind]})
    return started() + begun + event("content_block_delta", index=0, delta=delta)


@pytest.mark.parametrize(
    ("beginning", "estimated"),
    [
        (started(), 0),
        (unfinished("text", type="text_delta", text="x" * 1000), 400),
        (unfinished("text", type="text_delta", text="\u6c34" * 100), 120),
        (unfinished("thinking", type="thinking_delta", thinking="y" * 50), 20),
        (unfinished("tool_use", type="input_json_delta", partial_json='{"a": "b"'), 4),
        # No reply is longer than it may be.
        (unfinished("text", type="text_delta", text="x" * 10_000), 499),
    ],
)
async def test_what_came_of_a_reply_that_is_broken_off_is_counted_by_its_length(
    beginning: bytes, estimated: int
) -> None:
    expected = (1 + estimated, estimated, pytest.approx((1000 * 2 + (1 + estimated) * 10) / 1e6))
    draft = Draft()
    body = Hanging(beginning)
    provider = Provider(httpx2.Response(200, stream=body))
    async with connected(provider) as llm, anyio.create_task_group() as tasks:
        tasks.start_soon(llm.complete, ask(), draft)
        await body.reached.wait()
        tasks.cancel_scope.cancel()
    assert (draft.usage.tokens_out, draft.usage.estimated_out, draft.usage.usd) == expected
    with pytest.raises(ModelUnavailableError) as lost:
        await reply_to(ask(), beginning, httpx2.ReadError("lost"))
    assert lost.value.usage is not None
    usage = lost.value.usage
    assert (usage.tokens_out, usage.estimated_out, usage.usd) == expected


async def test_what_the_provider_reports_takes_the_place_of_the_estimate() -> None:
    told = event("message_delta", delta={"stop_reason": None}, usage={"output_tokens": 70})
    more = event("content_block_delta", index=0, delta={"type": "text_delta", "text": "z" * 25})
    beginning = unfinished("text", type="text_delta", text="x" * 1000) + told
    for events, expected in (((beginning,), (70, 0)), ((beginning, more), (80, 10))):
        with pytest.raises(ModelUnavailableError) as lost:
            await reply_to(ask(), *events, httpx2.ReadError("lost"))
        assert lost.value.usage is not None
        assert (lost.value.usage.tokens_out, lost.value.usage.estimated_out) == expected


async def test_a_call_that_is_cancelled_tells_what_it_had_cost_and_lets_the_connection_go() -> None:
    body = Hanging(started() + text_block("so far"))
    draft = Draft()
    async with connected(Provider(httpx2.Response(200, stream=body))) as llm:
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(llm.complete, ask(), draft)
                await body.reached.wait()
                tasks.cancel_scope.cancel()
    assert draft.text == "so far"
    assert draft.usage.seconds > 0
    assert (draft.usage.attempts, draft.usage.tokens_in) == (1, 1000)
    assert draft.usage.usd == pytest.approx((1000 * 2 + (1 + 3) * 10) / 1e6)
    assert body.closed


class Withholding(httpx2.AsyncBaseTransport):
    """Has a response ready, and hands it over once it is released."""

    def __init__(self, response: httpx2.Response) -> None:
        self._response = response
        self.asked = anyio.Event()
        self.released = anyio.Event()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        await request.aread()
        self.asked.set()
        await self.released.wait()
        return self._response


async def test_a_reply_that_has_arrived_when_its_call_is_cancelled_is_counted_as_reported() -> None:
    provider, draft = Withholding(stream(whole())), Draft()
    async with connected(provider) as llm:
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(llm.complete, ask(), draft)
                await provider.asked.wait()
                provider.released.set()
                tasks.cancel_scope.cancel()
    assert (draft.usage.tokens_in, draft.usage.tokens_out) == (1000, 200)
    assert draft.usage.estimated == 0


async def test_the_input_of_a_call_that_is_cancelled_before_its_first_byte_is_estimated() -> None:
    provider, draft = Withholding(stream(whole())), Draft()
    request = ask(UserMessage(text="x" * 10_000))
    async with connected(provider) as llm:
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(llm.complete, request, draft)
                await provider.asked.wait()
                tasks.cancel_scope.cancel()
    usage = draft.usage
    assert usage.tokens_in == usage.estimated_in == most_tokens_in(request).all > 4000
    assert (usage.attempts, usage.tokens_out) == (1, 0)
    assert usage.usd == pytest.approx(usage.tokens_in * 2 / 1e6)


async def test_a_whole_reply_is_handed_on_though_its_response_does_not_end() -> None:
    body = Hanging(whole("done"))
    async with connected(Provider(httpx2.Response(200, stream=body))) as llm:
        with anyio.fail_after(60):
            reply = await llm.complete(ask(), Draft())
    assert reply.text == "done"
    assert body.reached.is_set()
    assert body.closed


async def test_a_whole_reply_is_not_lost_to_what_becomes_of_the_connection_after_it() -> None:
    lost = httpx2.ReadError("reset by peer")
    reply, _ = await reply_to(ask(), started(), text_block("done"), ended(), lost)
    assert reply.text == "done"
    unreadable = event("error", error={"type": "overloaded_error", "message": "Overloaded"})
    reply, _ = await reply_to(ask(), whole("done"), unreadable)
    assert reply.text == "done"


async def test_a_response_is_read_to_its_end_so_that_its_connection_serves_others() -> None:
    read: list[str] = []

    async def body() -> AsyncGenerator[bytes]:
        yield whole("done")
        yield event("ping")
        read.append("all")

    response = httpx2.Response(200, headers=EVENT_STREAM, content=body())
    async with connected(Provider(response)) as llm:
        await llm.complete(ask(), Draft())
    assert read == ["all"]


@pytest.mark.parametrize(
    ("connection", "expected"),
    [
        ({}, {"authorization": f"Bearer {KEY}"}),
        ({"auth_header": "x-api-key"}, {"x-api-key": KEY}),
        ({"api_key": None, "auth_token": "token"}, {"authorization": "Bearer token"}),
        (
            {"api_key": None, "auth_token": "token", "auth_header": "x-api-key"},
            {"authorization": "Bearer token"},
        ),
        ({"api_key": None, "base_url": "http://gateway.test"}, {}),
    ],
)
async def test_the_key_is_sent_in_the_one_way_that_was_asked_for(
    connection: dict[str, Any], expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-of-somebody-else")
    provider = Provider(stream(whole()))
    async with connected(provider, **connection) as llm:
        await llm.complete(ask(), Draft())
    headers = provider.requests[0].headers
    names = ("authorization", "x-api-key")
    assert {name: headers[name] for name in names if name in headers} == expected


async def test_requests_go_to_the_address_and_wait_as_long_as_the_settings_say() -> None:
    provider = Provider(stream(whole()))
    async with connected(provider, base_url="http://gateway.test/x", idle_seconds=7) as llm:
        await llm.complete(ask(), Draft())
    request = provider.requests[0]
    assert str(request.url) == "http://gateway.test/x/v1/messages"
    assert request.extensions["timeout"]["read"] == 7
    assert request.extensions["timeout"]["connect"] == 10


async def test_an_alias_is_shown_as_the_model_it_stands_for() -> None:
    async with connected(Provider()) as llm:
        assert llm.model_name("haiku") == "claude-haiku-5-5"
        assert llm.model_name("my-model") == "my-model"
        assert llm.notice == ""


async def test_one_connection_serves_all_calls_and_is_closed_at_the_end() -> None:
    provider = Provider(stream(whole()), stream(whole()))
    async with connected(provider) as llm, anyio.create_task_group() as tasks:
        tasks.start_soon(llm.complete, ask(), Draft())
        tasks.start_soon(llm.complete, ask(), Draft())
    assert len(provider.requests) == 2
    assert provider.closed


@pytest.mark.parametrize("field", ["api_key", "auth_token"])
def test_a_key_with_a_stray_character_is_refused_and_not_quoted(field: str) -> None:
    """Sent as it is, it would come back in the transport's error."""
    for bad in ("sk-secret\nx", "sk secret", "clé-secret"):
        given: dict[str, Any] = {field: bad}
        with pytest.raises(SettingsError) as caught:
            Connection(**given)
        assert "secret" not in str(caught.value)
        assert field in str(caught.value)


def test_a_key_and_a_token_together_are_refused() -> None:
    with pytest.raises(SettingsError):
        Connection(api_key="a", auth_token="b")  # noqa: S106


def test_without_a_key_the_error_says_what_to_set() -> None:
    with pytest.raises(SettingsError, match="Set CONCERTMASTER_API_KEY or ANTHROPIC_API_KEY"):
        Connection()


def test_a_connection_does_not_show_its_secrets() -> None:
    shown = repr(Connection(api_key="sk-secret")) + repr(Connection(auth_token="sk-secret"))  # noqa: S106
    assert "sk-secret" not in shown


async def test_the_key_is_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    for library in (None, "anthropic", "httpx2", "httpcore2"):
        caplog.set_level(0, library)
    for auth_header in ("bearer", "x-api-key"):
        provider = Provider(stream(started(), httpx2.ReadError("gone")))
        async with connected(provider, auth_header=auth_header) as llm:
            with pytest.raises(Exception, match="gone") as caught:
                await llm.complete(ask(), Draft())
            assert KEY not in repr(llm) + repr(caught.value) + repr(caught.value.__cause__)
    assert caplog.records
    assert KEY not in caplog.text


def test_the_sdk_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, concertmaster.llm.anthropic; print('anthropic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


async def test_arguments_that_are_no_json_make_the_reply_unusable() -> None:
    for arguments in ('{"path"', '["a.py"]'):
        with pytest.raises(ModelReplyError) as caught:
            await reply_to(ask(), started(), tool_block("t", "lint", arguments), ended("tool_use"))
        assert caught.value.usage is not None
        assert caught.value.usage.tokens_out == 200
