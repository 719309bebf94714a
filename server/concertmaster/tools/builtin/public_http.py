"""Reading one page of the public internet, with bounds on time, size and where it leads.

Imports what takes long to import, so it is imported when something is to be fetched.
"""

import codecs
import socket
import zlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import anyio
import httpx2

from concertmaster.errors import ToolCallError
from concertmaster.tools.builtin.ssrf import is_public

MAX_BYTES = 3_000_000
"""How much of a page is read, sent or unpacked."""

MAX_REDIRECTS = 5
MAX_ADDRESSES = 3
"""How many addresses of a host are tried."""

USER_AGENT = "concertmaster"

_TIMES = httpx2.Timeout(10)

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Returns the addresses of a host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What an address gave."""

    url: str
    """Where it came from in the end."""
    media_type: str
    charset: str | None
    content: bytes
    cut: bool
    """There was more."""


async def resolve(host: str, port: int) -> tuple[str, ...]:
    """Return the addresses of a host, as the system knows them."""
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(address[0]) for *_, address in found))


class PublicTransport(httpx2.AsyncBaseTransport):
    """Sends requests to public addresses, and to the very ones that it has looked at.

    A name can have another address each time somebody asks. So it is asked for once a
    request, redirects included, and the connection is made to what was found, while the
    certificate is still checked against the name.
    """

    def __init__(self, inner: httpx2.AsyncBaseTransport, *, resolve: Resolve = resolve) -> None:
        self._inner = inner
        self._resolve = resolve

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Return the response of the first address that can be reached.

        Raises:
            ToolCallError: the request is none that may be sent: of another kind, with a
                password, or to a host that is unknown or has an address that is not public.
        """
        _check(request.url)
        host = request.url.raw_host.decode("ascii")
        *others, last = await self._addresses(host, request.url)
        for address in others:
            try:
                return await self._send(request, host, address)
            except httpx2.ConnectError:
                continue
        return await self._send(request, host, last)

    async def _addresses(self, host: str, url: httpx2.URL) -> Sequence[str]:
        port = url.port or {"http": 80, "https": 443}[url.scheme]
        try:
            addresses = await self._resolve(host, port)
        except (OSError, UnicodeError):
            addresses = ()
        if not addresses:
            raise ToolCallError(f"No host {host!r} is known.")
        if not all(is_public(address) for address in addresses):
            raise ToolCallError(f"{host!r} is no host of the public internet; others are refused.")
        return addresses[:MAX_ADDRESSES]

    async def _send(self, request: httpx2.Request, host: str, address: str) -> httpx2.Response:
        pinned = httpx2.Request(
            request.method,
            request.url.copy_with(host=address),
            headers=request.headers,
            stream=request.stream,
            extensions={**request.extensions, "sni_hostname": host},
        )
        return await self._inner.handle_async_request(pinned)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._inner.aclose()


async def get_page(url: str, transport: httpx2.AsyncBaseTransport | None = None) -> Page:
    """Return what is at `url`, at most `MAX_BYTES` of it.

    Raises:
        ToolCallError: it cannot be had; says why.
    """
    # Settings of the environment could send requests through a proxy, or add a password.
    async with httpx2.AsyncClient(
        transport=transport or PublicTransport(_network()),
        headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
        follow_redirects=True,
        max_redirects=MAX_REDIRECTS,
        timeout=_TIMES,
        trust_env=False,
    ) as client:
        try:
            async with client.stream("GET", url) as response:
                return await _page(response)
        except httpx2.TooManyRedirects:
            raise ToolCallError(f"{url} leads on more than {MAX_REDIRECTS} times.") from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as exc:
            reason = str(exc) or type(exc).__name__
            raise ToolCallError(f"{url} could not be fetched: {reason}.") from None


def _network() -> httpx2.AsyncBaseTransport:
    # Hosts that have one address must not share a connection: it has the certificate of one.
    limits = httpx2.Limits(max_keepalive_connections=0)
    return httpx2.AsyncHTTPTransport(trust_env=False, limits=limits)


def _check(url: httpx2.URL) -> None:
    if url.scheme not in ("http", "https") or not url.host:
        raise ToolCallError("Only http:// and https:// addresses can be fetched.")
    if url.userinfo:
        raise ToolCallError("An address with a user name or password is refused.")


async def _page(response: httpx2.Response) -> Page:
    if response.status_code >= 400:
        raise ToolCallError(f"{response.url} answered with status {response.status_code}.")
    content = await _content(response)
    return Page(
        url=str(response.url),
        media_type=response.headers.get("content-type", "").partition(";")[0].strip().lower(),
        charset=response.charset_encoding,
        content=content[:MAX_BYTES],
        cut=len(content) > MAX_BYTES,
    )


async def _content(response: httpx2.Response) -> bytes:
    """Return the content, unpacked as far as it may be read and no further."""
    packing = response.headers.get("content-encoding", "identity").strip().lower()
    if packing not in ("identity", "gzip", "x-gzip", "deflate"):
        raise ToolCallError(f"{response.url} is packed in a way that is refused: {packing[:80]}.")
    unpack = None if packing == "identity" else zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    content = bytearray()
    async for chunk in response.aiter_raw():
        left = MAX_BYTES + 1 - len(content)
        try:
            content += chunk[:left] if unpack is None else unpack.decompress(chunk, left)
        except zlib.error:
            raise ToolCallError(f"{response.url} is not packed as it says.") from None
        if len(content) > MAX_BYTES:
            break
    return bytes(content)


def decode(page: Page) -> str:
    """Return a page that is text as such."""
    # Python has encodings that are none, and some that take very long.
    name = (page.charset or "utf-8").lower()
    encoding = {"iso-8859-1": "cp1252", "windows-1252": "cp1252", "utf-16": "utf-16"}.get(name)
    return page.content.removeprefix(codecs.BOM_UTF8).decode(encoding or "utf-8", "replace")
