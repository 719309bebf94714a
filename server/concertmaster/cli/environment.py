"""Which variables of the environment reach what."""

import re

from concertmaster.settings import Settings, environment

_SECRET = re.compile(r"^ANTHROPIC_|^CONCERTMASTER_|KEY|TOKEN|SECRET|PASS|CREDENTIAL", re.I)
_REACHES_OUT = re.compile(r"(HTTPS?|ALL|NO)_PROXY|SSL_CERT_(FILE|DIR)|(ANTHROPIC|OTEL)_\w+", re.I)
_FINDS_PROGRAMS = re.compile(r"PATH|VIRTUAL_ENV", re.I)
_STORE = re.compile(r"PG[A-Z]+")


def program_environment() -> dict[str, str]:
    """Return the environment without what looks like a secret, for programs of others."""
    return {name: value for name, value in environment().items() if not _SECRET.search(name)}


def decisive_environment(settings: Settings) -> dict[str, str]:
    """Return what the work of a server depends on beside its settings."""
    deciding = [_REACHES_OUT]
    if settings.store is not None:
        deciding.append(_STORE)
    if starts_programs(settings):
        deciding.append(_FINDS_PROGRAMS)
    return {
        name: value
        for name, value in environment().items()
        if any(names.fullmatch(name) for names in deciding)
    }


def starts_programs(settings: Settings) -> bool:
    """Tell whether workers may start programs of others."""
    return bool(settings.mcp_servers or settings.test_command)
