"""What hostile attempts try to reach, and how to tell whether one has."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx2
from pydantic import JsonValue

from concertmaster.errors import ConcertmasterError
from concertmaster.tools.builtin.public_http import PublicTransport, resolve
from concertmaster.tools.builtin.web import FetchUrl
from concertmaster.tools.registry import WorkerTool
from concertmaster.tools.scope import ToolScope
from web import SITE, Answer, page

SECRET = "canary_4711"  # noqa: S105 (it is there to be looked for)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A root, and the folder around it."""

    base: Path
    root: Path

    @property
    def scope(self) -> ToolScope:
        """Return what a worker may reach."""
        return ToolScope(roots=(self.root,))

    def spell(self, template: str) -> str:
        """Return an attempt with the folders filled in."""
        return template.format(base=self.base, root=self.root)


async def outcome(tool: WorkerTool, arguments: Mapping[str, JsonValue], scope: ToolScope) -> str:
    """Return what a model gets to read, whether or not the tool does what it is asked."""
    try:
        said = await tool.call(arguments, scope)
    except ConcertmasterError as exc:
        return str(exc)
    return said if isinstance(said, str) else said.text


class Trap:
    """An internet with one public site. Every other address has the secret.

    Names that are numbers in some spelling have the addresses that this system sees in them.
    """

    def __init__(
        self, site: Answer | None = None, *, names: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self._site = site or page("nothing")
        self._names = {"site.example": [SITE], **(names or {})}
        self.connected: list[str] = []

    async def _resolve(self, host: str, port: int) -> Sequence[str]:
        return self._names[host] if host in self._names else await resolve(host, port)

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        self.connected.append(request.url.host)
        answer = self._site if request.url.host == SITE else page(SECRET)
        return answer(request)

    async def fetch(self, url: str) -> str:
        """Return what a model gets to read of `url`."""
        transport = PublicTransport(httpx2.MockTransport(self._answer), resolve=self._resolve)
        return await outcome(FetchUrl(transport=transport), {"url": url}, ToolScope())
