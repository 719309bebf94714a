"""Events as stores keep them: what is to be written, and what is read again."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from concertmaster.engine.record.events import (
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
from concertmaster.errors import UnreadableRunError
from concertmaster.store.journal import Outline, Reservation, Standing
from concertmaster.store.texts import Fetch, apart, texts_of, whole


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


def to_json(event: Event) -> str:
    """Return an event as JSON that can be written as UTF-8."""
    try:
        return EVENT.dump_json(event).decode()
    except PydanticSerializationError:
        # Half a character, which JSON can spell and UTF-8 cannot: no reason to lose a reply.
        plain = json.dumps(EVENT.dump_python(event, mode="json"), ensure_ascii=False)
        return plain.encode(errors="replace").decode()


def as_kept(event: Event) -> tuple[str, dict[str, str]]:
    """Return an event as it is kept: as JSON without its long texts, and these by digest."""
    return apart(to_json(event))


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
