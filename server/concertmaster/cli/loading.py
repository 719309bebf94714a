"""Importing what a command needs once it is known which: people and clients wait for it."""

import gc
import importlib
import sys
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
