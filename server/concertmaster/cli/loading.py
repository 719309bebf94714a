"""Importing what a command needs once it is known which: people and clients wait for it."""

import gc
import importlib
import sys
import threading
from contextlib import suppress
from typing import Any


def load_module(name: str) -> Any:
    """Import and return the module of that name of this room."""
    name = f"concertmaster.cli.{name}"
    if name in sys.modules:
        # Else what is garbage by now would be kept with all the rest.
        return importlib.import_module(name)
    # What is imported stays. To look for garbage in it, while it arrives and ever after, is a
    # twelfth of what a client waits for a server to start.
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        gc.freeze()
        gc.enable()


def load_in_background(name: str) -> None:
    """Import a module of this room in a thread, so that it is there when it is needed.

    A module that cannot be imported is reported to the caller that needs it.
    """
    if f"concertmaster.cli.{name}" in sys.modules:
        return

    def load() -> None:
        with suppress(ImportError):
            load_module(name)

    threading.Thread(target=load, name=f"import {name}", daemon=True).start()
