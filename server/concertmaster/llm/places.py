"""The places for calls of one model: how many there are, and whose turn it is."""

import math
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from random import SystemRandom

import anyio

from concertmaster.llm.concurrency import ConcurrencyLimit, Outcome
from concertmaster.llm.pace import Pace
from concertmaster.llm.protocol import Allowance

_RANDOM = SystemRandom()


class Places:
    """Where the calls of all runs wait until the provider is likely to take them.

    Runs take turns, however many calls each has waiting.
    """

    def __init__(self, *, jitter: float) -> None:
        """Spread the end of pauses over `jitter` seconds: other processes pause as well."""
        self._jitter = jitter
        self._limit = ConcurrencyLimit()
        self._pace = Pace()
        self._turns = _Turns()
        self._unheard = 0
        self._alarm = math.inf

    @asynccontextmanager
    async def place(self, run_id: str) -> AsyncGenerator["Place"]:
        """Hold a place for one call of a run, once it is the run's turn."""
        place = Place(self, await self._admission(run_id))
        try:
            yield place
        finally:
            self._heard(place)
            self._leave(place.episode, place.outcome)

    async def _admission(self, run_id: str) -> int:
        """Return the episode in which a call of the run may begin, once it may."""
        waiter = _Waiter()
        self._turns.add(run_id, waiter)
        self._admit()
        try:
            while waiter.episode is None:
                await self._sleep(waiter)
                self._admit()
        except anyio.get_cancelled_exc_class():
            if waiter.episode is None:
                self._turns.remove(run_id, waiter)
            else:
                self._unheard -= 1
                self._leave(waiter.episode, "neither")
            raise
        return waiter.episode

    async def _sleep(self, waiter: "_Waiter") -> None:
        """Sleep until the provider may take a call again, or until something changes."""
        self._alarm = self._opening()
        with anyio.CancelScope(deadline=self._alarm):
            await waiter.woken.wait()
        if waiter.episode is None:
            waiter.woken = anyio.Event()

    def _admit(self) -> None:
        """Let calls begin, as many as may."""
        now = anyio.current_time()
        while self._turns.any and self._limit.has_room and not self._pace.wait(now=now):
            self._turns.next().admit(self._limit.begin())
            self._pace.begin(now=now)
            self._unheard += 1
        if self._opening() < self._alarm:
            self._turns.wake()

    def _opening(self) -> float:
        """Return when the next call may begin; never, as long as no call leaves its place."""
        now = anyio.current_time()
        return now + self._pace.wait(now=now) if self._limit.has_room else math.inf

    def _leave(self, episode: int, outcome: Outcome) -> None:
        self._limit.end(episode, outcome)
        self._admit()

    def _heard(self, place: "Place") -> None:
        if not place.heard:
            place.heard = True
            self._unheard -= 1

    def heed(self, place: "Place", allowance: Allowance) -> None:
        """Take in what the provider says it will still take, in reply to the call of `place`."""
        self._heard(place)
        self._pace.allow(allowance, unheard=self._unheard, now=anyio.current_time())
        self._admit()

    def hold(self, seconds: float) -> None:
        """Let nothing begin for so long, and a random moment more."""
        pause = seconds + _RANDOM.uniform(0, self._jitter)
        self._pace.hold(until=anyio.current_time() + pause)


class Place:
    """The place of one call while it is under way."""

    def __init__(self, places: Places, episode: int) -> None:
        self._places = places
        self.episode = episode
        self.heard = False
        """Whether the provider has begun to answer."""
        self.outcome: Outcome = "neither"
        self._allowance: Allowance | None = None

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


class _Waiter:
    """A call that waits for its place."""

    def __init__(self) -> None:
        self.woken = anyio.Event()
        self.episode: int | None = None

    def admit(self, episode: int) -> None:
        self.episode = episode
        self.woken.set()


class _Turns:
    """Calls that wait: those of a run in their order, the runs in rotation."""

    def __init__(self) -> None:
        self._runs: OrderedDict[str, deque[_Waiter]] = OrderedDict()

    @property
    def any(self) -> bool:
        return bool(self._runs)

    def add(self, run_id: str, waiter: _Waiter) -> None:
        self._runs.setdefault(run_id, deque()).append(waiter)

    def remove(self, run_id: str, waiter: _Waiter) -> None:
        self._runs[run_id].remove(waiter)
        if not self._runs[run_id]:
            del self._runs[run_id]

    def next(self) -> _Waiter:
        """Remove and return the first call of the run whose turn it is."""
        run_id, waiters = self._runs.popitem(last=False)
        waiter = waiters.popleft()
        if waiters:
            self._runs[run_id] = waiters
        return waiter

    def wake(self) -> None:
        """Have every call look again at how long there is to wait."""
        for waiters in self._runs.values():
            for waiter in waiters:
                waiter.woken.set()
