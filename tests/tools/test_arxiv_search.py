from urllib.parse import parse_qs

import pytest

from arxiv_endpoint import arxiv_endpoint
from concertmaster.errors import ToolCallError
from concertmaster.tools.builtin.arxiv import ArxivSearch
from concertmaster.tools.builtin.arxiv_client import ArxivClient
from concertmaster.tools.scope import ToolScope

pytestmark = pytest.mark.anyio

ENTRY = """<entry>
<id>http://arxiv.org/abs/1706.03762v7</id><updated>2023-08-02T00:41:18Z</updated>
<published>2017-06-12T17:57:34Z</published><title>Attention Is All
 You Need</title><summary>  The dominant sequence
 transduction models.</summary>{authors}
<category term="cs.CL"/><category term="cs.LG"/></entry>"""
FEED = """<?xml version="1.0" encoding="UTF-8"?>
<feed xmlns="http://www.w3.org/2005/Atom" xmlns:opensearch="http://a9.com/-/spec/opensearch/1.1/">
<opensearch:totalResults>{total}</opensearch:totalResults>
<opensearch:startIndex>0</opensearch:startIndex>
<opensearch:itemsPerPage>{total}</opensearch:itemsPerPage>{entries}</feed>"""


def feed(*, papers: int = 1, authors: int = 1) -> bytes:
    names = "".join(f"<author><name>Author {number}</name></author>" for number in range(authors))
    return FEED.format(total=papers, entries=ENTRY.format(authors=names) * papers).encode()


async def test_each_paper_is_a_paragraph() -> None:
    with arxiv_endpoint(feed(papers=2)) as (tool, _):
        papers = (await tool.call({"query": "attention"}, ToolScope())).split("\n\n")
    assert papers[0].splitlines() == [
        "Attention Is All You Need",
        "Author 0; 2017-06-12; cs.CL, cs.LG",
        "http://arxiv.org/abs/1706.03762v7",
        "The dominant sequence transduction models.",
    ]
    assert len(papers) == 2


async def test_many_authors_are_counted() -> None:
    with arxiv_endpoint(feed(authors=10)) as (tool, _):
        assert "Author 7 and 2 more;" in await tool.call({"query": "x"}, ToolScope())


async def test_the_query_the_number_and_the_order_are_passed_on() -> None:
    with arxiv_endpoint(feed(papers=3)) as (tool, queries):
        asked = {"query": "au:bach & cat:cs.SD", "max_results": 2, "order": "newest"}
        text = await tool.call(asked, ToolScope())
    sent = parse_qs(queries[0])
    assert sent["search_query"] == ["au:bach & cat:cs.SD"]
    assert sent["sortBy"] == ["submittedDate"]
    assert text.count("Attention") == 2


async def test_no_paper_is_no_error() -> None:
    with arxiv_endpoint(feed(papers=0)) as (tool, _):
        assert await tool.call({"query": "x"}, ToolScope()) == "arXiv knows no paper that fits."


async def test_an_endpoint_that_fails_is_asked_twice_and_told_of() -> None:
    with arxiv_endpoint(status=503) as (tool, queries):
        with pytest.raises(ToolCallError, match=r"arXiv could not be asked: .*503"):
            await tool.call({"query": "x"}, ToolScope())
        assert len(queries) == 2


def test_it_is_arxiv_that_is_asked() -> None:
    client = ArxivClient(pause_seconds=3)
    assert client.query_url_format.startswith("https://export.arxiv.org/api/query?")
    assert client.delay_seconds == 3


async def test_an_endpoint_that_is_not_there_is_told_of() -> None:
    tool = ArxivSearch(endpoint="http://127.0.0.1:1/", pause_seconds=0)
    with pytest.raises(ToolCallError, match="arXiv could not be asked: ConnectionError"):
        await tool.call({"query": "x"}, ToolScope())


@pytest.mark.parametrize(
    "body", [b"", b"<feed", b"<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]>&b;"]
)
async def test_an_answer_that_is_no_feed_has_no_papers(body: bytes) -> None:
    with arxiv_endpoint(body) as (tool, _):
        assert "no paper" in await tool.call({"query": "x"}, ToolScope())
