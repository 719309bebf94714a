"""The places for calls of one model: how many there are, and whose turn it is."""

import math
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from copy import copy
from dataclasses import dataclass
from random import SystemRandom

import anyio

from concertmaster.errors import ModelAccessError
from concertmaster.llm.concurrency import ConcurrencyLimit, Learned, Outcome
from concertmaster.llm.pace import Allowance, Pace

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
