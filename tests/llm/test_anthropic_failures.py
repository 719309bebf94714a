"""Every way in which a call can fail is one of our errors, with what it had cost."""

import inspect
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import anthropic
import httpx2
import pytest

from concertmaster.errors import (
    ModelAccessError,
    ModelError,
    ModelReplyError,
    ModelRequestError,
    ModelUnavailableError,
)
from concertmaster.llm.anthropic import Connection
from concertmaster.llm.anthropic.errors import Failures
from concertmaster.llm.messages import Draft
from concertmaster.llm.retry import Gate
from concertmaster.llm.token_count import most_tokens_in
from concertmaster.llm.usage import NO_USAGE
from scripted_anthropic import (
    KEY,
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
    whole,
)

pytestmark = pytest.mark.anyio

BEGUN = started() + text_block("so far")


async def failure_of(
    response: httpx2.Response | Exception, *, caller: str = "worker:analyst", **connection: Any
) -> ModelError:
    """Return the error of a call that is answered with `response`."""
    draft = Draft()
    async with connected(Provider(response), **connection) as llm:
        with pytest.raises(ModelError) as caught:
            await llm.complete(ask(caller=caller), draft)
    assert caught.value.usage is not None
    assert caught.value.usage.attempts == 1
    assert draft.usage.attempts == 1
    return caught.value


@pytest.mark.parametrize(
    ("status", "kind", "error"),
    [
        (400, "invalid_request_error", ModelRequestError),
        (401, "authentication_error", ModelAccessError),
        (402, "billing_error", ModelAccessError),
        (403, "permission_error", ModelRequestError),
        (404, "not_found_error", ModelRequestError),
        (408, "timeout_error", ModelUnavailableError),
        (409, "conflict_error", ModelUnavailableError),
        (413, "request_too_large", ModelRequestError),
        (429, "rate_limit_error", ModelUnavailableError),
        (499, "client_closed", ModelUnavailableError),
        (500, "api_error", ModelUnavailableError),
        (501, "api_error", ModelRequestError),
        (503, "api_error", ModelUnavailableError),
        (504, "timeout_error", ModelUnavailableError),
        (529, "overloaded_error", ModelUnavailableError),
    ],
)
async def test_a_status_tells_whether_trying_again_may_help(
    status: int, kind: str, error: type[ModelError]
) -> None:
    exc = await failure_of(failure(status, kind, "the reason."))
    assert type(exc) is error
    assert f"({status}: the reason)." in str(exc)
    assert exc.usage is not None
    assert (exc.usage.usd, exc.usage.tokens_in, exc.text) == (0.0, 0, "")


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("overloaded_error", ModelUnavailableError),
        ("api_error", ModelUnavailableError),
        ("rate_limit_error", ModelUnavailableError),
        ("timeout_error", ModelUnavailableError),
        ("new_kind_of_error", ModelUnavailableError),
        ("invalid_request_error", ModelRequestError),
        ("authentication_error", ModelAccessError),
    ],
)
async def test_an_error_within_the_stream_keeps_what_had_arrived_and_what_it_had_cost(
    kind: str, error: type[ModelError]
) -> None:
    told = event("error", error={"type": kind, "message": "the reason"})
    exc = await failure_of(stream(BEGUN, told))
    assert type(exc) is error
    assert "the reason" in str(exc)
    assert exc.text == "so far"
    assert exc.usage is not None
    assert exc.usage.tokens_in == 1000
    assert (exc.usage.tokens_out, exc.usage.estimated_out) == (1 + 3, 3)
    assert exc.usage.usd == pytest.approx((1000 * 2 + (1 + 3) * 10) / 1e6)


async def test_an_error_event_that_is_no_json_may_pass() -> None:
    exc = await failure_of(stream(BEGUN, b"event: error\ndata: upstream gone\n\n"))
    assert type(exc) is ModelUnavailableError
    assert exc.text == "so far"


