"""The worker tool that finds scientific papers: `arxiv_search`."""

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from anyio import CapacityLimiter, to_thread
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from concertmaster.llm.messages import ToolSpec
from concertmaster.tools.arguments import parse_arguments
from concertmaster.tools.scope import ToolScope

if TYPE_CHECKING:
    from concertmaster.tools.builtin.arxiv_client import ArxivClient


Order = Literal["relevance", "newest"]


class ArxivSearchArguments(BaseModel):
    """What `arxiv_search` is called with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    query: str = Field(
        min_length=1,
        max_length=500,
        description="Words, or arXiv's syntax: `ti:transformer AND au:vaswani`, `cat:cs.CL`.",
    )
    max_results: int = Field(default=8, ge=1, le=25)
    order: Order = "relevance"


class ArxivSearch:
    """Finds papers on arXiv. Asks one thing at a time, as arXiv wants it."""

    spec = ToolSpec(
        name="arxiv_search",
        description=(
            "Finds papers on arXiv. Returns title, authors, date, link and abstract of each."
        ),
        input_schema=ArxivSearchArguments.model_json_schema(),
        outward=True,
    )

    def __init__(self, *, endpoint: str | None = None, pause_seconds: float = 3) -> None:
        self._endpoint = endpoint
        self._pause_seconds = pause_seconds
        self._turns = CapacityLimiter(1)

    async def call(self, arguments: Mapping[str, JsonValue], _scope: ToolScope, /) -> str:
        """Return a paragraph for each paper."""
        asked = parse_arguments(ArxivSearchArguments, arguments)
        return await to_thread.run_sync(
            self._search, asked, abandon_on_cancel=True, limiter=self._turns
        )

    def _search(self, asked: ArxivSearchArguments) -> str:
        papers = self._client.search(asked.query, most=asked.max_results, order=asked.order)
        return "\n\n".join(papers) or "arXiv knows no paper that fits."

    @cached_property
    def _client(self) -> "ArxivClient":
        # Takes a tenth of a second to import, and most runs look for no papers.
        from concertmaster.tools.builtin.arxiv_client import ArxivClient  # noqa: PLC0415

        return ArxivClient(endpoint=self._endpoint, pause_seconds=self._pause_seconds)
