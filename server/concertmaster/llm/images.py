"""Images that a model is shown beside a text."""

from typing import Literal

from concertmaster.llm.values import Frozen

MediaType = Literal["image/png", "image/jpeg", "image/gif", "image/webp"]
"""What models can look at."""


class Image(Frozen):
    """An image, whole."""

    media_type: MediaType
    data: str
    """Its bytes in base64."""

    def __str__(self) -> str:
        """Return what it is, in words, without its data."""
        return f"{self.media_type}, {decoded_bytes(self.data):,} bytes"


def decoded_bytes(base64: str) -> int:
    """Return how many bytes a text in base64 stands for."""
    return len(base64) * 3 // 4 - base64[-2:].count("=")