@pytest.mark.parametrize(
    "broken",
    [
        httpx2.ReadError("reset"),
        httpx2.RemoteProtocolError("reset"),
        httpx2.ReadTimeout("slow"),
        httpx2.StreamClosed(),
    ],
    ids=lambda exc: type(exc).__name__,
)
async def test_a_connection_that_breaks_within_the_stream_may_hold_the_next_time(
    broken: Exception,
) -> None:
    exc = await failure_of(stream(BEGUN, broken))
    assert type(exc) is ModelUnavailableError
    assert exc.text == "so far"
    assert exc.usage is not None
    assert exc.usage.tokens_in == 1000


async def test_silence_is_named_with_its_length_and_the_setting_for_it() -> None:
    exc = await failure_of(stream(BEGUN, httpx2.ReadTimeout("")), idle_seconds=7)
    assert "sent nothing for 7 s" in str(exc)
    assert "CONCERTMASTER_IDLE_SECONDS" in str(exc)


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (httpx2.ConnectError("Name or service not known"), "Name or service not known"),
        (httpx2.ConnectTimeout(""), "ConnectTimeout"),
        (httpx2.ReadTimeout(""), "sent nothing for 60 s"),
        (RuntimeError("inner workings"), "RuntimeError"),
    ],
)
async def test_a_provider_that_cannot_be_reached_may_be_later(raised: Exception, said: str) -> None:
    exc = await failure_of(raised)
    assert type(exc) is ModelUnavailableError
    assert "api.anthropic.com" in str(exc)
    assert said in str(exc)


async def test_a_request_that_cannot_be_sent_is_not_quoted() -> None:
    exc = await failure_of(httpx2.LocalProtocolError(f"Illegal header value b'Bearer {KEY}'"))
    assert type(exc) is ModelAccessError
    assert "Illegal" not in str(exc)
    assert "ANTHROPIC_CUSTOM_HEADERS" in str(exc)


async def test_a_request_that_cannot_be_written_is_none_that_was_attempted() -> None:
    provider = Provider()
    draft = Draft()
    async with connected(provider) as llm:
        with pytest.raises(ModelRequestError, match="surrogates not allowed") as caught:
            await llm.complete(ask(system="half \ud800 a character"), draft)
    assert provider.requests == []
    assert caught.value.usage is not None
    assert (caught.value.usage.attempts, draft.usage.attempts) == (0, 0)


@pytest.mark.parametrize(
    "arguments", ['{"line": NaN}', '{"line": 1e999}', '{"a": ' * 101 + "1" + "}" * 101]
)
async def test_arguments_that_could_not_be_written_to_the_journal_are_no_reply(
    arguments: str,
) -> None:
    exc = await failure_of(
        stream(started(), tool_block("t1", "lint", arguments), ended("tool_use"))
    )
    assert type(exc) is ModelReplyError


@pytest.mark.parametrize(
    "malformed",
    [
        b"event: content_block_delta\ndata: {broken\n\n",
        b"event: content_block_delta\ndata: \xff\xfe\n\n",
        event("content_block_delta", index=9, delta={"type": "text_delta", "text": "x"}),
        event("content_block_delta", index=0, delta={"type": "text_delta", "text": 7}),
        event("content_block_delta", index=0),
        event("content_block_start", index=1),
        event("message_delta", delta={"stop_reason": "end_turn"}),
        event("message_delta", delta={}, usage={"output_tokens": "many"}),
    ],
)
async def test_a_malformed_event_makes_the_reply_unusable_but_counts(malformed: bytes) -> None:
    exc = await failure_of(stream(BEGUN, malformed, ended()))
    assert type(exc) is ModelReplyError
    assert exc.text == "so far"
    assert exc.usage is not None
    assert exc.usage.tokens_in == 1000


@pytest.mark.parametrize(
    ("events", "cost"),
    [
        ([BEGUN], 1000),
        ([BEGUN, ended().partition(b"event: message_stop")[0]], 1000),
        ([], most_tokens_in(ask()).all),
    ],
)
async def test_a_stream_that_ends_before_the_reply_does_is_no_reply(
    events: list[bytes], cost: int
) -> None:
    exc = await failure_of(stream(*events))
    assert type(exc) is ModelReplyError
    assert "ends before it is complete" in str(exc)
    assert exc.usage is not None
    assert exc.usage.tokens_in == cost


