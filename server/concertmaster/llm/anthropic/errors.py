"""What can go wrong with a call, as the errors that the rest of the program knows."""

import email.utils
import re
import time
from collections.abc import Mapping

import httpx2
from anthropic import (
    AnthropicError,
    APIConnectionError,
    APIResponseValidationError,
    APIStatusError,
    ContractSpendLimitReachedError,
    EnforcedSpendLimitReachedError,
    RetryableError,
)

from concertmaster.errors import (
    ModelAccessError,
    ModelError,
    ModelReplyError,
    ModelRequestError,
    ModelUnavailableError,
    ServerToolsRefusedError,
)
from concertmaster.llm.anthropic.connection import Connection
from concertmaster.llm.messages import Request
from concertmaster.llm.usage import Usage


class NoStreamError(Exception):
    """The answer was no stream of events; the message is its content type."""


class NotSentError(Exception):
    """The request was never sent, for there is something in it that cannot be."""


FAILURES = (
    AnthropicError,
    httpx2.HTTPError,
    httpx2.StreamError,
    NoStreamError,
    NotSentError,
    # What a malformed event leads to, for the SDK lets those through: text that is no JSON or
    # no UTF-8, and attributes that are missing or of another type.
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
)
"""All that a call may raise apart from cancellation."""

_STATUS_OF_TYPE = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""The status that an error would have had, had it not come in the middle of a stream."""
_MAY_PASS = {302, 303, 307, 408, 409, 425, 429, 499}
"""Statuses under 500 of what may be over the next time. A temporary redirect is one: gateways
send it to a page of theirs while they restart or are overloaded."""
_WILL_NOT_PASS = {501}
_OF_SERVER_TOOLS = re.compile(r"web[ _-]?search|web[ _-]?fetch|code[ _-]?execution", re.I)
"""What the provider says when it will not call one of its tools itself."""
_OF_ANY_MODEL = {401, 402, 429}
"""Statuses which, where they will not pass, every call over the connection would get.

