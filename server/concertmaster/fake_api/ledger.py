"""What was asked of the scripted endpoint, and what it charged for it."""

from pydantic import BaseModel, computed_field

from concertmaster.fake_api.behaviour import Fault
from concertmaster.fake_api.caching import READ_FACTOR, WRITE_FACTOR


class Entry(BaseModel):
    """One request. The tokens are those that its reply has begun with, told of or sent so far."""

    request_id: str
    model: str = ""
    status: int
    fault: Fault | None = None
    tokens_in: int = 0
    tokens_out: int = 0
    cache_read: int = 0
    cache_write: int = 0
    searches: int = 0
    began: float
    """Seconds by the endpoint's own clock."""
    sent: float | None = None
    """When the last byte of a whole reply had been sent."""
    ended: float | None = None


class Totals(BaseModel):
    """What all requests come to."""

    requests: int = 0
    refused: int = 0
    """Answered with a status other than 200."""
    tokens_in: int = 0
    tokens_out: int = 0
    cache_read: int = 0
    cache_write: int = 0
    searches: int = 0

    @computed_field
    @property
    def charged_in(self) -> float:
        """Return the input in tokens at the full price."""
        return self.tokens_in + WRITE_FACTOR * self.cache_write + READ_FACTOR * self.cache_read


class Ledger(BaseModel):
    """All requests, in the order in which they came."""

    entries: list[Entry] = []

    @computed_field
    @property
    def totals(self) -> Totals:
        """Return the sums over all requests."""
        kinds = ("tokens_in", "tokens_out", "cache_read", "cache_write", "searches")
        return Totals(
            requests=len(self.entries),
            refused=sum(entry.status != 200 for entry in self.entries),
            **{kind: sum(getattr(entry, kind) for entry in self.entries) for kind in kinds},
        )
