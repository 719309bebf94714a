"""How a client opens a connection: it may ask what the server can do, and initialize after all.

The SDK lets the first request decide the era of a connection. A client that gets no answer to
`server/discover` in time falls back to `initialize` on the same connection, and was refused.
"""

from contextvars import Context
from types import TracebackType
from typing import Self

import anyio
from mcp.shared.message import SessionMessage
from mcp.types import (
    JSONRPCError,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
    RequestId,
)

from concertmaster.mcp_server.incoming import AnsweredStream, Incoming, Item, Outgoing

ANSWER_SECONDS = 5.0
"""How long `initialize` waits at most for the answer to `server/discover`, which comes at once."""


class Opening(AnsweredStream):
    """The messages of a client. They end where it initializes a connection it has only probed.

    Read again, they begin with that `initialize`, as those of a client that has begun with it.
    """

    def __init__(self, incoming: Incoming, outgoing: Outgoing) -> None:
        super().__init__(incoming, outgoing)
        self.outgoing = _Probed(self, outgoing)
        """Where answers go to while the connection is only probed."""
        self.initialize: Item | None = None
        """The request with which the connection is to begin again."""
        self._context: Context | None = None
        self._undecided = True
        self._probes: dict[RequestId, anyio.Event] = {}
        """What was asked with `server/discover`, and whether it needs an answer no more."""

    @property
    def last_context(self) -> Context | None:
        """Return the context variables that the last message came with."""
        return self._context

    async def receive(self) -> Item:
        """Return the next message.

        Raises:
            EndOfStream: there is none, or the connection is to begin again.
        """
        if self.initialize is not None:
            item, self.initialize = self.initialize, None
            return item
        item = await super().receive()
        self._context = super().last_context
        if self._undecided and isinstance(item, SessionMessage) and await self._begins_again(item):
            self.initialize = item
            raise anyio.EndOfStream
        return item

    async def _begins_again(self, item: SessionMessage) -> bool:
        """Tell whether a message initializes a connection that was only probed."""
        match item.message:
            case JSONRPCRequest(method="server/discover", id=number):
                self._probes[number] = anyio.Event()
            case JSONRPCNotification(
                method="notifications/cancelled", params={"requestId": number}
            ):
                self.settle(number)
            case JSONRPCRequest(method=method):
                self._undecided = False
                if method == "initialize" and self._probes:
                    with anyio.move_on_after(ANSWER_SECONDS):
                        for settled in self._probes.values():
                            await settled.wait()
                    return True
            case _:
                pass
        return False

    def settle(self, number: object) -> None:
        """Note that a request has its answer, or is to have none."""
        if isinstance(number, int | str) and (settled := self._probes.get(number)) is not None:
            settled.set()

    async def aclose(self) -> None:
        """Take no more messages, unless the connection is to begin again."""
        if self.initialize is None:
            await super().aclose()


class _Probed:
    """Where messages go to. It outlasts the end of a connection that is to begin again."""

    def __init__(self, opening: Opening, outgoing: Outgoing) -> None:
        self._opening = opening
        self._outgoing = outgoing

    async def send(self, item: SessionMessage, /) -> None:
        """Send a message."""
        await self._outgoing.send(item)
        if isinstance(item.message, JSONRPCResponse | JSONRPCError):
            self._opening.settle(item.message.id)

    async def aclose(self) -> None:
        """Send no more, unless the connection is to begin again."""
        if self._opening.initialize is None:
            await self._outgoing.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        await self.aclose()