A 403 is not among them, nor is a redirect: a gateway may send either for one request alone, such
as one that its content filter objects to. A call that fails so takes no time and costs nothing,
so nothing is gained by refusing the others unasked.
"""
_NO_CREDIT = "credit balance"
"""What the provider says of an account without money, as an error of the request: a 400."""
_SPENDING_LIMITS = (ContractSpendLimitReachedError, EnforcedSpendLimitReachedError)
_SETTINGS_OF_CALLER = {
    "planner": "CONCERTMASTER_MODEL_PLANNER",
    "worker": "CONCERTMASTER_MODEL_WORKER, or the model that the worker's file names",
}
_KEY_VARIABLES = "CONCERTMASTER_API_KEY or ANTHROPIC_API_KEY"
_LONGEST_QUOTE = 300


_NOTHING_SENT = (
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    httpx2.LocalProtocolError,
    httpx2.PoolTimeout,
    httpx2.UnsupportedProtocol,
    httpx2.WriteError,
    httpx2.WriteTimeout,
)
"""What becomes of a request that does not leave, or not as a whole."""


def may_have_been_charged(exc: Exception) -> bool:
    """Return whether the provider may have worked on a request whose reply did not begin.

    It does not charge for a request that it answers with an error.
    """
    cause = exc.__cause__ if isinstance(exc, APIConnectionError) else exc
    if isinstance(cause, (AnthropicError, NoStreamError, NotSentError, *_NOTHING_SENT)):
        return isinstance(cause, APIResponseValidationError)
    return cause is not None


class Failures:
    """Translates what calls over one connection raise. No message has a secret in it."""

    def __init__(self, connection: Connection, *, host: str) -> None:
        self._connection = connection
        self._host = host

    def translate(
        self, exc: Exception, request: Request, *, model: str, usage: Usage, text: str
    ) -> ModelError:
        """Return the error that tells what to change, or that trying again may help.

        `usage` and `text` are what the call had cost and brought by then.
        """
        kind, message = self._told(exc, request, model)
        message = self._without_secrets(message)
        if kind is ModelUnavailableError:
            wait = _retry_after(exc.response.headers) if isinstance(exc, APIStatusError) else None
            return ModelUnavailableError(
                message, usage=usage, text=text, busy=_busy(exc), retry_after=wait
            )
        if kind is ModelAccessError:
            concerned = model if _says_no_such_model(exc, model) else None
            return ModelAccessError(message, usage=usage, text=text, model=concerned)
        return kind(message, usage=usage, text=text)

    def _told(self, exc: Exception, request: Request, model: str) -> tuple[type[ModelError], str]:
        match exc:
            case APIStatusError():
                return self._status(exc, request, model)
            case APIConnectionError():
                return self._connection_failure(exc.__cause__)
            case httpx2.HTTPError() | httpx2.StreamError():
                return self._connection_failure(exc)
            case NoStreamError():
                return ModelReplyError, (
                    f"{self._host} answers with {exc}, not with a stream of events. "
                    "Check CONCERTMASTER_BASE_URL."
                )
            case NotSentError():
                return ModelRequestError, f"The request cannot be sent: {_quote(str(exc))}."
            case RetryableError():
                return ModelUnavailableError, f"The call did not get through: {exc}."
            case AnthropicError() if not isinstance(exc, APIResponseValidationError):
                return ModelRequestError, f"The call cannot be made: {_quote(str(exc))}."
            case _:
                return ModelReplyError, f"The reply cannot be read: {_quote(str(exc))}."

    def _connection_failure(self, cause: BaseException | None) -> tuple[type[ModelError], str]:
        if isinstance(cause, httpx2.ReadTimeout):
            return ModelUnavailableError, (
                f"{self._host} sent nothing for {self._connection.idle_seconds:g} s. If that is "
                "how long it takes, raise CONCERTMASTER_IDLE_SECONDS."
            )
        # Only some say more than the name of their kind, and none of the others' texts is safe:
        # a header that cannot be sent is quoted there.
        known = isinstance(cause, (httpx2.NetworkError, httpx2.RemoteProtocolError))
        reason = _quote(str(cause)) if known else type(cause).__name__
        if isinstance(cause, (httpx2.LocalProtocolError, httpx2.UnsupportedProtocol)):
            return ModelAccessError, (
                f"The request to {self._host} cannot be sent ({reason}). "
                "Check CONCERTMASTER_BASE_URL and any headers set in ANTHROPIC_CUSTOM_HEADERS."
            )
        return ModelUnavailableError, f"The connection to {self._host} failed: {reason}."

    def _status(
        self, exc: APIStatusError, request: Request, model: str
    ) -> tuple[type[ModelError], str]:
        status = _status_of(exc)
        said = f"{status}: {_quote(str(exc.api_message))}" if exc.api_message else str(status)
        if _may_pass(exc, status):
            return ModelUnavailableError, f"{self._occasion(status)} ({said})."
        if status in (400, 403) and _first_asks(request) and _OF_SERVER_TOOLS.search(said):
            return ServerToolsRefusedError, f"{self._host} does not call tools itself ({said})."
        if _says_no_such_model(exc, model):
            return ModelAccessError, f"{self._unknown_model(request, model)} ({said})."
        kind = ModelAccessError if _concerns_all_calls(exc, status) else ModelRequestError
        return kind, f"{self._remedy(status)} ({said})."

    def _occasion(self, status: int) -> str:
        match status:
            case 429:
                return "The provider's rate limit is reached"
            case 529:
                return "The provider is overloaded"
            case _ if 300 <= status < 400:
                return f"{self._host} redirects the request. Check CONCERTMASTER_BASE_URL"
            case _:
                return "The provider failed"

    def _unknown_model(self, request: Request, model: str) -> str:
        role = request.caller.partition(":")[0]
        setting = _SETTINGS_OF_CALLER.get(role, "CONCERTMASTER_MODEL_SYNTHESIZER")
        return f"{self._host} has no model {model!r}. Check {setting}"

    def _remedy(self, status: int) -> str:
        match status:
            case 401:
                return f"{self._host} does not accept the key. Check {self._key_settings()}"
            case 402 | 429:
                return f"{self._host} wants the account's billing or spending limit looked at"
            case 403:
                return (
                    f"{self._host} does not allow this request. If it allows none, check what "
                    f"{_KEY_VARIABLES} gives access to; if it allows others, a content filter may "
                    "object to the text of this one"
                )
            case 404:
                return (
                    f"{self._host} has nothing at this address. Check CONCERTMASTER_BASE_URL; "
                    "/v1/messages is appended to it"
                )
            case 413:
                return "The request is too large. Give the subtask fewer or smaller inputs"
            case _ if 300 <= status < 400:
                return f"{self._host} redirects the request. Check CONCERTMASTER_BASE_URL"
            case _:
                return f"{self._host} refuses the request"

    def _key_settings(self) -> str:
        if self._connection.auth_token:
            return "CONCERTMASTER_AUTH_TOKEN or ANTHROPIC_AUTH_TOKEN"
        if self._connection.base_url:
            return f"{_KEY_VARIABLES}, and how it is sent, CONCERTMASTER_AUTH_HEADER"
        return _KEY_VARIABLES

    def _without_secrets(self, message: str) -> str:
        for secret in (self._connection.api_key, self._connection.auth_token):
            if secret:
                message = message.replace(secret, "[secret]")
        return message


def _first_asks(request: Request) -> bool:
    """Tell whether a request offers tools of the provider that it has not called before."""
    called = any(getattr(message, "native", ()) for message in request.messages)
    return bool(request.server_tools) and not called


def _status_of(exc: APIStatusError) -> int:
    if exc.response.is_success:
        return _STATUS_OF_TYPE.get(str(exc.type), 500)
    return exc.status_code


def _concerns_all_calls(exc: APIStatusError, status: int) -> bool:
    """Tell whether every call over the connection would get the same answer."""
    return status in _OF_ANY_MODEL or _NO_CREDIT in str(exc.api_message)


def _says_no_such_model(exc: Exception, model: str) -> bool:
    """Tell whether an answer says that there is no such model, and not merely no such page."""
    if not isinstance(exc, APIStatusError) or _status_of(exc) != 404:
        return False
    said = str(exc.api_message)
    return model in said or re.search(r"\bmodel\b", said, re.I) is not None


def _busy(exc: Exception) -> bool:
    return isinstance(exc, APIStatusError) and _status_of(exc) in (429, 529)


def _may_pass(exc: APIStatusError, status: int) -> bool:
    if isinstance(exc, _SPENDING_LIMITS):
        return False
    advice = exc.response.headers.get("x-should-retry")
    if advice in ("true", "false"):
        return advice == "true"
    return status in _MAY_PASS or (status >= 500 and status not in _WILL_NOT_PASS)


def _quote(text: str) -> str:
    """Return `text` as part of a sentence: one line, not too long, without its full stop."""
    line = " ".join(text.split()).rstrip(".")
    return line if len(line) <= _LONGEST_QUOTE else line[: _LONGEST_QUOTE - 1] + "…"


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a response asks to wait, if it does."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        return seconds if seconds >= 0 else None
    try:
        at = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    return max(at.timestamp() - time.time(), 0.0)