@pytest.mark.parametrize(
    ("error", "charged"),
    [
        (httpx2.ReadTimeout("idle"), True),
        (httpx2.ReadError("reset"), True),
        (httpx2.RemoteProtocolError("closed"), True),
        (httpx2.ConnectError("refused"), False),
        (httpx2.ConnectTimeout("no route"), False),
        (httpx2.WriteError("reset"), False),
    ],
)
async def test_the_input_of_a_request_that_left_and_brought_nothing_is_estimated(
    error: Exception, charged: bool
) -> None:
    exc = await failure_of(error)
    expected = most_tokens_in(ask()).all if charged else 0
    assert exc.usage is not None
    assert (exc.usage.tokens_in, exc.usage.estimated_in) == (expected, expected)
    assert exc.usage.usd == pytest.approx(expected * 2 / 1e6)


async def test_a_reply_that_begins_without_its_beginning_is_no_reply() -> None:
    exc = await failure_of(stream(block(0, {"type": "text", "text": ""})))
    assert type(exc) is ModelReplyError


async def test_an_address_that_answers_with_a_page_is_named() -> None:
    page = httpx2.Response(200, html="<html>Welcome</html>")
    exc = await failure_of(page, base_url="http://gateway.test")
    assert type(exc) is ModelReplyError
    assert "gateway.test answers with text/html" in str(exc)
    assert "CONCERTMASTER_BASE_URL" in str(exc)


async def test_a_stream_is_taken_for_one_whatever_it_calls_itself() -> None:
    response = httpx2.Response(200, headers={"content-type": "text/plain"}, content=whole())
    async with connected(Provider(response)) as llm:
        assert (await llm.complete(ask(), Draft())).text == "done"


async def test_a_redirect_is_not_followed_with_the_key() -> None:
    elsewhere = httpx2.Response(301, headers={"location": "http://elsewhere.test/"})
    provider = Provider(elsewhere)
    async with connected(provider, base_url="http://gateway.test") as llm:
        with pytest.raises(ModelRequestError, match="redirects the request") as caught:
            await llm.complete(ask(), Draft())
    assert type(caught.value) is ModelRequestError
    assert len(provider.requests) == 1


@pytest.mark.parametrize(
    "odd",
    [
        httpx2.Response(200, json={"choices": []}),
        httpx2.Response(200, html="<html>Please wait</html>"),
        httpx2.Response(200),
        httpx2.Response(302, headers={"location": "/maintenance"}),
    ],
    ids=["json", "page", "empty", "redirect"],
)
async def test_a_single_reply_that_is_no_stream_is_asked_for_again(odd: httpx2.Response) -> None:
    provider = Provider(odd, stream(whole()))
    async with connected(provider) as llm:
        reply = await Gate(llm, first_wait=0.001).complete(ask(), Draft())
    assert (reply.text, reply.usage.attempts) == ("done", 2)


async def test_an_address_that_is_none_is_named() -> None:
    async with connected(Provider(), base_url="http://gateway:port") as llm:
        with pytest.raises(ModelRequestError, match="CONCERTMASTER_BASE_URL"):
            await llm.complete(ask(), Draft())


@pytest.mark.parametrize(
    ("connection", "named"),
    [
        ({}, "CONCERTMASTER_API_KEY or ANTHROPIC_API_KEY ("),
        ({"base_url": "http://gateway.test"}, "CONCERTMASTER_AUTH_HEADER"),
        ({"api_key": None, "auth_token": "token"}, "CONCERTMASTER_AUTH_TOKEN"),
    ],
)
async def test_a_refused_key_is_not_quoted_but_its_setting_is_named(
    connection: dict[str, Any], named: str
) -> None:
    secret = connection.get("auth_token", KEY)
    refused = failure(401, "authentication_error", f"invalid key {secret}")
    exc = await failure_of(refused, **connection)
    assert named in str(exc)
    assert secret not in str(exc)


