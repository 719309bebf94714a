"""A small internet in memory: names, addresses, and what they answer."""

import os
import socket
from collections.abc import Callable, Mapping, Sequence

import httpx2

from concertmaster.tools.builtin.public_http import PublicTransport
from concertmaster.tools.builtin.web import FetchUrl
from concertmaster.tools.scope import ToolScope

SITE = "93.184.216.34"
"""A public address; nothing is ever sent to it."""

Answer = Callable[[httpx2.Request], httpx2.Response]


class Internet:
    """Answers requests by their host, and keeps the addresses that were connected to."""

    def __init__(
        self, answers: Mapping[str, Answer], *, names: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self._answers = answers
        self._names = dict(names or {})
        self.connected: list[str] = []

    async def resolve(self, host: str, _port: int) -> Sequence[str]:
        if host not in {*self._names, *self._answers}:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self._names.get(host, [SITE])

    def answer(self, request: httpx2.Request) -> httpx2.Response:
        self.connected.append(request.url.host)
        assert request.headers["host"].split(":")[0] == request.extensions["sni_hostname"]
        return self._answers[request.extensions["sni_hostname"]](request)

    async def fetch(self, url: str) -> str:
        transport = PublicTransport(httpx2.MockTransport(self.answer), resolve=self.resolve)
        return await FetchUrl(transport=transport).call({"url": url}, ToolScope())


def page(content: str | bytes, media_type: str = "text/plain", **headers: str) -> Answer:
    """Return what answers with a page."""
    body = content.encode() if isinstance(content, str) else content
    fields = {"content-type": media_type} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    return lambda _: httpx2.Response(200, headers=fields, stream=httpx2.ByteStream(body))


def redirect(to: str, status: int = 302) -> Answer:
    """Return what leads elsewhere."""
    headers = [(b"location", to.encode())]
    return lambda _: httpx2.Response(status, headers=headers)


def crash(_content: bytes, _url: str) -> str:
    """End the process, as a parser does that is broken by what it reads."""
    os._exit(1)
