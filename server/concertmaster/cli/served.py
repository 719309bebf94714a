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
    missing: dict[str, str] = dict(_missing(loaded))
    settings = loaded.settings
    there = {
        name: ServerTool(
            name=name,
            max_uses=settings.server_tool_uses,
            allowed_domains=settings.web_domains if name in WEB else (),
            blocked_domains=settings.web_domains_blocked if name in WEB else (),
        )
        for name in SERVER_TOOLS
        if name not in missing
    }
    return ServedTools(there=there, missing=missing)


def _missing(loaded: LoadedSettings) -> Iterator[tuple[ServerToolName, str]]:
    settings = loaded.settings
    for name in SERVER_TOOLS:
        if answering(loaded) != "anthropic":
            yield name, "not there without a language model"
        elif name not in _chosen(settings):
            yield name, _why_not_chosen(name, settings)
        elif name in WEB and not settings.web:
            yield name, "not allowed: web is false"


def _chosen(settings: Settings) -> tuple[ServerToolName, ...]:
    if settings.server_tools is not None:
        return settings.server_tools
    return USUAL if _at_anthropic(settings) else ()


def _at_anthropic(settings: Settings) -> bool:
    address = settings.base_url
    return address is None or urlsplit(address).hostname == "api.anthropic.com"


def _why_not_chosen(name: ServerToolName, settings: Settings) -> str:
    if settings.server_tools is None and name in USUAL:
        return "not known to be there at this base_url; server_tools says that they are"
    return "not allowed: not in server_tools"