@pytest.mark.parametrize(
    ("caller", "setting"),
    [
        ("planner", "CONCERTMASTER_MODEL_PLANNER"),
        ("worker:analyst", "CONCERTMASTER_MODEL_WORKER"),
        ("synthesizer", "CONCERTMASTER_MODEL_SYNTHESIZER"),
        ("condenser", "CONCERTMASTER_MODEL_SYNTHESIZER"),
    ],
)
@pytest.mark.parametrize("said", ["model: claude-sonnet-5-5", "The model does not exist."])
async def test_an_unknown_model_is_named_with_the_setting_it_comes_from(
    said: str, caller: str, setting: str
) -> None:
    unknown = failure(404, "not_found_error", said)
    exc = await failure_of(unknown, caller=caller)
    assert "'claude-sonnet-5-5'" in str(exc)
    assert setting in str(exc)
    assert "CONCERTMASTER_BASE_URL" not in str(exc)


async def test_an_address_without_a_messages_api_is_not_taken_for_an_unknown_model() -> None:
    nowhere = httpx2.Response(404, text="<html>" + "not here " * 100)
    exc = await failure_of(nowhere, base_url="http://gateway.test")
    assert type(exc) is ModelRequestError
    assert "has nothing at this address. Check CONCERTMASTER_BASE_URL;" in str(exc)


async def test_a_forbidden_request_is_explained_by_the_key_or_by_its_text() -> None:
    exc = await failure_of(failure(403, "permission_error", "blocked"))
    assert "CONCERTMASTER_API_KEY" in str(exc)
    assert "content filter" in str(exc)


@pytest.mark.parametrize("code", ["contract_spend_limit_reached", "enforced_spend_limit_reached"])
async def test_a_spending_limit_does_not_pass_by_waiting(code: str) -> None:
    exc = await failure_of(failure(429, "rate_limit_error", code=code))
    assert type(exc) is ModelAccessError
    assert "spending limit" in str(exc)


@pytest.mark.parametrize(
    ("advice", "status", "error"),
    [
        ("true", 400, ModelUnavailableError),
        ("false", 529, ModelRequestError),
        ("perhaps", 529, ModelUnavailableError),
    ],
)
async def test_the_provider_s_advice_on_trying_again_is_taken(
    advice: str, status: int, error: type[ModelError]
) -> None:
    exc = await failure_of(failure(status, "x", headers={"x-should-retry": advice}))
    assert type(exc) is error


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry-after": "12"}, 12),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "1500", "retry-after": "2"}, 1.5),
        ({"retry-after": "4294967"}, 4294967),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": format_datetime(datetime(2020, 1, 1, tzinfo=UTC), usegmt=True)}, 0),
        ({}, None),
    ],
)
async def test_the_wait_that_the_provider_asks_for_is_passed_on(
    headers: dict[str, str], expected: float | None
) -> None:
    exc = await failure_of(failure(429, "rate_limit_error", headers=headers))
    assert isinstance(exc, ModelUnavailableError)
    assert exc.retry_after == expected


async def test_a_wait_may_be_given_as_a_time_of_day() -> None:
    at = format_datetime(datetime.now(UTC) + timedelta(minutes=10), usegmt=True)
    exc = await failure_of(failure(529, "overloaded_error", headers={"retry-after": at}))
    assert isinstance(exc, ModelUnavailableError)
    assert exc.retry_after == pytest.approx(600, abs=30)


async def test_a_long_text_of_the_provider_is_cut() -> None:
    exc = await failure_of(failure(400, "invalid_request_error", "long " * 1000))
    assert len(str(exc)) < 400
    assert "…" in str(exc)


EXPECTED = {
    "AnthropicError": ModelRequestError,
    "APIConnectionError": ModelUnavailableError,
    "APIError": ModelRequestError,
    "APIResponseValidationError": ModelReplyError,
    "APITimeoutError": ModelUnavailableError,
    "APIWebhookValidationError": ModelRequestError,
    "CredentialsError": ModelRequestError,
    "IdentityTokenFileError": ModelRequestError,
    "RetryableError": ModelUnavailableError,
    "WorkloadIdentityError": ModelRequestError,
}
"""For the SDK's errors without a status."""

