"""The money of one run as its calls see it: reserved before each, settled after it."""

import math
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import anyio

from concertmaster.engine.budget.account import (
    NOTHING,
    Account,
    Amount,
    Bound,
    Reservation,
    amount_of,
)
from concertmaster.engine.concurrency import Changes
from concertmaster.engine.record.request import Limits
from concertmaster.errors import BudgetError, ModelError
from concertmaster.llm.lengths import BYTES_OF_SHORT_TOKENS
from concertmaster.llm.prefixes import WARM_SECONDS, prefix_key
from concertmaster.llm.protocol import LLM, Draft, Request, Usage
from concertmaster.llm.token_count import (
    ENVELOPE_TOKENS,
    TokensIn,
    most_served,
    most_tokens_in,
)

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
