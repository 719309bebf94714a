"""The places for calls of one model: how many there are, and whose turn it is."""

import math
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from copy import copy
from dataclasses import dataclass
from random import SystemRandom
from typing import Literal

import anyio

from concertmaster.errors import ModelAccessError

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a provider says it will still take of calls of one model, as of now."""

    calls: int
    interval: float
    """Seconds until it takes one more; 0 where it already takes all it ever will."""


class Pace:
    """The provider's rate limit for one model, as its replies tell of it."""

    def __init__(self, *, share: float = 1.0) -> None:
        """Use a `share` of what the provider allows, where other processes have the rest."""
        self._share = share
        self._calls = math.inf
        self._interval = 0.0
        self._as_of = 0.0
        self._held_until = -math.inf

    def hold(self, *, until: float) -> None:
        """Let nothing begin before the time `until`."""
        self._held_until = max(self._held_until, until)

    def allow(self, allowance: Allowance, *, unheard: int, now: float) -> None:
        """Take in what a reply says, with so many other calls on their way.

        They count in full, since the provider may not have seen them when it said so.
        """
        self._calls = allowance.calls * self._share - unheard
        self._interval = allowance.interval / self._share
        self._as_of = now

    def begin(self, *, now: float) -> None:
        """Take in that a call begins."""
        self._calls = self._calls_at(now) - 1
        self._as_of = now

    def wait(self, *, now: float) -> float:
        """Return for how many seconds no call may begin."""
        missing = 1 - self._calls_at(now)
        refill = missing * self._interval if missing > _ROUNDING else 0.0
        return max(self._held_until - now, refill, 0.0)

    def _calls_at(self, now: float) -> float:
        refilled = (now - self._as_of) / self._interval if self._interval else 0.0
        return self._calls + refilled


FIRST = 16
"""The limit before anything is known: what every account of the provider allows, and two runs with
their default slots."""
ROUND_SECONDS = 0.03
"""How long after the last request has been sent slow start waits for a refusal before it doubles
the limit. Refusals arrive within a round trip, long before replies do."""
MOST = 256
"""The highest limit: beyond it connections are the bottleneck, not the provider."""
PROBING = 16
"""How many times slower the limit grows near the last refusal: by one in sixteen rounds."""

Outcome = Literal["served", "refused", "neither"]
"""How a call ended: `refused` is the provider's word that there are too many calls."""


@dataclass(frozen=True, slots=True)
class Learned:
    """What one process has learned of a provider's limit, for the next process to start from."""

    width: int
    """The limit."""
    refused_at: int | None
    """The limit at which growth was refused, or None if it never was."""


