"""Events as stores keep them: what is to be written, and what is read again."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from concertmaster.engine.record.events import (
    EVENT,
    SCHEMA_VERSION,
    CancelRequested,
    Event,
    ToolAnswered,
)
from concertmaster.errors import UnreadableRunError
from concertmaster.store.journal import Outline, Standing


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRun:
    """What is kept of a run besides its events."""

    texts: Mapping[str, str]
    """What they refer to, by digest."""
    key: str | None
    """What makes another run like it unnecessary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One event to be committed."""

    run_id: str
    event: Event
    data: str
    """The event as JSON."""
    epoch: int | None = None
    """The epoch that the run must have; None for whichever it has."""
    begins: NewRun | None = None
    """For the event that a run begins with: what else there is to keep of it."""
    takes_over: bool = False
    """Whether the run belongs to this process from here on, in its next epoch."""
    queued: bool = False
    """Whether the run belongs to nobody instead."""
    most: int | None = None
    """How many runs may be under way, if this is to be one more."""

    @property
    def owns(self) -> bool:
        """Tell whether it makes this process the owner of the run."""
        return self.takes_over or self.begins is not None


def to_json(event: Event) -> str:
    """Return an event as JSON that can be written as UTF-8."""
    try:
        return EVENT.dump_json(event).decode()
    except PydanticSerializationError:
        # Half a character, which JSON can spell and UTF-8 cannot: no reason to lose a reply.
        plain = json.dumps(EVENT.dump_python(event, mode="json"), ensure_ascii=False)
        return plain.encode(errors="replace").decode()


def outlined(run_ids: Iterable[str], rows: Iterable[tuple[str, int, str]]) -> dict[str, Outline]:
    """Return the events of each of the runs, whose rows begin with the run's id."""
    kept: dict[str, list[tuple[int, str]]] = {run_id: [] for run_id in run_ids}
    for run_id, version, data in rows:
        # Of a damaged index, the store may tell what was not asked for.
        kept.setdefault(run_id, []).append((version, data))
    return {run_id: _outline(run_id, events) for run_id, events in kept.items()}


def _outline(run_id: str, rows: Iterable[tuple[int, str]]) -> Outline:
    try:
        return list(parsed(run_id, rows))
    except UnreadableRunError as exc:
        return exc


def parsed(run_id: str, rows: Iterable[tuple[int, str]]) -> Iterator[Event]:
    """Yield the events of a run that are kept as a version and as JSON.

    Raises:
        UnreadableRunError: one is damaged, or written by a newer program.
    """
    for version, data in rows:
        if version > SCHEMA_VERSION:
            problem = "it was written by a newer Concertmaster. Install that to read it."
            raise UnreadableRunError(run_id, problem)
        try:
            yield EVENT.validate_json(data)
        except ValidationError as exc:
            first = exc.errors(include_url=False, include_input=False, include_context=False)[0]
            where = "".join(f"{part}: " for part in first["loc"])
            problem = f"an event in its journal is damaged ({where}{first['msg']})."
            raise UnreadableRunError(run_id, problem) from None


def standings(rows: Iterable[tuple[str, int, int | None, str]]) -> dict[str, Standing]:
    """Return how runs stand, by id, from rows with each thing that somebody has told them.

    A row has the id and epoch of a run, and the version and JSON of an event; or no event.
    What cannot be read is left out, since one run must not keep others from hearing.
    """
    found: dict[str, Standing] = {}
    for run_id, epoch, version, data in rows:
        standing = found.setdefault(run_id, Standing(epoch=epoch, cancel_requested=None))
        if version is None:
            continue
        with suppress(UnreadableRunError):
            for event in parsed(run_id, [(version, data)]):
                found[run_id] = _told(standing, event)
    return found


def _told(standing: Standing, event: Event) -> Standing:
    if isinstance(event, CancelRequested):
        standing = replace(standing, cancel_requested=event.reason)
    answers = (event,) if isinstance(event, ToolAnswered) else ()
    return replace(standing, answers=(*standing.answers, *answers))
