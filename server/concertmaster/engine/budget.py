"""The money of one run as its calls see it: reserved before each, settled after it."""

import math
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from graphlib import TopologicalSorter

import anyio

from concertmaster.engine.concurrency import Changes
from concertmaster.engine.plan.plan import PRIORITIES, Subtask
from concertmaster.engine.request import Limits
from concertmaster.errors import BudgetError, ModelError
from concertmaster.llm.messages import LLM, Draft, Request
from concertmaster.llm.prompt_cache import WARM_SECONDS, prefix_key
from concertmaster.llm.token_count import (
    BYTES_OF_SHORT_TOKENS,
    ENVELOPE_TOKENS,
    TokensIn,
    most_served,
    most_tokens_in,
)
from concertmaster.llm.usage import Usage


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


LEAST_REPLY = 2048
"""Tokens of a reply that a call must be able to pay for: enough for most answers."""

SHORT_REPLY = 1024
"""The same for a reply in free text, which its model can keep short; JSON that is cut is lost."""


def least_reply(request: Request) -> int:
    """Return the lowest bound on its reply with which a request is worth making."""
    return SHORT_REPLY if request.output_schema is None else LEAST_REPLY


@dataclass(slots=True, kw_only=True)
class Leave:
    """Leave to make one call; whoever makes it says what it took."""

    max_tokens: int
    """The bound on its reply, which may be lower than was asked for."""
    usage: Usage | None = None
    """What the call took, once it has brought a reply."""


class Spending:
    """What a run has spent, and who may spend more."""

    def __init__(self, limits: Limits) -> None:
        self._run = Account(Amount(tokens=limits.budget_tokens, usd=limits.budget_usd))
        self._subtasks: dict[str, Account] = {}
        """The accounts of subtasks that have limits of their own."""
        self._least_held: Callable[[], Amount] = _nothing
        self._economical = False
        self._changes = Changes()
        self.fell_short = False
        """Whether something was not done, or cut, because the run could not pay for it."""
        self._turned_away: set[str | None] = set()
        self._warm: dict[bytes, float] = {}
        """Until when the provider has the prefixes that calls of the run began with."""

    @property
    def limit(self) -> Amount:
        """Return the whole budget."""
        return self._run.limit

    @property
    def left(self) -> Amount:
        """Return what has been neither spent nor held back for the answer."""
        return self._run.left

    def charge(self, usage: Usage) -> None:
        """Count what was spent before the run was resumed."""
        self._run.charge(amount_of(usage))

    def hold_back(
        self, amount: Amount = NOTHING, *, least: Callable[[], Amount] | None = None
    ) -> None:
        """Keep this much for the answer; nothing once the answer is being written.

        Rather than turn a call away, only what `least` returns then is kept.
        """
        self._run.hold_back(amount)
        self._least_held = least or _nothing
        self._changes.tell()

    @property
    def available(self) -> Amount:
        """Return what subtasks may still take if no more than necessary is kept for the answer."""
        limit = self._run.limit - self._run.spent
        return limit - self._least_held()

    def economize(self) -> None:
        """Have subtasks' replies no longer than most need, so that there is enough for all."""
        self._economical = True

    def limit_subtask(self, subtask_id: str, usd: float, spent: Usage) -> None:
        """Have the calls for a subtask, which have `spent` so much, take no more than `usd`."""
        account = Account(Amount(tokens=math.inf, usd=usd), within=self._run)
        account.spent = amount_of(spent)
        self._subtasks[subtask_id] = account

    @asynccontextmanager
    async def reserved(
        self, llm: LLM, request: Request, draft: Draft, subtask_id: str | None
    ) -> AsyncGenerator[Leave]:
        """Have what `request` may take at most reserved for as long as it is under way.

        Where there is too little only because of what is reserved for other calls, this
        waits for them: most take far less than they might.

        Raises:
            BudgetError: too little is left for a useful reply.
        """
        account = self._account(subtask_id)
        if self._economical and subtask_id is not None:
            request = replace(request, max_tokens=min(request.max_tokens, LEAST_REPLY))
        key = prefix_key(llm.model_name(request.model), request)
        reservation = await self._reserve(account, llm, request, key, subtask_id)
        draft.may_repeat = lambda spent: account.extend(reservation, amount_of(spent))
        leave = Leave(max_tokens=reservation.max_tokens)
        try:
            yield leave
        except ModelError as exc:
            leave.usage = exc.usage
            raise
        finally:
            usage = leave.usage or draft.usage
            account.settle(reservation, amount_of(usage))
            self._learn(key, usage)
            bounded = account is self._run and reservation.max_tokens < request.max_tokens
            self.fell_short |= bounded and usage.tokens_out >= reservation.max_tokens
            self._changes.tell()

    async def _reserve(
        self, account: Account, llm: LLM, request: Request, key: bytes, subtask_id: str | None
    ) -> Reservation:
        tokens_in = most_tokens_in(request)
        while True:
            bound = self._bound(llm, request, tokens_in, key)
            if (reservation := account.reserve(bound)) is not None:
                return reservation
            if not self._fits(account, bound):
                self._turned_away.add(subtask_id)
                raise self._too_little(account, bound)
            # A part of what was held for the answer may have made room.
            if (reservation := account.reserve(bound)) is not None:
                return reservation
            await self._wait()

    def _fits(self, account: Account, bound: Bound) -> bool:
        """Return whether a call fits, if need be with a part of what was held for the answer."""
        if account.fits_at_all(bound):
            return True
        self._run.release(bound, least=self._least_held())
        return account.fits_at_all(bound)

    async def _wait(self) -> None:
        """Wait until there may be more room than before."""
        try:
            await self._changes.next.wait()
        except anyio.get_cancelled_exc_class():
            # Its time was up before there was room for it.
            self.fell_short = True
            raise

    def check(self, llm: LLM, model: str, *, max_tokens: int, subtask_id: str) -> str:
        """Return why no call of `model` can be made for a subtask, or nothing if one may."""
        account = self._account(subtask_id)
        prompt = Usage(tokens_in=ENVELOPE_TOKENS)
        bound = _bound_of(llm, model, prompt, most=max_tokens, least=SHORT_REPLY)
        return "" if self._fits(account, bound) else str(self._too_little(account, bound))

    def turned_away(self, subtask_id: str) -> bool:
        """Tell whether a call for a subtask was not made for want of money."""
        return subtask_id in self._turned_away

    def unaffordable_bytes(self, llm: LLM, request: Request) -> int:
        """Return by how much a request is too long to be paid for, beside a useful reply."""
        tokens_in = most_tokens_in(request)
        key = prefix_key(llm.model_name(request.model), request)
        bound = self._bound(llm, request, tokens_in, key)
        over = bound.worthwhile - self._run.room
        usd = llm.expected(request.model, tokens_in.plain).usd or 0.0
        usd_per_token = usd / tokens_in.all
        tokens = max(over.tokens, over.usd / usd_per_token if usd_per_token else 0.0)
        if tokens <= 0:
            return 0
        self.fell_short = True
        return math.ceil(tokens * BYTES_OF_SHORT_TOKENS)

    def _account(self, subtask_id: str | None) -> Account:
        return self._subtasks.get(subtask_id or "", self._run)

    def _bound(self, llm: LLM, request: Request, tokens_in: TokensIn, key: bytes) -> Bound:
        warm = self._warm.get(key, 0.0) > anyio.current_time()
        served = most_served(request.server_tools)
        usage = (tokens_in.warm if warm else tokens_in.cold) + served
        if llm.expected(request.model, usage).usd is None:
            # Not every provider has a price for what is cached.
            usage = tokens_in.plain + served
        return _bound_of(
            llm, request.model, usage, most=request.max_tokens, least=least_reply(request)
        )

    def _learn(self, key: bytes, usage: Usage) -> None:
        if usage.cached:
            self._warm[key] = anyio.current_time() + WARM_SECONDS

    def _too_little(self, account: Account, bound: Bound) -> BudgetError:
        if account is not self._run and bound.worthwhile.within(self._run.left):
            return BudgetError(
                f"Too little is left of the {account.limit.usd:g} USD that it may spend.",
                least_usd=bound.worthwhile.usd,
            )
        self.fell_short = True
        by_tokens = bound.worthwhile.tokens > self._run.left.tokens
        limit = f"{self.limit.tokens:,.0f} tokens" if by_tokens else f"{self.limit.usd:g} USD"
        return BudgetError(
            f"Too little is left of the run's budget of {limit}.", least_usd=bound.worthwhile.usd
        )


