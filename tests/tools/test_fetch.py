import gzip
import zlib

import httpx2
import pytest

from concertmaster.errors import ToolCallError
from concertmaster.tools.builtin import public_http
from concertmaster.tools.builtin import web as fetch
from concertmaster.tools.builtin.public_http import resolve
from concertmaster.tools.builtin.web import extract_text
from web import SITE, Internet, crash, page, redirect

pytestmark = pytest.mark.anyio

ARTICLE = (
    "<html><head><title>On cellos</title></head><body><nav><a href='/'>Home</a></nav><article>"
    f"<h1>On cellos</h1><p>A cello has four strings. {'It is low. ' * 40}"
    "<a href='/bows'>Bows</a> matter.</p></article><script>evil()</script></body></html>"
)


async def test_a_page_is_made_readable_with_its_links() -> None:
    text = await Internet({"a.example": page(ARTICLE, "text/html")}).fetch("https://a.example/c")
    assert text.startswith("From https://a.example/c:\n\n")
    assert "A cello has four strings." in text
    assert "[Bows](https://a.example/bows)" in text
    assert "evil()" not in text


def test_a_page_without_an_article_gives_the_text_it_has() -> None:
    text = extract_text(b"<html><body><p>short</p></body></html>", "https://a.example/")
    assert text.endswith("\nshort")


def test_a_page_without_text_is_empty() -> None:
    assert extract_text(b"", "https://a.example/") == ""


@pytest.mark.parametrize(
    ("media_type", "content", "text"),
    [
        ("text/plain; charset=utf-8", "Grüße".encode(), "Grüße"),
        ("text/csv; charset=ISO-8859-1", "Grüße".encode("latin-1"), "Grüße"),
        ("text/plain; charset=zip", b"a\xff", "a\ufffd"),
        ("application/json", b'\xef\xbb\xbf{"a": 1}', '{"a": 1}'),
        ("text/plain", b"", "[no text]"),
    ],
)
async def test_text_comes_as_it_is(media_type: str, content: bytes, text: str) -> None:
    net = Internet({"a.example": page(content, media_type)})
    assert await net.fetch("http://a.example") == f"From http://a.example:\n\n{text}"


@pytest.mark.parametrize("media_type", ["application/pdf", "image/png", ""])
async def test_what_is_no_text_is_refused(media_type: str) -> None:
    with pytest.raises(ToolCallError, match="is no text or page"):
        await Internet({"a.example": page(b"%PDF", media_type)}).fetch("http://a.example")


async def test_a_connection_is_made_to_the_address_that_was_looked_at() -> None:
    net = Internet({"a.example": page("yes")})
    await net.fetch("https://a.example")
    assert net.connected == [SITE]


async def test_the_next_address_is_tried_where_one_cannot_be_reached() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.host == SITE:
            raise httpx2.ConnectError("no route")
        return page("yes")(request)

    net = Internet({"a.example": answer}, names={"a.example": [SITE, "1.1.1.1"]})
    assert "yes" in await net.fetch("http://a.example")
    assert net.connected == [SITE, "1.1.1.1"]


async def test_redirects_are_followed_and_the_last_address_is_told() -> None:
    net = Internet({"a.example": redirect("https://b.example/x"), "b.example": page("there")})
    assert await net.fetch("http://a.example") == "From https://b.example/x:\n\nthere"


async def test_a_relative_redirect_stays_with_the_name() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        return page("there")(request) if request.url.path == "/x" else redirect("/x")(request)

    assert "From http://a.example/x:" in await Internet({"a.example": answer}).fetch(
        "http://a.example/"
    )


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://a.example/", "Only http:// and https://"),
        ("file:///etc/passwd", "Only http:// and https://"),
        ("http://", "Only http:// and https://"),
        ("http://me:pw@a.example/", "user name or password"),
        ("http://[::1", "could not be fetched: "),
        ("http://unknown.example/", "No host 'unknown.example' is known"),
        ("http://loop.example/", "leads on more than 5 times"),
        ("http://gone.example/", "answered with status 410"),
        ("http://down.example/", "could not be fetched: no route"),
        ("http://file.example/", "Only http:// and https://"),
    ],
)
async def test_what_cannot_be_fetched_is_explained(url: str, reason: str) -> None:
    def fail(_: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("no route")

    net = Internet(
        {
            "a.example": page("yes"),
            "loop.example": redirect("http://loop.example/"),
            "gone.example": lambda _: httpx2.Response(410),
            "down.example": fail,
            "file.example": redirect("file:///etc/passwd"),
        }
    )
    with pytest.raises(ToolCallError, match=reason):
        await net.fetch(url)


@pytest.mark.parametrize(
    ("packing", "packed"),
    [
        ("gzip", gzip.compress(b"plain", mtime=0)),
        ("deflate", zlib.compress(b"plain")),
        ("identity", b"plain"),
    ],
)
async def test_a_packed_page_is_unpacked(packing: str, packed: bytes) -> None:
    net = Internet({"a.example": page(packed, content_encoding=packing)})
    assert "plain" in await net.fetch("http://a.example")


@pytest.mark.parametrize("packing", ["br", "gzip, gzip", "zstd"])
async def test_other_packings_are_refused(packing: str) -> None:
    net = Internet({"a.example": page(gzip.compress(b"plain"), content_encoding=packing)})
    with pytest.raises(ToolCallError, match="packed in a way that is refused"):
        await net.fetch("http://a.example")


async def test_what_is_not_packed_as_it_says_is_refused() -> None:
    net = Internet({"a.example": page(b"plain", content_encoding="gzip")})
    with pytest.raises(ToolCallError, match="not packed as it says"):
        await net.fetch("http://a.example")


@pytest.mark.parametrize("packing", ["identity", "gzip"])
async def test_a_long_page_is_read_up_to_the_limit(
    packing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(public_http, "MAX_BYTES", 10)
    content = b"a" * 1_000_000
    body = gzip.compress(content) if packing == "gzip" else content
    text = await Internet({"a.example": page(body, content_encoding=packing)}).fetch(
        "http://a.example"
    )
    assert text.endswith(f"\n\n{'a' * 10}\n[the page is longer than what was read of it]")


async def test_a_page_that_kills_its_reader_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "extract_text", crash)
    with pytest.raises(ToolCallError, match="could not be made readable"):
        await Internet({"a.example": page("<p>", "text/html")}).fetch("http://a.example")


async def test_the_system_knows_the_addresses_of_this_machine() -> None:
    assert set(await resolve("localhost", 80)) <= {"127.0.0.1", "::1"}
