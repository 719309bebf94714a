"""arXiv, as its client library (`arxiv`, kept by its author) reaches it.

Imports what takes long to import, so it is imported when something is to be looked for.
"""

from typing import Literal

import arxiv  # pyright: ignore[reportMissingTypeStubs] (it has types of its own)
import requests
from requests.adapters import HTTPAdapter

from concertmaster.errors import ToolCallError

REQUEST_SECONDS = 20
MAX_AUTHORS = 8
MAX_ABSTRACT_CHARS = 2_000


class _InTime(HTTPAdapter):
    """Gives up a server that says nothing, which the library would wait for."""

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: float | tuple[float | None, float | None] | None = None,
        verify: bool | str = True,
        cert: str | tuple[str, str] | None = None,
        proxies: dict[str, str] | None = None,
    ) -> requests.Response:
        return super().send(request, stream, timeout or REQUEST_SECONDS, verify, cert, proxies)


class ArxivClient(arxiv.Client):
    """Finds papers, pausing between requests."""

    def __init__(self, *, endpoint: str | None = None, pause_seconds: float) -> None:
        super().__init__(page_size=25, delay_seconds=pause_seconds, num_retries=1)
        if endpoint is not None:
            self.query_url_format = f"{endpoint}?{{}}"
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, _InTime())

    def search(self, query: str, *, most: int, order: Literal["relevance", "newest"]) -> list[str]:
        """Return a paragraph for each paper that fits.

        Raises:
            ToolCallError: arXiv cannot be reached, or gives no answer that makes sense.
        """
        criteria = {
            "relevance": arxiv.SortCriterion.Relevance,
            "newest": arxiv.SortCriterion.SubmittedDate,
        }
        search = arxiv.Search(query=query, max_results=most, sort_by=criteria[order])
        try:
            return [_paragraph(paper) for paper in self.results(search)]
        except (arxiv.ArxivError, requests.RequestException) as exc:
            reason = getattr(exc, "message", type(exc).__name__)
            raise ToolCallError(f"arXiv could not be asked: {reason}.") from None


def _paragraph(paper: arxiv.Result) -> str:
    names = [author.name for author in paper.authors]
    others = f" and {len(names) - MAX_AUTHORS} more" if len(names) > MAX_AUTHORS else ""
    abstract = " ".join(paper.summary.split())
    return "\n".join(
        [
            " ".join(paper.title.split()),
            f"{', '.join(names[:MAX_AUTHORS])}{others}; {paper.published:%Y-%m-%d}; "
            f"{', '.join(paper.categories)}",
            paper.entry_id,
            abstract[:MAX_ABSTRACT_CHARS],
        ]
    )
