"""Attempts to reach an address that is not of the public internet."""

import socket
from collections.abc import Sequence

import anyio
import httpx2
import pytest

from concertmaster.tools.builtin import public_http
from concertmaster.tools.builtin.web import FetchUrl
from concertmaster.tools.scope import ToolScope
from hostile_world import SECRET, Trap, outcome
from web import SITE, page, redirect

pytestmark = pytest.mark.anyio

HOSTS = [
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "127.255.255.254",
    "127.000.000.001",
    "2130706433",
    "0x7f000001",
    "0x7F.0x0.0x0.0x1",
    "0x7f.1",
    "0177.0.0.1",
    "017700000001",
    "0177.0x0.0.1",
    "localhost",
    "LOCALHOST",
    "0",
    "0.0.0.0",  # noqa: S104 (an address to be refused)
    "0x0",
    "[::]",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[0000::0001]",
    "[::127.0.0.1]",
    "[::ffff:127.0.0.1]",
    "[::FFFF:7f00:1]",
    "[0:0:0:0:0:ffff:7f00:0001]",
    "[::ffff:a9fe:a9fe]",
    "[::ffff:10.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b::169.254.169.254]",
    "[64:ff9b:1::1]",
    "[2002:7f00:1::]",
    "[2002:a9fe:a9fe::1]",
    "[2001:0:7f00:1::]",
    "[2001:db8::1]",
    "[fc00::1]",
    "[fd00:ec2::254]",
    "[fe80::1]",
    "[febf::1]",
    "[fec0::1]",
    "[ff02::1]",
    "[ff0e::1]",
    "[100::1]",
    "[3fff::1]",
    "10.0.0.1",
    "10.1",
    "012.0.0.1",
    "167772161",
    "172.16.0.1",
    "172.31.255.255",
    "0xac100001",
    "192.168.0.1",
    "192.168.257",
    "3232235521",
    "0300.0250.0.1",
    "169.254.169.254",
    "169.254.43518",
    "2852039166",
    "0xa9fea9fe",
    "0251.0376.0251.0376",
    "100.64.0.1",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
]


def caught(trap: Trap, text: str) -> bool:
    """Tell whether a request has got where none should get."""
    return SECRET in text or not set(trap.connected) <= {SITE}


@pytest.mark.parametrize("host", HOSTS)
async def test_no_spelling_of_an_address_is_let_through(host: str) -> None:
    trap = Trap()
    assert not caught(trap, await trap.fetch(f"http://{host}:8000/"))


@pytest.mark.parametrize("host", HOSTS)
async def test_no_redirect_leads_there(host: str) -> None:
    trap = Trap(redirect(f"http://{host}/", status=307))
    assert not caught(trap, await trap.fetch("https://site.example/"))
    assert trap.connected == [SITE]


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["::1"],
        ["10.0.0.1"],
        ["169.254.169.254"],
        ["fe80::1%eth0"],
        ["::ffff:127.0.0.1"],
        [SITE, "127.0.0.1"],
        ["127.0.0.1", SITE],
        [SITE, "2606:4700::1111", "fd00::1"],
        [SITE, SITE, SITE, "192.168.0.1"],
        [SITE, "0.0.0.0"],  # noqa: S104 (an address to be refused)
        ["not an address"],
    ],
    ids=str,
)
async def test_no_name_leads_there(addresses: Sequence[str]) -> None:
    def down(_: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("the next address is to be tried")

    trap = Trap(down, names={"inner.example": addresses})
    assert not caught(trap, await trap.fetch("http://inner.example/"))


@pytest.mark.parametrize("inner", ["127.0.0.1", "::1", "10.0.0.1", "169.254.169.254", "fd00::1"])
@pytest.mark.parametrize("hops", [1, 2, 3])
async def test_a_name_that_changes_its_address_leads_nowhere_else(inner: str, hops: int) -> None:
    turns = iter([*[SITE] * hops, *[inner] * 9])
    connected: list[str] = []

    async def resolve(_host: str, _port: int) -> Sequence[str]:
        return [next(turns)]

    def answer(request: httpx2.Request) -> httpx2.Response:
        connected.append(request.url.host)
        hop = redirect(f"http://rebind.example/{len(connected)}")
        return hop(request) if request.url.host == SITE else page(SECRET)(request)

    transport = public_http.PublicTransport(httpx2.MockTransport(answer), resolve=resolve)
    text = await outcome(
        FetchUrl(transport=transport), {"url": "http://rebind.example/"}, ToolScope()
    )
    assert SECRET not in text
    assert connected == [SITE] * hops


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://site.example/",
        "gopher://127.0.0.1:6379/_FLUSHALL",
        "data:text/plain,canary_4711",
        "javascript:canary_4711",
        "//127.0.0.1/",
        "http:127.0.0.1",
        "http:///127.0.0.1",
        "http://site.example@127.0.0.1/",
        "http://127.0.0.1#@site.example/",
        "http://site.example:80@127.0.0.1:80/",
        "http://127.0.0.1?site.example/",
        " http://127.0.0.1/",
        "hTTp://LocalHost/",
        "http://127\u30020\u30020\u30021/",
        "http+unix://%2Fvar%2Frun%2Fdocker.sock/info",
    ],
)
async def test_no_kind_of_address_gets_around_it(url: str) -> None:
    for trap, asked in ((Trap(), url), (Trap(redirect(url)), "http://site.example/")):
        text = (await trap.fetch(asked)).replace(url, "")
        assert not caught(trap, text)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f.1", "0"])
async def test_nothing_connects_to_this_machine(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        url = f"http://{host}:{server.getsockname()[1]}/"
        with anyio.fail_after(60):
            await outcome(FetchUrl(), {"url": url}, ToolScope())
        with pytest.raises(BlockingIOError):
            server.accept()


async def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    trap = Trap()
    assert "nothing" in await trap.fetch("http://site.example/")


async def test_a_request_carries_nothing_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", SECRET)
    seen: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.extend(request.headers)
        return page(str(request.headers))(request)

    assert SECRET not in await Trap(answer).fetch("http://site.example/")
    assert set(seen) == {"host", "accept", "accept-encoding", "connection", "user-agent"}
