"""What a background server is started for: clients that want anything else get another."""

import hashlib
import json
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

from pydantic import SecretStr

import concertmaster
from concertmaster.cli.answering import answering
from concertmaster.cli.environment import decisive_environment, starts_programs
from concertmaster.settings import LoadedSettings, Settings, configuration_folder

IDENTITY_CHARS = 16


def identity_of(loaded: LoadedSettings, *, accept_only: bool = False) -> str:
    """Return what stands for all that a server's work depends on; it gives nothing of it away.

    That is the program, its settings with every key among them, the files of workers, prompts
    and jobs, and what it takes from its environment.
    """
    settings = loaded.settings
    facts = {
        "version": concertmaster.__version__,
        "installation": (sys.prefix, concertmaster.__file__, platform.node()),
        "settings": settings.model_dump(),
        "answers": answering(loaded),
        "accept_only": accept_only,
        "files": list(_files(settings)),
        "environment": decisive_environment(settings),
        "folder": working_folder(settings),
    }
    text = json.dumps(facts, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:IDENTITY_CHARS]


def working_folder(settings: Settings) -> Path | None:
    """Return the working folder, if anything depends on it."""
    return Path.cwd() if settings.claude_agents or starts_programs(settings) else None


def _files(settings: Settings) -> Iterator[tuple[str, int, int]]:
    """Yield each file that is read once in the life of a server, as it is now."""
    folders = [configuration_folder() / "workers", configuration_folder() / "jobs"]
    if settings.claude_agents:
        folders.append(Path.cwd() / ".claude" / "agents")
    folders += [*settings.worker_folders, *settings.prompt_folders, *settings.job_folders]
    for file in sorted({file for folder in folders for file in folder.glob("*.md")}):
        about = file.stat()
        yield str(file), about.st_mtime_ns, about.st_size


def _plain(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)