EXPECTED_BY_STATUS = {
    400: ModelRequestError,
    401: ModelAccessError,
    402: ModelAccessError,
    403: ModelRequestError,
    404: ModelRequestError,
    408: ModelUnavailableError,
    409: ModelUnavailableError,
    412: ModelRequestError,
    413: ModelRequestError,
    422: ModelRequestError,
    429: ModelUnavailableError,
    431: ModelRequestError,
    499: ModelUnavailableError,
    500: ModelUnavailableError,
    501: ModelRequestError,
    503: ModelUnavailableError,
    504: ModelUnavailableError,
    529: ModelUnavailableError,
}
NOT_LIKE_THEIR_STATUS = {
    "ContractSpendLimitReachedError": ModelAccessError,
    "EnforcedSpendLimitReachedError": ModelAccessError,
}

SDK_ERRORS = sorted(
    {
        member
        for member in vars(anthropic).values()
        if inspect.isclass(member) and issubclass(member, anthropic.AnthropicError)
    },
    key=lambda error: error.__name__,
)


def an(error: type[anthropic.AnthropicError]) -> anthropic.AnthropicError:
    """Return an instance of one of the SDK's errors, as the SDK would make it."""
    request = httpx2.Request("POST", "http://gateway.test/v1/messages")
    if issubclass(error, anthropic.APIStatusError):
        status: int = getattr(error, "status_code", 500)
        return error("m", response=httpx2.Response(status, request=request), body=None)
    if issubclass(error, anthropic.APIResponseValidationError):
        return error(httpx2.Response(200, request=request), body=None)
    if issubclass(error, anthropic.APIConnectionError):
        return error(request=request)
    if issubclass(error, anthropic.APIError):
        return error("m", request, body=None)
    return error("m")


@pytest.mark.parametrize("error", SDK_ERRORS, ids=lambda error: error.__name__)
def test_every_error_of_the_sdk_is_mapped_to_one_of_ours(
    error: type[anthropic.AnthropicError],
) -> None:
    """An error that a new version adds fails here until somebody has decided what it means."""
    if error.__name__ in NOT_LIKE_THEIR_STATUS:
        expected = NOT_LIKE_THEIR_STATUS[error.__name__]
    elif issubclass(error, anthropic.APIStatusError):
        expected = EXPECTED_BY_STATUS[getattr(error, "status_code", 500)]
    else:
        expected = EXPECTED[error.__name__]
    ours = Failures(Connection(api_key=KEY), host="gateway.test").translate(
        an(error), ask(), model="claude-sonnet-5-5", usage=NO_USAGE, text="so far"
    )
    assert type(ours) is expected
    assert ours.text == "so far"
    assert str(ours).endswith(".")


@pytest.mark.parametrize(
    ("status", "kind", "model"),
    [
        (401, "authentication_error", None),
        (402, "billing_error", None),
        (404, "not_found_error", "claude-sonnet-5-5"),
    ],
)
async def test_an_error_that_other_calls_would_get_says_which(
    status: int, kind: str, model: str | None
) -> None:
    exc = await failure_of(failure(status, kind, "of the model"))
    assert isinstance(exc, ModelAccessError)
    assert exc.model == model


async def test_an_account_without_money_is_no_fault_of_the_one_request() -> None:
    said = "Your credit balance is too low to access the Anthropic API."
    exc = await failure_of(failure(400, "invalid_request_error", said))
    assert isinstance(exc, ModelAccessError)
    assert exc.model is None


async def test_through_the_gate_a_broken_reply_is_asked_for_again_and_both_are_paid_for() -> None:
    provider = Provider(stream(BEGUN, httpx2.ReadError("reset")), stream(whole()))
    async with connected(provider) as llm:
        reply = await Gate(llm).complete(ask(), Draft())
    assert reply.text == "done"
    usage = reply.usage
    assert (usage.calls, usage.attempts, usage.tokens_in) == (1, 2, 2000)
    assert (usage.tokens_out, usage.estimated_out) == (200 + 1 + 3, 3)
    assert usage.usd == pytest.approx((2000 * 2 + 204 * 10) / 1e6)
