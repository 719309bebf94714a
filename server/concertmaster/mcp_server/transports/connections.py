"""HTTP connections: how many there may be, and how long a request may take to arrive.

uvicorn limits neither the time of a request's head nor the connections of one address, and its
own limit counts connections that have asked for nothing yet.
"""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import h11
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from concertmaster.mcp_server.transports.auth import HttpAccess

SPARE = 50
"""Connections beyond the limit, so that health is told and others are refused with a status."""

RETRY_SECONDS = 5
"""How soon a client that was refused may try again."""


class Connections:
    """The open connections of a server. A new one takes the place of one that is idle."""

    def __init__(self, access: HttpAccess) -> None:
        self._access = access
        self._open: dict[Connection, str] = {}
        self._by_address: Counter[str] = Counter()

    @property
    def protocol(self) -> type[H11Protocol]:
        """Return the factory of connections in these limits, in the place of uvicorn's."""
        return cast("type[H11Protocol]", partial(Connection, self, self._access))

    def admit(self, connection: "Connection", address: str) -> bool:
        """Add a connection, if need be in the place of an idle one; False is for want of room."""
        if self._by_address[
            address
        ] >= self._access.connections_per_address and not self._access.trusts(address):
            self._close_idle(lambda other: self._open[other] == address)
        if len(self._open) >= self._access.connections:
            self._close_idle(lambda _: True)
        if len(self._open) >= self._access.connections + SPARE:
            return False
        self._open[connection] = address
        self._by_address[address] += 1
        return True

    def remove(self, connection: "Connection") -> None:
        """Forget a connection."""
        if (address := self._open.pop(connection, None)) is not None:
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]

    def _close_idle(self, included: Callable[["Connection"], bool]) -> None:
        """Close the connection that has been idle longest, rather one that never sent a request."""
        idle = [other for other in self._open if other.idle and included(other)]
        if idle:
            victim = min(idle, key=lambda other: (other.requests > 0, other.idle_since))
            self.remove(victim)
            victim.transport.close()


class Connection(H11Protocol):
    """uvicorn's HTTP/1.1 connection, with a time limit for the arrival of each request."""

    def __init__(self, connections: Connections, access: HttpAccess, **options: Any) -> None:
        super().__init__(**options)
        self._all = connections
        self._access = access
        self._phase = ""
        self._timer: Any = None
        self.requests = 0
        """Requests whose responses are complete."""
        self.idle_since = self.loop.time()

    @property
    def idle(self) -> bool:
        """Tell whether no response is due on it."""
        return self.conn.our_state not in (h11.SEND_RESPONSE, h11.SEND_BODY)

    def connection_made(self, transport: Any) -> None:
        """Begin."""
        super().connection_made(transport)
        address = self.client[0] if self.client else ""
        if not self._all.admit(self, address):
            transport.abort()
            return
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._all.remove(self)
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Receive a part of a request."""
        super().data_received(data)
        self._await_request()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self.requests += 1
        self.idle_since = self.loop.time()
        super().on_response_complete()
        self._await_request()

    def _await_request(self) -> None:
        """Close the connection in a while, unless what is due of a request arrives by then.

        The time runs from when the head or body is due, not from when its latest byte came.
        """
        phase = self._due()
        if phase == self._phase:
            return
        self._stop_timer()
        if phase and not self.transport.is_closing():
            self._phase = phase
            seconds = self._access.head_seconds if phase == "head" else self._access.body_seconds
            self._timer = self.loop.call_later(seconds, self.transport.close)

    def _due(self) -> str:
        if self.conn.their_state is h11.SEND_BODY:
            return "body"
        return "head" if self.conn.their_state is h11.IDLE and self.idle else ""

    def _stop_timer(self) -> None:
        self._phase = ""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class OpenRequests:
    """An application that answers so many requests at the same time, and so many of one address.

    An address is that of the client, as far as a trusted proxy names it.
    """

    def __init__(self, app: ASGIApp, access: HttpAccess) -> None:
        self._app = app
        self._access = access
        self._open: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        address = client_address(scope)
        if problem := self._problem(address):
            refusal = JSONResponse(
                {"error": f"{problem} Try again later."},
                status_code=503,
                headers={"Retry-After": str(RETRY_SECONDS)},
            )
            await refusal(scope, receive, send)
            return
        self._open[address] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._open[address] -= 1
            if not self._open[address]:
                del self._open[address]

    def _problem(self, address: str) -> str:
        if self._open.total() >= self._access.connections:
            return "The server has as many open requests as it takes."
        most = self._access.connections_per_address
        if self._open[address] >= most and not self._access.trusts(address):
            return f"{most} requests from your address are open, and it may have no more."
        return ""


def client_address(scope: Scope) -> str:
    """Return the address that a request comes from."""
    return (scope.get("client") or ("unknown",))[0]
