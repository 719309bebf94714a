"""What processes have learned of providers' concurrency limits, kept in a file for the next ones.

It is a hint and not a truth: a file that is missing, damaged or unwritable costs a slow start.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from concertmaster.llm.rate_limit import Learned

log = logging.getLogger(__name__)

KEEP_SECONDS = 7 * 24 * 3600
"""How long an entry is used: accounts move to other limits."""


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True)

    width: int
    refused_at: int | None
    at: float
    """When it was written, in Unix seconds."""


_ENTRIES = TypeAdapter(dict[str, _Entry])


class LearnedLimits:
    """The limits learned for the models of one endpoint. Without a file, nothing is kept."""

    def __init__(
        self,
        file: Path | None = None,
        *,
        endpoint: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._file = file
        self._endpoint = endpoint
        self._clock = clock

    def of(self, model: str) -> Learned | None:
        """Return what is known of a model's limit."""
        entry = self._read().get(self._key(model))
        return None if entry is None else Learned(entry.width, entry.refused_at)

    def save(self, learned: Mapping[str, Learned]) -> None:
        """Keep what has been learned, by model; what other processes have learned stays."""
        if self._file is None or not learned:
            return
        entries = self._read() | {
            self._key(model): _Entry(
                width=limit.width, refused_at=limit.refused_at, at=self._clock()
            )
            for model, limit in learned.items()
        }
        try:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh = self._file.with_name(f"{self._file.name}.{os.getpid()}")
            fresh.write_bytes(_ENTRIES.dump_json(entries))
            fresh.replace(self._file)
        except OSError as exc:
            log.debug("learned limits not kept: %s", exc)

    def _key(self, model: str) -> str:
        return f"{self._endpoint} {model}"

    def _read(self) -> dict[str, _Entry]:
        if self._file is None:
            return {}
        try:
            entries = _ENTRIES.validate_json(self._file.read_bytes())
        except (OSError, ValidationError):
            return {}
        oldest = self._clock() - KEEP_SECONDS
        return {key: entry for key, entry in entries.items() if entry.at >= oldest}
