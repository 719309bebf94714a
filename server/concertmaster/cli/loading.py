"""Importing what a command needs once it is known which: people and clients wait for it."""

import gc
import importlib
from typing import Any


def load_module(name: str) -> Any:
    """Import and return the module of that name of this room."""
    # What is imported stays. To look for garbage in it, while it arrives and ever after, is a
    # twelfth of what a client waits for a server to start.
    gc.disable()
    try:
        return importlib.import_module(f"concertmaster.cli.{name}")
    finally:
        gc.freeze()
        gc.enable()
