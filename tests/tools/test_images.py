"""Which images of tools a worker is given, and what it is told of the others."""

import base64

import pytest

from concertmaster.llm.messages import Image
from concertmaster.tools.images import (
    BYTES_OF_A_WORKER,
    IMAGE_BYTES,
    IMAGES_OF_A_RESULT,
    IMAGES_OF_A_WORKER,
    Images,
    OfferedImage,
)

BEGINNINGS = {
    "image/png": b"\x89PNG\r\n\x1a\n",
    "image/jpeg": b"\xff\xd8\xff\xe0",
    "image/gif": b"GIF89a",
    "image/webp": b"RIFF\x10\x00\x00\x00WEBP",
}


def offered(media_type: str = "image/png", size: int = 100, begins: bytes = b"") -> OfferedImage:
    content = (begins or BEGINNINGS["image/png"]).ljust(size, b"\0")
    return OfferedImage(media_type=media_type, data=base64.b64encode(content).decode())


def given(images: Images, *parts: str | OfferedImage) -> int:
    return len(images.illustrated(parts).images)


@pytest.mark.parametrize(("media_type", "begins"), [*BEGINNINGS.items(), ("image/gif", b"GIF87a")])
def test_an_image_is_given_as_it_is_and_named_where_it_was(media_type: str, begins: bytes) -> None:
    image = offered(media_type, 1234, begins)
    said = Images().illustrated(["before", image, "after"])
    named = f"[image 1 of type {media_type}, 1,234 bytes, shown with this result]"
    assert said.text == f"before\n\n{named}\n\nafter"
    assert said.images == (Image.model_validate({"media_type": media_type, "data": image.data}),)


@pytest.mark.parametrize("media_type", BEGINNINGS)
def test_bytes_that_are_of_another_type_are_no_image(media_type: str) -> None:
    (other, *_) = (begins for name, begins in BEGINNINGS.items() if name != media_type)
    said = Images().illustrated([offered(media_type, 12, other)])
    assert said.images == ()
    assert said.text == (
        f"[image of type {media_type}, 12 bytes, which cannot be shown here: "
        "it is not of that type]"
    )


@pytest.mark.parametrize("data", ["%%%%", "iVBORw0KGgo", "", "ä" * 8])
def test_what_is_no_base64_is_no_image(data: str) -> None:
    said = Images().illustrated([OfferedImage(media_type="image/png", data=data)])
    assert said.images == ()
    assert "which cannot be shown here: it is not" in said.text


@pytest.mark.parametrize("media_type", ["image/svg+xml", "image/bmp", "IMAGE/PNG", "text/html"])
def test_an_image_of_another_type_is_not_given(media_type: str) -> None:
    said = Images().illustrated([offered(media_type)])
    assert said.images == ()
    assert "only PNG, JPEG, GIF and WebP can" in said.text


def test_the_largest_image_is_given_and_a_larger_one_is_not() -> None:
    assert given(Images(), offered(size=IMAGE_BYTES)) == 1
    assert given(Images(), offered(size=IMAGE_BYTES + 1)) == 0


def test_a_result_has_no_more_images_than_it_may_and_the_next_one_has_its_own() -> None:
    images = Images()
    said = images.illustrated([offered()] * (IMAGES_OF_A_RESULT + 1))
    assert len(said.images) == IMAGES_OF_A_RESULT
    assert said.text.endswith("a result has at most 4 images]")
    assert given(images, offered()) == 1


def test_a_worker_is_given_no_more_images_than_a_request_may_have() -> None:
    images = Images()
    for _ in range(IMAGES_OF_A_WORKER):
        assert given(images, offered()) == 1
    said = images.illustrated([offered()])
    assert said.images == ()
    assert "you have been shown as much as you can be" in said.text


def test_a_worker_is_given_no_more_bytes_than_it_may_have() -> None:
    images = Images()
    for _ in range(BYTES_OF_A_WORKER // IMAGE_BYTES - 1):
        assert given(images, offered(size=IMAGE_BYTES)) == 1
    assert given(images, offered(size=IMAGE_BYTES - 100)) == 1
    assert given(images, offered(size=101)) == 0
    assert given(images, offered(size=100)) == 1


def test_images_from_before_a_restart_count() -> None:
    images, before = Images(), Images()
    for _ in range(IMAGES_OF_A_WORKER):
        images.count(before.illustrated([offered()]).images)
        before = Images()
    assert given(images, offered()) == 0


def test_a_refused_image_takes_no_room() -> None:
    images = Images()
    for _ in range(IMAGES_OF_A_WORKER):
        assert given(images, offered(begins=b"no image")) == 0
    assert given(images, offered()) == 1
