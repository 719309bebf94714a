"""Events as stores keep them: what is to be written, and what is read again."""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import reduce
from hashlib import sha256
from operator import getitem
from typing import Annotated, Any, cast

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, from_json, to_json

from concertmaster.engine.events import (
    EVENT,
    SCHEMA_VERSION,
    CallFailed,
    CallFinished,
    CancelRequested,
    Event,
    RunResumed,
    RunStarted,
    ToolAnswered,
)
from concertmaster.errors import StoreError, UnreadableRunError
from concertmaster.store.journal import Outline, Reservation, Standing

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One event to be committed."""

    run_id: str
    event: Event
    data: str
    """The event as JSON, without its long texts."""
    texts: Mapping[str, str] = field(default_factory=dict[str, str])
    """Those, and what else it refers to, by digest."""
    epoch: int | None = None
    """The epoch that the run must have; None for whichever it has."""
    begins: bool = False
    """Whether a run begins with it."""
    key: str | None = None
    """For such a one: what makes another run like it unnecessary."""
    takes_over: bool = False
    """Whether the run belongs to this process from here on, in its next epoch."""
    queued: bool = False
    """Whether the run belongs to nobody instead."""
    most: int | None = None
    """How many runs may be under way, if this is to be one more."""

    reservation: Reservation | None = None
    """What the limits of the run's principal must have room for."""

    @property
    def principal(self) -> str:
        """Return whom the run belongs to that begins with it."""
        return self.event.origin.principal if isinstance(self.event, RunStarted) else ""

    @property
    def budget_usd(self) -> float | None:
        """Return what the run may spend from here on, if that changes."""
        match self.event:
            case RunStarted(request=request):
                return request.limits.budget_usd
            case RunResumed(budget_usd=usd):
                return usd
            case _:
                return None

    @property
    def usd(self) -> float | None:
        """Return what a model call cost, if the event is the end of one and the price is known."""
        match self.event:
            case CallFinished(reply=reply):
                return reply.usage.usd
            case CallFailed(usage=usage):
                return usage.usd
            case _:
                return None

    @property
    def owns(self) -> bool:
        """Tell whether it makes this process the owner of the run."""
        return self.takes_over or self.begins


def event_json(event: Event) -> str:
    """Return an event as JSON that can be written as UTF-8."""
    try:
        return EVENT.dump_json(event).decode()
    except PydanticSerializationError:
        # Half a character, which JSON can spell and UTF-8 cannot: no reason to lose a reply.
        plain = json.dumps(EVENT.dump_python(event, mode="json"), ensure_ascii=False)
        return plain.encode(errors="replace").decode()


def as_kept(event: Event) -> tuple[str, dict[str, str]]:
    """Return an event as it is kept: as JSON without its long texts, and these by digest."""
    return apart(event_json(event))


def events_of(
    run_id: str,
    rows: Collection[tuple[int, str]],
    fetch: Fetch,
    *,
    check: Callable[[str], object],
) -> list[Event]:
    """Return the events of a run that are kept as a version and as JSON.

    Where there is something wrong with them, `check` may tell that there is no such run.

    Raises:
        UnreadableRunError: one is damaged, or written by a newer program.
    """
    if not rows:
        check(run_id)
    texts = texts_of((data for _, data in rows), fetch)
    try:
        return [_event(run_id, version, data, texts) for version, data in rows]
    except UnreadableRunError:
        # What is deleted while it is read is not damaged.
        check(run_id)
        raise


def outlined(
    run_ids: Iterable[str], rows: Collection[tuple[str, int, str]], fetch: Fetch
) -> dict[str, Outline]:
    """Return the events of each of the runs, whose rows begin with the run's id."""
    texts = texts_of((data for _, _, data in rows), fetch, outline=True)
    kept: dict[str, list[tuple[int, str]]] = {run_id: [] for run_id in run_ids}
    for run_id, version, data in rows:
        # Of a damaged index, the store may tell what was not asked for.
        kept.setdefault(run_id, []).append((version, data))
    return {run_id: _outline(run_id, events, texts) for run_id, events in kept.items()}


def _outline(run_id: str, rows: Iterable[tuple[int, str]], texts: Mapping[str, str]) -> Outline:
    try:
        return [_event(run_id, version, data, texts, outline=True) for version, data in rows]
    except UnreadableRunError as exc:
        return exc


def _event(
    run_id: str, version: int, data: str, texts: Mapping[str, str], *, outline: bool = False
) -> Event:
    if version > SCHEMA_VERSION:
        problem = "it was written by a newer Concertmaster. Install that to read it."
        raise UnreadableRunError(run_id, problem)
    try:
        return EVENT.validate_json(whole(run_id, data, texts, outline=outline))
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False, include_context=False)[0]
        where = "".join(f"{part}: " for part in first["loc"])
        problem = f"an event in its journal is damaged ({where}{first['msg']})."
        raise UnreadableRunError(run_id, problem) from None


def standings(
    rows: Collection[tuple[str, int, int | None, str]], fetch: Fetch
) -> dict[str, Standing]:
    """Return how runs stand, by id, from rows with each thing that somebody has told them.

    A row has the id and epoch of a run, and the version and JSON of an event; or no event.
    What cannot be read is left out, since one run must not keep others from hearing.
    """
    texts = texts_of((data for _, _, version, data in rows if version is not None), fetch)
    found: dict[str, Standing] = {}
    for run_id, epoch, version, data in rows:
        standing = found.setdefault(run_id, Standing(epoch=epoch, cancel_requested=None))
        if version is None:
            continue
        with suppress(UnreadableRunError):
            found[run_id] = _told(standing, _event(run_id, version, data, texts))
    return found


def _told(standing: Standing, event: Event) -> Standing:
    if isinstance(event, CancelRequested):
        standing = replace(standing, cancel_requested=event.reason)
    answers = (event,) if isinstance(event, ToolAnswered) else ()
    return replace(standing, answers=(*standing.answers, *answers))
