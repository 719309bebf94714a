"""What a process last wrote to its stderr."""

import os
import threading
from collections.abc import Callable
from typing import TextIO

KEPT_BYTES = 2000
"""How much of it is kept."""


class Stderr:
    """A stderr for a process, read in a thread of its own so that the process never waits."""

    def __init__(self, log: Callable[[str], object]) -> None:
        """Have `log` called with what arrives."""
        self._log = log
        self._tail = b""
        self._reading, writing = os.pipe()
        self.file: TextIO = os.fdopen(writing, "w")
        """What the process is given."""
        self._thread = threading.Thread(target=self._read, name="server stderr", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with os.fdopen(self._reading, "rb", buffering=0) as stream:
            while piece := stream.read(65536):
                self._tail = (self._tail + piece)[-KEPT_BYTES:]
                self._log(piece.decode("utf-8", "replace"))

    def close(self) -> None:
        """Leave it to the process alone."""
        self.file.close()

    def last(self, *, seconds: float) -> str:
        """Return the last that was written, once all is, or after some `seconds`."""
        self._thread.join(seconds)
        return self._tail.decode("utf-8", "replace").strip()