class ConcurrencyLimit:
    """The limit for calls of one model. It is informed of every call's begin, sending and end."""

    def __init__(
        self,
        *,
        first: int = FIRST,
        most: int = MOST,
        share: float = 1.0,
        slow_start: bool = True,
        learned: Learned | None = None,
    ) -> None:
        """Start from `first`, or from what an earlier process has `learned`, and stay below `most`.

        Where other processes use the same provider, `share` is this one's part of it. It scales
        both bounds and the growth. Every process halves its limit at a refusal, so the one that
        grows more slowly also has less.
        """
        self._most = max(1.0, most * share)
        self._width = min(max(1.0, first * share), self._most)
        self._share = share
        self._slow_start = slow_start
        self._refused_at: int | None = None
        self._grown = False
        self._episode = 0
        self._burst = _Burst(episode=-1, size=0, taken=0)
        self._full_since: float | None = None
        self.in_flight = 0
        """Calls that have begun and not ended."""
        self._unsent = 0
        if learned is not None:
            self._continue_from(learned)

    def _continue_from(self, learned: Learned) -> None:
        if learned.refused_at is None:
            self._width = min(max(self._width, float(learned.width)), self._most)
            return
        self._width = min(max(1.0, float(learned.width), learned.refused_at - 1.0), self._most)
        self._slow_start = False
        self._refused_at = learned.refused_at

    @property
    def learned(self) -> Learned | None:
        """Return what is known of the provider; None before there is anything to know."""
        if self._slow_start and not self._grown:
            return None
        return Learned(self.width, self._refused_at)

    @property
    def width(self) -> int:
        """Return how many calls may be in flight."""
        return int(self._width)

    @property
    def has_room(self) -> bool:
        """Return whether another call may begin."""
        return self.in_flight < self.width

    @property
    def widens_at(self) -> float:
        """Return when slow start doubles the limit next, if no call is refused until then."""
        if self._full_since is None or not self._slow_start or self._width >= self._most:
            return math.inf
        return self._full_since + ROUND_SECONDS

    def widen(self, *, now: float) -> None:
        """Double the limit, if it has been used up for a round of slow start."""
        if now >= self.widens_at:
            self._width = min(2 * self._width, self._most)
            self._grown = True
            self._full_since = None

    def begin(self) -> int:
        """Count a call that begins; returns the episode to pass to `end`."""
        self.in_flight += 1
        self._unsent += 1
        self._full_since = None
        return self._episode

    def sent(self, *, now: float) -> None:
        """Note that the request of a call has been sent, which is some time after its begin."""
        self._unsent -= 1
        if not self._unsent and not self.has_room:
            self._full_since = now

    def end(self, episode: int, outcome: Outcome) -> None:
        """Count a call that began in `episode` and has ended. Its request has been `sent`."""
        # A call from an earlier episode says nothing about the limit since: calls that are
        # refused together reduce it once, and those served together do not restore it.
        if episode == self._episode:
            if outcome == "refused":
                self._decrease()
            elif outcome == "served" and not self.has_room:
                self._increase()
        elif outcome == "refused" and self._is_of_burst(episode):
            self._settle(self._burst.taken - 1)
        self.in_flight -= 1
        if self.has_room:
            self._full_since = None

    def _is_of_burst(self, episode: int) -> bool:
        return self._burst.episode == episode == self._episode - 1

    def _decrease(self) -> None:
        if self._slow_start:
            self._slow_start = False
            self._burst = _Burst(self._episode, size=self.in_flight, taken=self.in_flight)
            self._settle(self.in_flight - 1)
        else:
            self._halve()
        self._grown = False
        self._episode += 1

    def _settle(self, taken: int) -> None:
        """Limit calls to what the provider has `taken` of the burst that ended slow start."""
        self._burst.taken = taken
        self._width = max(1.0, min(float(taken), self._width))
        # A provider that took none has no limit of zero: it was busy, so the way back is quick.
        self._refused_at = (taken if taken > 0 else self._burst.size // 2) + 1

    def _halve(self) -> None:
        on_the_way_back = self._refused_at is not None and self.width < self._refused_at - 1
        met_while_growing = self._grown and not self.has_room and not on_the_way_back
        self._refused_at = self.width if met_while_growing else None
        self._width = max(1.0, self._width / 2)

    def _increase(self) -> None:
        if self._refused_at is not None and self._width >= self._refused_at + 1:
            self._refused_at = None
        if self._slow_start:
            grown = self._width + self._share
        elif self._refused_at is None:
            grown = self._width + self._share / self._width
        elif self._width < self._refused_at - 1:
            grown = min(self._width + 1, self._refused_at - 1)
        else:
            grown = self._width + self._share / (PROBING * self._width)
        self._width = min(grown, self._most)
        self._grown = True


@dataclass(slots=True)
class _Burst:
    """The calls that were in flight when slow start met its first refusal."""

    episode: int
    size: int
    taken: int
    """Those that have not been refused so far."""


_RANDOM = SystemRandom()


@dataclass(frozen=True, slots=True, kw_only=True)
class Occupancy:
    """How full the places for calls of one model are."""

    places: int
    under_way: int
    waiting: int


class Places:
    """Where the calls of all runs wait until the provider is likely to take them.

    Runs take turns, however many calls each has waiting.
    """

    def __init__(
        self, *, jitter: float, share: float = 1.0, learned: Learned | None = None
    ) -> None:
        """Spread the end of pauses over `jitter` seconds: other processes pause as well.

        They have what is not this one's `share` of the provider. `learned` is what an earlier
        process knew of its limit.
        """
        self._jitter = jitter
        self._limit = ConcurrencyLimit(share=share, learned=learned)
        self._pace = Pace(share=share)
        self._turns = _Turns()
        self._unheard = 0
        self._alarm = math.inf
        self._denial: ModelAccessError | None = None

    @property
    def occupancy(self) -> Occupancy:
        """Return how full they are."""
        limit = self._limit
        return Occupancy(places=limit.width, under_way=limit.in_flight, waiting=self._turns.waiting)

    @property
    def learned(self) -> Learned | None:
        """Return what is known of the provider's limit; None before there is anything to know."""
        return self._limit.learned

    @asynccontextmanager
    async def place(self, run_id: str) -> AsyncGenerator["Place"]:
        """Hold a place for one call of a run, once it is the run's turn.

        Raises:
            ModelAccessError: another call found out meanwhile that this one cannot succeed.
        """
        place = Place(self)
        known = self._denial
        self._turns.add(run_id, place)
        try:
            await self._admission(place)
            if self._denial is not None and self._denial is not known:
                raise copy(self._denial)
            yield place
        finally:
            if place.episode is None:
                self._turns.remove(run_id, place)
            else:
                self._leave(place, place.episode)

    async def _admission(self, place: "Place") -> None:
        """Return once the call of `place` may begin."""
        self._admit()
        while place.episode is None:
            self._alarm = self._opening()
            with anyio.CancelScope(deadline=self._alarm):
                await place.woken.wait()
                place.woken = anyio.Event()
            self._admit()

    def _admit(self) -> None:
        """Let calls begin, as many as may."""
        now = anyio.current_time()
        self._limit.widen(now=now)
        while self._turns.any and self._limit.has_room and not self._pace.wait(now=now):
            self._turns.next().admit(self._limit.begin())
            self._pace.begin(now=now)
            self._unheard += 1
        if self._opening() < self._alarm:
            self._turns.wake()

    def _opening(self) -> float:
        """Return when the next call may begin, even if no call leaves its place until then."""
        now = anyio.current_time()
        permitted = now + self._pace.wait(now=now)
        return permitted if self._limit.has_room else max(permitted, self._limit.widens_at)

    def _leave(self, place: "Place", episode: int) -> None:
        self._heard(place)
        place.sent()
        self._limit.end(episode, place.outcome)
        self._admit()

    def sent(self) -> None:
        """Note that the request of an admitted call has been sent."""
        self._limit.sent(now=anyio.current_time())
        if self._turns.any and self._opening() < self._alarm:
            self._turns.wake()

    def _heard(self, place: "Place") -> None:
        if not place.heard:
            place.heard = True
            self._unheard -= 1

    def heed(self, place: "Place", allowance: Allowance) -> None:
        """Take in what the provider says it will still take, in reply to the call of `place`."""
        self._heard(place)
        self._pace.allow(allowance, unheard=self._unheard, now=anyio.current_time())
        self._admit()

    def deny(self, denial: ModelAccessError) -> None:
        """Let none of the calls that wait now begin; later ones find out for themselves."""
        self._denial = copy(denial)

    def hold(self, seconds: float) -> None:
        """Let nothing begin for so long, and a random moment more."""
        pause = seconds + _RANDOM.uniform(0, self._jitter)
        self._pace.hold(until=anyio.current_time() + pause)


class Place:
    """The place of one call, from when it waits for it to its end."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self.woken = anyio.Event()
        self.episode: int | None = None
        """When it began, as the limit counts; None until then."""
        self.heard = False
        """Whether the provider has begun to answer."""
        self._sent = False
        self.outcome: Outcome = "neither"
        self._allowance: Allowance | None = None

    def admit(self, episode: int) -> None:
        """Let the call begin."""
        self.episode = episode
        self.woken.set()

    def sent(self) -> None:
        """Note that the request has been sent."""
        if not self._sent:
            self._sent = True
            self._places.sent()

    def heed(self, allowance: Allowance | None) -> None:
        """Take in what the provider says it will still take, if it says so anew."""
        if allowance is not None and allowance is not self._allowance:
            self._allowance = allowance
            self._places.heed(self, allowance)

    def served(self) -> None:
        """Take in that the provider had room for the call."""
        self.outcome = "served"

    def refused(self, *, wait: float | None) -> None:
        """Take in that it had none, and for how long it asked to wait."""
        self.outcome = "refused"
        if wait is not None:
            self._places.hold(wait)

    def denied(self, denial: ModelAccessError) -> None:
        """Take in that no call of the model can succeed."""
        self._places.deny(denial)


class _Turns:
    """Calls that wait: those of a run in their order, the runs in rotation."""

    def __init__(self) -> None:
        self._runs: OrderedDict[str, deque[Place]] = OrderedDict()

    @property
    def any(self) -> bool:
        return bool(self._runs)

    @property
    def waiting(self) -> int:
        return sum(map(len, self._runs.values()))

    def add(self, run_id: str, place: Place) -> None:
        self._runs.setdefault(run_id, deque()).append(place)

    def remove(self, run_id: str, place: Place) -> None:
        self._runs[run_id].remove(place)
        if not self._runs[run_id]:
            del self._runs[run_id]

    def next(self) -> Place:
        """Remove and return the first call of the run whose turn it is."""
        run_id, places = self._runs.popitem(last=False)
        place = places.popleft()
        if places:
            self._runs[run_id] = places
        return place

    def wake(self) -> None:
        """Have every call look again at how long there is to wait."""
        for places in self._runs.values():
            for place in places:
                place.woken.set()
