"""Long texts of events, kept by content: once each, however often and in whichever runs.

In the JSON of an event such a text is an empty string, and the JSON begins with a list of
what belongs where: `{"texts":[[["reply","text"],"9f86d0…"]],"name":…`. It tells of places
and puts no marks in them, since a value can be whatever a model or a tool has written.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import reduce
from hashlib import sha256
from operator import getitem
from typing import Annotated, Any, cast

from pydantic import Field, TypeAdapter
from pydantic_core import from_json, to_json

from concertmaster.errors import StoreError, UnreadableRunError

LONG = 1024
"""Characters of a text that is worth a row of its own.

For a shorter one, the row, its indexes and the references to it would take as much as the
text does where it is said a second time.
"""

Path = Annotated[tuple[str | int, ...], Field(min_length=1)]
"""Keys and indexes that lead to a value, from the outside in."""

Gap = tuple[Path, str]
"""Where in an event a text belongs, and the text's digest."""

Fetch = Callable[[Collection[str]], Mapping[str, str]]
"""Returns by digest those of the texts that there are."""

_Holder = dict[str, Any] | list[Any]

_BEGINNING = '{"texts":'
"""How an event with gaps begins. None has such a field of its own."""

_GAPS: TypeAdapter[list[Gap]] = TypeAdapter(list[Gap])

_LEFT_WHOLE = {"origin"}
"""Fields that databases look into, who would not find in a gap what is asked for."""

_SAID = {"reply", "call", "result", "answer", "value"}
"""Fields with what models have said, which may be left out."""


def digest(text: str) -> str:
    """Return the SHA-256 of a text's UTF-8, in hexadecimal."""
    return sha256(text.encode()).hexdigest()


def needed(digest: str, fetch: Fetch) -> str:
    """Return a text.

    Raises:
        StoreError: there is none with this digest.
    """
    try:
        return fetch([digest])[digest]
    except KeyError:
        raise StoreError(
            f"A text that a run refers to is not in the store ({digest}). "
            "Give the inputs again, in a new run."
        ) from None


def apart(data: str) -> tuple[str, dict[str, str]]:
    """Return the JSON of an event without its long texts, and those by digest."""
    if len(data) < LONG:
        return data, {}
    try:
        event = cast("dict[str, Any]", from_json(data))
    except ValueError:
        # Nested too deep to be read again, which is for whoever tries to say.
        return data, {}
    gaps: list[Gap] = []
    texts: dict[str, str] = {}
    for holder, path in _long_in(event, ()):
        text = holder[path[-1]]
        name = digest(text)
        gaps.append((path, name))
        texts[name] = text
        holder[path[-1]] = ""
    return (to_json({"texts": gaps, **event}).decode() if gaps else data), texts


def _long_in(holder: _Holder, above: tuple[str | int, ...]) -> Iterator[tuple[Any, Path]]:
    """Yield whatever has a long text directly in it, and that text's path."""
    inside: Iterable[tuple[str | int, Any]]
    inside = holder.items() if isinstance(holder, dict) else enumerate(holder)
    for key, value in inside:
        if isinstance(value, str):
            if len(value) >= LONG:
                yield holder, (*above, key)
        elif isinstance(value, dict | list) and (above or key not in _LEFT_WHOLE):
            yield from _long_in(cast("_Holder", value), (*above, key))


def texts_of(events: Iterable[str], fetch: Fetch, *, outline: bool = False) -> Mapping[str, str]:
    """Return by digest the texts that belong into the JSON of events."""
    digests: set[str] = set()
    for data in events:
        # What is damaged is for whoever reads the event to say.
        with suppress(ValueError):
            digests.update(name for _, name in _opened(data, outline=outline)[1])
    return fetch(digests) if digests else {}


def whole(run_id: str, data: str, texts: Mapping[str, str], *, outline: bool = False) -> str:
    """Return the JSON of an event with the texts that belong into it.

    In an `outline`, long texts that models have said stay empty.

    Raises:
        UnreadableRunError: one of the texts, or its place, is not there.
    """
    try:
        event, gaps = _opened(data, outline=outline)
    except ValueError:
        return data
    if event is None:
        return data
    for path, name in gaps:
        if name not in texts:
            problem = f"a text that its journal refers to is not in the store ({name})."
            raise UnreadableRunError(run_id, problem)
        try:
            reduce(getitem, path[:-1], event)[path[-1]] = texts[name]
        except (LookupError, TypeError):
            problem = "an event in its journal is damaged (it has no place for one of its texts)."
            raise UnreadableRunError(run_id, problem) from None
    return to_json(event).decode()


def _opened(data: str, *, outline: bool) -> tuple[Any, list[Gap]]:
    """Return an event with its gaps; None in its place, where it has none.

    Raises:
        ValueError: it is damaged.
    """
    if not data.startswith(_BEGINNING):
        return None, []
    event = from_json(data)
    gaps = _GAPS.validate_python(event.pop("texts"))
    return event, [gap for gap in gaps if not (outline and gap[0][0] in _SAID)]
