"""A web search that the scripted endpoint makes as if by itself, before it answers."""

from typing import Any

from concertmaster.fake_api.requests import MessagesRequest

Json = dict[str, Any]

SEARCH = "web_search"
ADDRESS = "https://example.org/scripted"
TITLE = "A page that was written beforehand"
CITED = "Some words of a page that nobody wrote."
FOUND_TOKENS = 500
"""Tokens that a search gives the model to read."""


def may_search(request: MessagesRequest) -> bool:
    """Tell whether a request lets the web be searched."""
    return any(str(tool.get("type", "")).startswith(SEARCH) for tool in request.tools)


def goes_on(request: MessagesRequest) -> bool:
    """Tell whether there has been a reply in the conversation."""
    return any(message.role == "assistant" for message in request.messages)


def search_blocks(use_id: str) -> list[Json]:
    """Return a search and what it found, as blocks of a reply."""
    found = {
        "type": "web_search_result",
        "url": ADDRESS,
        "title": TITLE,
        "encrypted_content": "c2NyaXB0ZWQ=",
        "page_age": None,
    }
    return [
        {
            "type": "server_tool_use",
            "id": use_id,
            "name": SEARCH,
            "input": {"query": "what was asked"},
            "caller": {"type": "direct"},
        },
        {
            "type": "web_search_tool_result",
            "tool_use_id": use_id,
            "content": [found],
            "caller": {"type": "direct"},
        },
    ]


def citation() -> Json:
    """Return what a text that rests on the search cites."""
    return {
        "type": "web_search_result_location",
        "url": ADDRESS,
        "title": TITLE,
        "cited_text": CITED,
        "encrypted_index": "c2NyaXB0ZWQ=",
    }
