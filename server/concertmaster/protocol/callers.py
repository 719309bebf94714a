"""Who makes a call, and on what occasion."""

import re
from typing import Any

from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.provider import AccessToken, principal_components
from mcp.server.mcpserver import Context

from concertmaster.errors import RequestError

TRACE_CONTEXT = {
    "traceparent": re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}"),
    "tracestate": re.compile(r"[\x20-\x7e]{1,512}"),
}
"""What `_meta` may say of the trace that a call belongs to, in the forms of W3C."""


def principal_of(token: AccessToken) -> str:
    """Return whom a token stands for: the same person, whatever the client it was given to."""
    client, issuer, subject = principal_components(token)
    return f"{issuer}#{subject or client}" if issuer else client


def principal_of_caller() -> str:
    """Return whom the call under way is made for.

    Raises:
        RequestError: it came without a token.
    """
    token = get_access_token()
    if token is None:
        raise RequestError("This server answers nobody without a token. Send one.")
    return principal_of(token)


def trace_context(ctx: Context[Any, Any]) -> dict[str, str]:
    """Return the trace context that a client sent along with its call."""
    meta = ctx.request_context.meta or {}
    return {
        name: value
        for name, form in TRACE_CONTEXT.items()
        if isinstance(value := meta.get(name), str) and form.fullmatch(value)
    }
