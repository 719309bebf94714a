"""Which tools the provider of the model calls itself, as the settings have it."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from concertmaster.cli.answering import answering
from concertmaster.llm.server_tools import SERVER_TOOLS, ServerTool, ServerToolName
from concertmaster.settings import LoadedSettings, Settings
from concertmaster.tools.served import ServedTools

WEB: tuple[ServerToolName, ...] = ("web_search", "web_fetch")

USUAL = WEB
"""Those of a connection to Anthropic's own address whose operator has not said which.

Code execution is not among them: what is put into a container stays with the provider for a
month, and no reply tells what it costs.
"""


def served_tools(loaded: LoadedSettings) -> ServedTools:
    """Return what workers may have the provider call."""
    settings = loaded.settings
    left_out = dict(_left_out(settings))
    missing = {
        name: reason
        for name in SERVER_TOOLS
        if name not in left_out and (reason := _why_missing(name, loaded))
    }
    there = {
        name: ServerTool(
            name=name,
            max_uses=settings.server_tool_uses,
            allowed_domains=settings.web_domains if name in WEB else (),
            blocked_domains=settings.web_domains_blocked if name in WEB else (),
        )
        for name in SERVER_TOOLS
        if name not in left_out and name not in missing
    }
    return ServedTools(there=there, missing=missing, left_out=left_out)


def _left_out(settings: Settings) -> Iterator[tuple[str, str]]:
    for name in SERVER_TOOLS:
        if name in WEB and not settings.web:
            yield name, "not allowed: web is false"
        elif settings.server_tools is not None and name not in settings.server_tools:
            yield name, "not allowed: not in server_tools"


def _why_missing(name: ServerToolName, loaded: LoadedSettings) -> str:
    """Return why there is no tool that the operator does not leave out; nothing if there is."""
    settings = loaded.settings
    if answering(loaded) != "anthropic":
        return "not there without a language model"
    if settings.server_tools is not None:
        return ""
    if name not in USUAL:
        return "not there unless server_tools names it"
    return "" if _at_anthropic(settings) else "not there at this base_url, unless in server_tools"


def _at_anthropic(settings: Settings) -> bool:
    address = settings.base_url
    return address is None or urlsplit(address).hostname == "api.anthropic.com"
