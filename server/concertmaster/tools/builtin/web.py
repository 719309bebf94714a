"""The worker tool that reads a page of the web: `fetch_url`.

Pages are made readable by trafilatura (kept by its author, who measures it against the other
extractors), in a process of its own, which can be stopped and may crash: pages are written by
strangers, and the parser in C. It brings 60 MB of packages along, which is why the web tools
are an extra.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from anyio import BrokenWorkerProcess, to_process
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from concertmaster.errors import ToolCallError
from concertmaster.llm.messages import ToolSpec
from concertmaster.tools.arguments import parse_arguments
from concertmaster.tools.scope import ToolScope

if TYPE_CHECKING:
    import httpx2


_HTML = ("text/html", "application/xhtml+xml")
_TEXT = ("application/json", "application/xml", "application/yaml")


class FetchUrlArguments(BaseModel):
    """What `fetch_url` is called with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(
        min_length=1, max_length=2_000, description="An http or https address of a text or page."
    )


class FetchUrl:
    """Returns the readable text of a public page."""

    spec = ToolSpec(
        name="fetch_url",
        description=(
            "Returns the text of a page of the public web, with its links. Never put anything "
            "into an address that somebody has not published."
        ),
        input_schema=FetchUrlArguments.model_json_schema(),
        outward=True,
    )

    def __init__(self, *, transport: "httpx2.AsyncBaseTransport | None" = None) -> None:
        self._transport = transport

    async def call(self, arguments: Mapping[str, JsonValue], _scope: ToolScope, /) -> str:
        """Return where the text comes from, and the text."""
        # Takes a third of a second to import, and most runs fetch nothing.
        from concertmaster.tools.builtin import public_http  # noqa: PLC0415

        asked = parse_arguments(FetchUrlArguments, arguments)
        page = await public_http.get_page(asked.url, self._transport)
        if page.media_type in _HTML:
            text = await _extracted(page.content, page.url)
        elif page.media_type.startswith("text/") or page.media_type in _TEXT:
            text = public_http.decode(page)
        else:
            kind = page.media_type[:80] or "of an unknown kind"
            raise ToolCallError(f"{page.url} is no text or page but {kind}.")
        note = "\n[the page is longer than what was read of it]" if page.cut else ""
        return f"From {page.url}:\n\n{text.strip() or '[no text]'}{note}"


async def _extracted(content: bytes, url: str) -> str:
    try:
        return await to_process.run_sync(extract_text, content, url, cancellable=True)
    except BrokenWorkerProcess:
        raise ToolCallError(f"{url} could not be made readable.") from None


def extract_text(content: bytes, url: str) -> str:
    """Return what there is to read in a page, as Markdown."""
    # Only the process that reads pages needs it, and it takes half a second to import.
    import trafilatura  # noqa: PLC0415

    text = trafilatura.extract(
        content,
        url=url,
        output_format="markdown",
        include_links=True,
        favor_recall=True,
        with_metadata=True,
    )
    return text or trafilatura.html2txt(content)
