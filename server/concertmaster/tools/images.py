"""Images in what tools of others say: which of them a worker's model is shown."""

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import get_args

from concertmaster.llm.fencing import spelled
from concertmaster.llm.messages import Image, MediaType, decoded_bytes

IMAGE_BYTES = 1_000_000
"""The largest image."""

IMAGES_OF_A_RESULT = 4

IMAGES_OF_A_WORKER = 20
"""Of more in one request, Anthropic takes only small ones."""

BYTES_OF_A_WORKER = 8_000_000
"""What all images of a worker have, since every request it makes carries them again."""

_MEDIA_TYPES: Mapping[str, MediaType] = {
    media_type: media_type for media_type in get_args(MediaType)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedImage:
    """What is said to be an image. Nobody has looked at it yet."""

    media_type: str
    data: str
    """In base64, if it is as it should be."""
    uri: str = ""
    """Where it is from, if that was said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Illustrated:
    """What a tool says, and the images that belong to it."""

    text: str
    images: tuple[Image, ...] = ()


class Images:
    """The images that one worker has been given, which are not to become too many."""

    def __init__(self) -> None:
        self._count = 0
        self._bytes = 0

    def illustrated(
        self, parts: Iterable[str | OfferedImage], *, failed: bool = False
    ) -> Illustrated:
        """Return what a tool says, with a sentence in the place of each image.

        What a call says that has `failed` has no images: a model is told of failures in text.
        """
        texts: list[str] = []
        images: list[Image] = []
        for part in parts:
            if isinstance(part, str):
                texts.append(part)
                continue
            what = f"{f'{spelled(part.uri)} ' if part.uri else ''}of type {part.media_type}"
            size = f"{decoded_bytes(part.data):,} bytes"
            image = "the call has failed" if failed else self._taken(part, before=len(images))
            if isinstance(image, Image):
                images.append(image)
                texts.append(f"[image {len(images)} {what}, {size}, shown with this result]")
            else:
                texts.append(f"[image {what}, {size}, which cannot be shown here: {image}]")
        return Illustrated(text="\n\n".join(texts), images=tuple(images))

    def count(self, images: Iterable[Image]) -> None:
        """Count images that the worker has."""
        for image in images:
            self._count += 1
            self._bytes += decoded_bytes(image.data)

    def _taken(self, offered: OfferedImage, *, before: int) -> Image | str:
        """Return an image that may be shown, or why it may not be."""
        media_type = _MEDIA_TYPES.get(offered.media_type)
        if media_type is None:
            return "only PNG, JPEG, GIF and WebP can"
        if (size := decoded_bytes(offered.data)) > IMAGE_BYTES:
            return f"it has more than {IMAGE_BYTES:,} bytes"
        if before == IMAGES_OF_A_RESULT:
            return f"a result has at most {IMAGES_OF_A_RESULT} images"
        if self._count == IMAGES_OF_A_WORKER or self._bytes + size > BYTES_OF_A_WORKER:
            return "you have been shown as much as you can be"
        try:
            content = base64.b64decode(offered.data, validate=True)
        except ValueError:
            return "it is not base64"
        if not _begins_as(media_type, content):
            return "it is not of that type"
        image = Image(media_type=media_type, data=offered.data)
        self.count([image])
        return image


def _begins_as(media_type: MediaType, content: bytes) -> bool:
    """Tell whether the first bytes are those of an image of a type."""
    match media_type:
        case "image/png":
            return content.startswith(b"\x89PNG\r\n\x1a\n")
        case "image/jpeg":
            return content.startswith(b"\xff\xd8\xff")
        case "image/gif":
            return content.startswith((b"GIF87a", b"GIF89a"))
        case "image/webp":
            return content.startswith(b"RIFF") and content[8:12] == b"WEBP"
