"""The front end of a background server: what a client starts whose runs are to outlive it."""

import hashlib
import json
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import click
from pydantic import SecretStr

import concertmaster
from concertmaster.background.client import reach, relay
from concertmaster.background.files import files_of
from concertmaster.cli.app import FAILED
from concertmaster.cli.environment import answering, decisive_environment, starts_programs
from concertmaster.errors import BackgroundError
from concertmaster.settings.load import LoadedSettings, Settings, configuration_folder

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


def serve_from_background(
    loaded: LoadedSettings, *, as_server: str, accept_only: bool
) -> int | None:
    """Serve the client at stdin and stdout from the background server until either leaves.

    The command of this process becomes that of the server by the flag `as_server` and an
    identity. Returns the exit status, or nothing if there is no such server and none can be
    started, which has been told on stderr.
    """
    files = files_of(loaded.settings.data_folder, identity_of(loaded, accept_only=accept_only))
    # Started with the same flags, and with the environment and the working folder it inherits.
    # But with no module of that folder in the place of one of ours.
    program = [sys.executable, "-P", "-m", "concertmaster", *sys.argv[1:]]
    try:
        connection = reach(files, [*program, as_server, files.identity])
    except BackgroundError as exc:
        click.echo(
            f"Warning: The background server cannot be used. {exc} This process serves its client "
            "without it, and its runs are interrupted when the client quits.",
            err=True,
        )
        return None
    with connection:
        if relay(connection):
            return 0
    click.echo(
        "Error: The background server has ended. Runs that were under way can be resumed; to go "
        "on, connect again.",
        err=True,
    )
    return FAILED
