"""Accounts: what has been spent, what is reserved, and what a call may still take.

No I/O and no clock. What a call may cost at most is reserved before the call is made and
settled with what it did cost, so that calls under way at the same time cannot pass the
budget together. It is passed only by as much as calls cost more than was reserved for them.
"""

import math
from dataclasses import dataclass, field

from concertmaster.llm.protocol import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """Tokens, those read from a cache left out, and what all cost; the money where it is known."""

    tokens: float = 0
    usd: float = 0.0

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(tokens=self.tokens + other.tokens, usd=self.usd + other.usd)

    def __sub__(self, other: "Amount") -> "Amount":
        return Amount(tokens=self.tokens - other.tokens, usd=self.usd - other.usd)

    def at_most(self, other: "Amount") -> "Amount":
        """Return what is less, in tokens and in money."""
        return Amount(tokens=min(self.tokens, other.tokens), usd=min(self.usd, other.usd))

    def within(self, other: "Amount") -> bool:
        """Tell whether it is no more than another, in tokens and in money."""
        return self.tokens <= other.tokens and self.usd <= other.usd

    def share(self, part: float) -> "Amount":
        """Return a part of it."""
        return Amount(tokens=self.tokens * part, usd=self.usd * part)


NOTHING = Amount()


def amount_of(usage: Usage) -> Amount:
    """Return what calls took. Money that nobody knows is left out, and bound by the tokens."""
    return Amount(tokens=usage.new_tokens, usd=usage.usd or 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """What one call can take."""

    prompt: Amount
    """What it takes before a word of its reply."""
    usd_per_token: float = 0.0
    """Of its reply."""
    most: int
    """Tokens of its reply."""
    least: int
    """The shortest bound on its reply with which the call is still worth making."""

    def amount(self, reply_tokens: float) -> Amount:
        """Return what the call takes with a reply of so many tokens."""
        return self.prompt + Amount(tokens=reply_tokens, usd=self.usd_per_token * reply_tokens)

    @property
    def worthwhile(self) -> Amount:
        """Return what there must be for the call to be worth making."""
        return self.amount(min(self.least, self.most))

    def fitting(self, room: Amount) -> int:
        """Return how many tokens of a reply there is room for; below zero if for no prompt."""
        left = room - self.prompt
        if self.prompt.usd == 0 == self.usd_per_token:
            # A call that is free, or whose price nobody knows, is bound by its tokens alone.
            return math.floor(min(left.tokens, self.most))
        if left.usd < 0:
            return -1
        affordable = left.usd / self.usd_per_token if self.usd_per_token else math.inf
        return math.floor(min(left.tokens, affordable, self.most))


@dataclass(eq=False, slots=True, kw_only=True)
class Reservation:
    """What is kept for one call."""

    bound: Bound
    max_tokens: int
    """The bound on its reply that was paid for."""
    amount: Amount = field(init=False)

    def __post_init__(self) -> None:
        self.amount = self.bound.amount(self.max_tokens)


class Account:
    """What one run may spend, or a part of it `within` the account of the whole."""

    def __init__(self, limit: Amount, *, within: "Account | None" = None) -> None:
        self.limit = limit
        self.spent = NOTHING
        self._within = within
        self._held = NOTHING
        self._open: set[Reservation] = set()

    @property
    def left(self) -> Amount:
        """Return what has been neither spent nor held back."""
        left = self.limit - self.spent - self._held
        return left if self._within is None else left.at_most(self._within.left)

    @property
    def room(self) -> Amount:
        """Return what is left and not reserved."""
        reserved = sum((one.amount for one in self._open), start=NOTHING)
        room = self.limit - self.spent - self._held - reserved
        return room if self._within is None else room.at_most(self._within.room)

    def hold_back(self, amount: Amount) -> None:
        """Keep an amount from being reserved, instead of what was held back before."""
        self._held = amount

    def release(self, bound: Bound, *, least: Amount) -> bool:
        """Hold back no more than lets the call be worth making, but `least`; False if neither."""
        # A little more, lest rounding leaves a token too few.
        held, missing = self._held, bound.worthwhile.share(1.000001) - self.left
        self._held = Amount(
            tokens=max(min(held.tokens, least.tokens), held.tokens - max(missing.tokens, 0.0)),
            usd=max(min(held.usd, least.usd), held.usd - max(missing.usd, 0.0)),
        )
        if self.fits_at_all(bound):
            return True
        self._held = held
        return False

    def reserve(self, bound: Bound) -> Reservation | None:
        """Return a reservation for a call; None if what there is room for is not worth it.

        The whole bound of its reply is reserved where there is room for it, and else what
        there is room for, so that the call is made with a lower bound. Most replies are far
        shorter than they may be: refused outright, the last of eight workers would not start
        in a run that ends up spending a tenth of its budget.
        """
        tokens = bound.fitting(self.room)
        if tokens < min(bound.least, bound.most):
            return None
        reservation = Reservation(bound=bound, max_tokens=tokens)
        self._open_for(reservation)
        return reservation

    def fits_at_all(self, bound: Bound) -> bool:
        """Tell whether the call would be worth making if nothing were reserved."""
        return bound.fitting(self.left) >= min(bound.least, bound.most)

    def extend(self, reservation: Reservation, spent: Amount) -> bool:
        """Reserve for one more attempt at a call that has `spent` so much; False if it cannot be.

        What was spent stays reserved either way.
        """
        wanted = spent + reservation.bound.amount(reservation.max_tokens)
        if not (wanted - reservation.amount).within(self.room):
            return False
        reservation.amount = wanted
        return True

    def settle(self, reservation: Reservation, actual: Amount) -> None:
        """Take what a call did cost in place of what was reserved for it."""
        self._close(reservation)
        self.charge(actual)

    def charge(self, actual: Amount) -> None:
        """Count what has been spent already."""
        self.spent += actual
        if self._within is not None:
            self._within.charge(actual)

    def _open_for(self, reservation: Reservation) -> None:
        self._open.add(reservation)
        if self._within is not None:
            self._within._open_for(reservation)

    def _close(self, reservation: Reservation) -> None:
        self._open.discard(reservation)
        if self._within is not None:
            self._within._close(reservation)
