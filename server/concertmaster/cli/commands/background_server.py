"""The background server itself, as a process that its starter has left behind."""

import logging
import os
from collections.abc import Callable
from logging.handlers import RotatingFileHandler
from pathlib import Path

from concertmaster.background.client import READY
from concertmaster.background.files import ServerFiles, files_of
from concertmaster.cli.commands.background import identity_of, working_folder
from concertmaster.cli.options import LOG_FORMAT, run_async
from concertmaster.errors import BackgroundError
from concertmaster.mcp_server.lazy_service import OpenService
from concertmaster.mcp_server.prompts import LoadJobs
from concertmaster.mcp_server.transports.background import Sessions, serve_background
from concertmaster.mcp_server.transports.stdio import LAST_SECONDS
from concertmaster.settings.load import LoadedSettings
from concertmaster.store import private_files as private

log = logging.getLogger(__name__)

LOG_BYTES = 1_000_000
"""Size of the log, and of the one before it."""

PREDECESSOR_SECONDS = LAST_SECONDS + 4
"""How long to wait for a server that is ending, once it is drained."""


def serve_behind(
    loaded: LoadedSettings,
    open_service: OpenService,
    load_jobs: LoadJobs,
    *,
    identity: str,
    accept_only: bool,
    at_once: bool,
    listed: Callable[[], object],
) -> int:
    """Serve front ends until nobody has needed that for long; return the exit status.

    Raises:
        BackgroundError: there is a server already, or the settings are not those it is for.
    """
    settings = loaded.settings
    if identity != identity_of(loaded, accept_only=accept_only):
        raise BackgroundError("Settings have changed while it was being started.")
    files = files_of(settings.data_folder, identity)
    with files.living(seconds=PREDECESSOR_SECONDS + settings.drain_seconds):
        files.sweep()
        _log_to(files, settings.log_level)
        keep_days = settings.keep_days
        sessions = Sessions(
            open_service, load_jobs, at_once=at_once, keep_days=keep_days, listed=listed
        )

        def ready() -> None:
            if working_folder(settings) is None:
                # A folder that somebody works in can be neither unmounted nor, on some systems,
                # removed.
                os.chdir(Path.cwd().anchor)
            _let_go()

        async def serve() -> int:
            return await serve_background(
                sessions,
                files,
                idle_seconds=settings.background_idle_seconds,
                ready=ready,
                drain_seconds=settings.drain_seconds,
            )

        try:
            return run_async(serve)
        except Exception:
            log.exception("the background server failed")
            raise


def _log_to(files: ServerFiles, level: str) -> None:
    try:
        private.make_file(files.log)
    except OSError as exc:
        raise BackgroundError(f"{files.log} cannot be used: {exc.strerror}.") from exc
    handler = RotatingFileHandler(
        files.log, maxBytes=LOG_BYTES, backupCount=1, encoding="utf-8", delay=True
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), format=LOG_FORMAT, force=True)


def _let_go() -> None:
    """Tell the starter that it need not wait any more, and hold on to nothing of it."""
    os.write(1, f"{READY}\n".encode())
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (1, 2):
        os.dup2(nothing, stream)
    os.close(nothing)
