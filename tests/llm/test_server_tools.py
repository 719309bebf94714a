"""Tools that the provider calls itself, under the real SDK: what is asked, and what comes back."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from concertmaster.errors import ModelRequestError, ServerToolsRefusedError
from concertmaster.llm.messages import (
    MOST_SOURCES,
    AssistantMessage,
    Draft,
    Reply,
    Request,
    ServerTool,
    Source,
    ToolMessage,
    ToolOutcome,
    ToolSpec,
    UserMessage,
)
from scripted_anthropic import (
    Provider,
    ask,
    block,
    connected,
    ended,
    event,
    failure,
    started,
    stream,
    text_block,
    tool_block,
)

pytestmark = pytest.mark.anyio

SEARCH = ServerTool(name="web_search", max_uses=3, allowed_domains=("python.org",))
FETCH = ServerTool(name="web_fetch", max_uses=2, blocked_domains=("example.com",))
CODE = ServerTool(name="code_execution", max_uses=5)
LOOK = ToolSpec(name="look", description="looks", input_schema={"type": "object"})
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}

FOUND = {
    "type": "web_search_result",
    "url": "https://python.org/x",
    "title": "X",
    "encrypted_content": "c2VjcmV0",
    "page_age": "May 1, 2026",
}
CITATION = {
    "type": "web_search_result_location",
    "url": "https://python.org/x",
    "title": "X",
    "encrypted_index": "aW5kZXg=",
    "cited_text": "It  is\nso.",
}
PAGE = {
    "type": "web_fetch_result",
    "url": "https://python.org/page",
    "retrieved_at": "2026-11-21T12:00:00Z",
    "content": {
        "type": "document",
        "source": {"type": "text", "media_type": "text/plain", "data": "All of it."},
        "title": "Page",
        "citations": {"enabled": True},
    },
}


def use_block(use_id: str, name: str, *pieces: str, index: int = 0) -> bytes:
    """Return the events of a use of a tool whose arguments arrive in pieces of JSON."""
    start = {
        "type": "server_tool_use",
        "id": use_id,
        "name": name,
        "input": {},
        "caller": {"type": "direct"},
    }
    deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    return block(index, start, *deltas)


def result_block(use_id: str, kind: str, content: Any, index: int = 1) -> bytes:
    """Return the events of what came of a use."""
    start = {"type": f"{kind}_tool_result", "tool_use_id": use_id, "content": content}
    return block(index, start)


def cited_block(text: str, *citations: dict[str, Any], index: int = 2) -> bytes:
    """Return the events of a text that cites."""
    deltas: list[dict[str, Any]] = [{"type": "text_delta", "text": text}]
    deltas += [{"type": "citations_delta", "citation": one} for one in citations]
    return block(index, {"type": "text", "text": "", "citations": []}, *deltas)


def finished(reason: str = "end_turn", *, container: str = "", **served: int) -> bytes:
    """Return the events that end a reply, with what the provider did itself."""
    delta: dict[str, Any] = {"stop_reason": reason, "stop_sequence": None}
    if container:
        delta["container"] = {"id": container, "expires_at": "2026-12-01T00:00:00Z"}
    usage: dict[str, Any] = {"output_tokens": 200, "input_tokens": 9000}
    usage["server_tool_use"] = {"web_search_requests": 0, "web_fetch_requests": 0} | served
    return event("message_delta", delta=delta, usage=usage) + event("message_stop")


SEARCHED = (
    use_block("srv1", "web_search", '{"que', 'ry": "x"}'),
    result_block("srv1", "web_search", [FOUND]),
)


async def reply_to(request: Request, *events: bytes) -> tuple[Reply, dict[str, Any]]:
    provider = Provider(stream(*events))
    async with connected(provider) as llm:
        reply = await llm.complete(request, Draft())
    return reply, provider.body


def served(*tools: ServerTool, **fields: Any) -> Request:
    return ask(server_tools=tools, **fields)


async def test_each_tool_is_asked_for_in_its_current_version_and_within_its_bounds() -> None:
    request = served(SEARCH, FETCH, CODE, tools=[LOOK], container="cont_1")
    _, body = await reply_to(request, started(), text_block("so"), ended())
    assert [tool["name"] for tool in body["tools"]] == [
        "look",
        "web_search",
        "web_fetch",
        "code_execution",
    ]
    search, fetch, code = ({k: v for k, v in tool.items() if v} for tool in body["tools"][1:])
    assert search == {
        "type": "web_search_20260318",
        "name": "web_search",
        "max_uses": 3,
        "allowed_domains": ["python.org"],
        "allowed_callers": ["direct"],
    }
    assert fetch == {
        "type": "web_fetch_20260318",
        "name": "web_fetch",
        "max_uses": 2,
        "max_content_tokens": 10_000,
        "citations": {"enabled": True},
        "blocked_domains": ["example.com"],
        "allowed_callers": ["direct"],
    }
    assert code == {"type": "code_execution_20260521", "name": "code_execution"}
    assert body["container"] == "cont_1"


async def test_a_request_for_nothing_of_the_providers_has_neither_tools_nor_a_container() -> None:
    _, body = await reply_to(ask(), started(), text_block("so"), ended())
    assert not {"tools", "container"} & set(body)


async def test_a_search_is_told_with_its_arguments_and_what_it_found() -> None:
    reply, _ = await reply_to(
        served(SEARCH), started(), *SEARCHED, cited_block("So."), finished(web_search_requests=1)
    )
    (use,) = reply.server_tool_uses
    assert (use.id, use.name, use.arguments, use.error) == (
        "srv1",
        "web_search",
        {"query": "x"},
        "",
    )
    assert use.result == "X https://python.org/x May 1, 2026"
    assert use.result_chars == len(use.result)
    assert 0 <= use.seconds <= use.ago
    assert (reply.text, reply.stop_reason, reply.native) == ("So.", "end", ())


async def test_searches_are_counted_and_priced_to_the_cent() -> None:
    reply, _ = await reply_to(
        served(SEARCH, FETCH),
        started(),
        *SEARCHED,
        text_block("So.", index=2),
        finished(web_search_requests=2, web_fetch_requests=4),
    )
    usage = reply.usage
    assert (usage.searches, usage.fetches, usage.containers) == (2, 4, 0)
    assert usage.usd == pytest.approx((9000 * 2 + 200 * 10) / 1e6 + 2 * 0.01)


async def test_an_endpoint_may_count_searches_alone() -> None:
    end = event(
        "message_delta",
        delta={"stop_reason": "end_turn", "stop_sequence": None},
        usage={"output_tokens": 5, "server_tool_use": {"web_search_requests": 3}},
    )
    reply, _ = await reply_to(
        served(SEARCH), started(), text_block("So."), end, event("message_stop")
    )
    assert (reply.usage.searches, reply.usage.fetches) == (3, 0)


async def test_what_a_text_cites_is_kept_once_for_each_passage() -> None:
    long = {**CITATION, "cited_text": "word " * 200, "title": None}
    reply, _ = await reply_to(
        served(SEARCH), started(), *SEARCHED, cited_block("So.", CITATION, CITATION, long), ended()
    )
    first, second = reply.sources
    assert first == Source(url="https://python.org/x", title="X", cited="It is so.")
    assert (second.title, len(second.cited), second.cited[-1]) == ("", 300, "…")


async def test_a_result_has_no_more_sources_than_are_kept() -> None:
    many = [CITATION | {"url": f"https://python.org/{number}"} for number in range(40)]
    reply, _ = await reply_to(
        served(SEARCH), started(), cited_block("So.", *many, index=0), ended()
    )
    assert len(reply.sources) == MOST_SOURCES


def page_citation(number: int) -> dict[str, Any]:
    return {
        "type": "char_location",
        "cited_text": "All of it.",
        "document_index": number,
        "document_title": "Page",
        "start_char_index": 0,
        "end_char_index": 10,
        "file_id": None,
    }


async def test_a_fetched_page_is_cited_by_its_address() -> None:
    reply, _ = await reply_to(
        served(FETCH),
        started(),
        use_block("srv1", "web_fetch", '{"url": "https://python.org/page"}'),
        result_block("srv1", "web_fetch", PAGE),
        cited_block("So.", page_citation(0), page_citation(1)),
        finished(web_fetch_requests=1),
    )
    # The second is of a page that nobody has fetched.
    assert reply.sources == (
        Source(url="https://python.org/page", title="Page", cited="All of it."),
    )
    assert reply.server_tool_uses[0].result == "https://python.org/page\nAll of it."


async def test_a_page_of_an_earlier_reply_is_cited_by_its_address_too() -> None:
    earlier: dict[str, Any] = {
        "type": "web_fetch_tool_result",
        "tool_use_id": "srv0",
        "content": PAGE,
    }
    request = served(
        FETCH,
        messages=(
            UserMessage(text="Why?"),
            AssistantMessage(native=(earlier,)),
        ),
    )
    other = PAGE | {"url": "https://python.org/other"}
    reply, _ = await reply_to(
        request,
        started(),
        result_block("srv1", "web_fetch", other, index=0),
        cited_block("So.", page_citation(0), page_citation(1), index=1),
        ended(),
    )
    assert [source.url for source in reply.sources] == [
        "https://python.org/page",
        "https://python.org/other",
    ]


async def test_a_pdf_is_told_of_but_not_shown() -> None:
    source = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}
    page = PAGE | {"content": {"type": "document", "source": source, "title": None}}
    reply, _ = await reply_to(
        served(FETCH), started(), result_block("srv1", "web_fetch", page, index=0), ended()
    )
    assert reply.server_tool_uses[0].result == "https://python.org/page\n(application/pdf)"


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("web_search", "max_uses_exceeded"),
        ("web_fetch", "url_not_allowed"),
        ("code_execution", "unavailable"),
    ],
)
async def test_what_goes_wrong_with_a_tool_is_told_in_the_providers_word(
    kind: str, code: str
) -> None:
    error = {"type": f"{kind}_tool_result_error", "error_code": code}
    reply, _ = await reply_to(
        served(SEARCH),
        started(),
        use_block("srv1", kind, '{"a": 1}'),
        result_block("srv1", kind, error),
        text_block("So.", index=2),
        ended(),
    )
    (use,) = reply.server_tool_uses
    assert (use.name, use.error, use.result) == (kind, code, "")


async def test_code_that_was_run_is_told_with_its_output_and_its_container() -> None:
    output: dict[str, Any] = {
        "type": "bash_code_execution_result",
        "stdout": "45\n",
        "stderr": "",
        "return_code": 0,
        "content": [],
    }
    reply, _ = await reply_to(
        served(CODE),
        started(),
        use_block("srv1", "bash_code_execution", '{"command": "ls"}'),
        result_block("srv1", "bash_code_execution", output),
        text_block("So.", index=2),
        finished(container="cont_9"),
    )
    (use,) = reply.server_tool_uses
    assert (use.name, json.loads(use.result)) == ("code_execution", {"stdout": "45\n"})
    assert reply.container == "cont_9"
    assert reply.usage.containers == 1
    assert reply.usage.usd == pytest.approx((9000 * 2 + 200 * 10) / 1e6 + 0.05 * 5 / 60)


@pytest.mark.parametrize(
    ("tools", "container", "charged"),
    [((CODE,), "", 1), ((CODE,), "cont_9", 0), ((CODE, SEARCH), "", 0)],
    ids=["a new container", "one that there was", "one beside a web tool"],
)
async def test_a_container_is_charged_for_once_and_not_beside_a_web_tool(
    tools: Sequence[ServerTool], container: str, charged: int
) -> None:
    request = served(*tools, container=container)
    reply, _ = await reply_to(request, started(), text_block("So."), finished(container="cont_9"))
    assert reply.usage.containers == charged


async def test_encrypted_output_is_not_shown() -> None:
    output: dict[str, Any] = {
        "type": "encrypted_code_execution_result",
        "encrypted_stdout": "c2VjcmV0",
        "stderr": "late",
        "return_code": 1,
        "content": [],
    }
    reply, _ = await reply_to(
        served(CODE), started(), result_block("srv1", "code_execution", output, index=0), ended()
    )
    result = json.loads(reply.server_tool_uses[0].result)
    assert result == {"stderr": "late", "return_code": 1}


async def test_a_long_result_is_cut_and_its_length_told() -> None:
    source = {"type": "text", "data": "x" * 9000}
    page = PAGE | {"content": {"type": "document", "source": source, "title": None}}
    reply, _ = await reply_to(
        served(FETCH), started(), result_block("srv1", "web_fetch", page, index=0), ended()
    )
    (use,) = reply.server_tool_uses
    assert (len(use.result), use.result_chars) == (4000, 9024)


async def test_texts_around_a_search_are_paragraphs_of_their_own() -> None:
    reply, _ = await reply_to(
        served(SEARCH),
        started(),
        text_block("Let me look.", index=0),
        use_block("srv1", "web_search", "{}", index=1),
        result_block("srv1", "web_search", [FOUND], index=2),
        text_block("It is ", index=3),
        text_block("so.", index=4),
        ended(),
    )
    assert reply.text == "Let me look.\n\nIt is so."


async def test_a_json_value_is_what_comes_after_the_last_search_and_asked_for_in_words() -> None:
    reply, body = await reply_to(
        served(SEARCH, output_schema=SCHEMA),
        started(),
        text_block("Let me look.", index=0),
        use_block("srv1", "web_search", "{}", index=1),
        result_block("srv1", "web_search", [FOUND], index=2),
        text_block('{"a": 1}', index=3),
        ended(),
    )
    assert reply.text == '{"a": 1}'
    assert "output_config" not in body
    assert '"additionalProperties": false' in body["messages"][0]["content"][-1]["text"]


async def test_a_paused_reply_is_given_back_as_it_was_and_gone_on_with() -> None:
    paused, _ = await reply_to(
        served(SEARCH),
        started(),
        cited_block("Look.", CITATION, index=0),
        use_block("srv1", "web_search", '{"query": "x"}', index=1),
        result_block("srv1", "web_search", [FOUND], index=2),
        use_block("srv2", "web_search", '{"query": "y"}', index=3),
        finished("pause_turn"),
    )
    assert paused.paused
    assert [use.pending for use in paused.server_tool_uses] == [False, True]
    said = AssistantMessage(text=paused.text, native=paused.native)
    whole, body = await reply_to(
        served(SEARCH, messages=(UserMessage(text="Why?"), said, said)),
        started(),
        result_block("srv2", "web_search", [FOUND], index=0),
        text_block("So.", index=1),
        ended(),
    )
    user, assistant = body["messages"]
    assert (user["role"], assistant["role"]) == ("user", "assistant")
    text, use, result, pending = assistant["content"][:4]
    assert text == {"type": "text", "text": "Look.", "citations": [CITATION]}
    assert (use["input"], use["caller"]) == ({"query": "x"}, {"type": "direct"})
    assert result["content"] == [FOUND]
    assert pending["id"] == "srv2"
    assert len(assistant["content"]) == 8
    (late,) = whole.server_tool_uses
    assert (late.name, late.arguments, late.pending) == ("web_search", {}, False)
    assert not whole.paused


async def test_a_pause_without_anything_of_the_providers_is_gone_on_with_too() -> None:
    reply, _ = await reply_to(ask(), started(), text_block("so far"), finished("pause_turn"))
    assert reply.paused
    assert reply.native == ({"type": "text", "text": "so far"},)


async def test_text_that_is_nothing_but_space_is_not_given_back() -> None:
    paused, _ = await reply_to(
        served(SEARCH), started(), *SEARCHED, text_block("\n\n", index=2), finished("pause_turn")
    )
    assert [item["type"] for item in paused.native] == ["server_tool_use", "web_search_tool_result"]


async def test_a_reply_may_ask_for_our_tools_beside_the_providers() -> None:
    reply, _ = await reply_to(
        served(SEARCH, tools=[LOOK]),
        started(),
        *SEARCHED,
        text_block("I look.", index=2),
        tool_block("t1", "look", "{}", index=3),
        finished("tool_use", web_search_requests=1),
    )
    assert [call.name for call in reply.tool_calls] == ["look"]
    assert [item["type"] for item in reply.native] == [
        "server_tool_use",
        "web_search_tool_result",
        "text",
        "tool_use",
    ]
    outcome = ToolMessage(outcomes=(ToolOutcome(id="t1", text="seen"),))
    asked = AssistantMessage(text=reply.text, tool_calls=reply.tool_calls, native=reply.native)
    request = served(SEARCH, messages=(UserMessage(text="Why?"), asked, outcome))
    _, body = await reply_to(request, started(), text_block("So."), ended())
    assert body["messages"][1]["content"][1]["content"] == [FOUND]
    assert body["messages"][2]["content"][0]["tool_use_id"] == "t1"


async def test_a_reply_that_was_cut_in_the_middle_of_a_search_is_still_one() -> None:
    reply, _ = await reply_to(
        served(SEARCH),
        started(),
        text_block("So far."),
        use_block("srv1", "web_search", '{"quer', index=1),
        ended("max_tokens"),
    )
    assert (reply.text, reply.stop_reason) == ("So far.", "max_tokens")
    assert reply.server_tool_uses[0].arguments == {}


@pytest.mark.parametrize("status", [400, 403])
@pytest.mark.parametrize(
    "message",
    [
        "Web search is not enabled for this organization",
        "tools.0: 'claude-x' does not support tool types: code_execution_20260521",
    ],
)
async def test_a_provider_that_does_not_call_tools_itself_is_told_from_other_refusals(
    status: int, message: str
) -> None:
    async with connected(Provider(failure(status, "invalid_request_error", message))) as llm:
        with pytest.raises(ServerToolsRefusedError, match="does not call tools itself"):
            await llm.complete(served(SEARCH), Draft())


async def test_a_fault_in_what_is_given_back_is_no_refusal_to_call_tools() -> None:
    message = "`web_search` tool use with id `srv2` was found without a corresponding block"
    said = AssistantMessage(native=({"type": "text", "text": "Look."},))
    request = served(SEARCH, messages=(UserMessage(text="Why?"), said))
    async with connected(Provider(failure(400, "invalid_request_error", message))) as llm:
        with pytest.raises(ModelRequestError) as caught:
            await llm.complete(request, Draft())
    assert type(caught.value) is ModelRequestError


async def test_other_refusals_are_what_they_were() -> None:
    refusals = [
        failure(400, "invalid_request_error", "max_tokens: too many"),
        failure(403, "permission_error", "web search, but not for you"),
    ]
    async with connected(Provider(*refusals)) as llm:
        with pytest.raises(ModelRequestError) as caught:
            await llm.complete(served(SEARCH), Draft())
        assert not isinstance(caught.value, ServerToolsRefusedError)
        with pytest.raises(ModelRequestError) as caught:
            await llm.complete(ask(), Draft())
        assert not isinstance(caught.value, ServerToolsRefusedError)


async def test_a_piece_of_a_kind_that_is_not_known_yet_brings_nothing() -> None:
    pieces = block(0, {"type": "text", "text": ""}, {"type": "moon_delta", "phase": "full"})
    reply, _ = await reply_to(ask(), started(), pieces, text_block("So.", index=1), ended())
    assert reply.text == "So."
