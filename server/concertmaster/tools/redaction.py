"""Secrets kept out of what is shown."""

import re
from collections.abc import Iterable

MASK = "***"


class Masking:
    """Replaces secrets in texts."""

    def __init__(self, secrets: Iterable[str]) -> None:
        """Expect the longest secrets first, as one may contain another."""
        self._secrets = re.compile("|".join(map(re.escape, secrets)) or r"(?!)")

    def __call__(self, text: str) -> str:
        """Return `text` without the secrets."""
        return self._secrets.sub(MASK, text)


NO_MASKING = Masking(())