def _nothing() -> Amount:
    return NOTHING


def _bound_of(llm: LLM, model: str, prompt: Usage, *, most: int, least: int) -> Bound:
    without = llm.expected(model, prompt)
    whole = llm.expected(model, prompt.model_copy(update={"tokens_out": most}))
    if without.usd is None or whole.usd is None:
        # Nobody knows the price, so the tokens alone have to bind.
        without = whole = without.model_copy(update={"usd": 0.0})
    return Bound(
        prompt=amount_of(without),
        usd_per_token=((whole.usd or 0.0) - (without.usd or 0.0)) / most,
        most=most,
        least=least,
    )


def beyond(
    subtasks: Sequence[Subtask], amounts: Mapping[str, Amount], available: Amount
) -> frozenset[str]:
    """Return the subtasks that what is available does not reach for, the least important ones.

    The most important one is within reach in any case. A subtask is as important as the most
    important one that depends on it, so that none within reach depends on one that is not.
    """
    known = {item.id: item for item in subtasks}
    graph = {item.id: [name for name in item.depends_on if name in known] for item in subtasks}
    order = list(TopologicalSorter(graph).static_order())
    importance = {item.id: PRIORITIES.index(item.priority) for item in subtasks}
    for name in reversed(order):
        for needed in graph[name]:
            importance[needed] = min(importance[needed], importance[name])
    taken = NOTHING
    ranked = sorted(order, key=importance.__getitem__)
    for position, name in enumerate(ranked):
        taken += amounts[name]
        if not taken.within(available):
            return frozenset(ranked[max(position, 1) :])
    return frozenset()
