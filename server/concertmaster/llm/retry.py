"""Where every model call passes through: it waits for its place, and is repeated if that may help.

One gate serves one endpoint and all runs of the process. How many calls of a model are under
way at once is learnt from the provider: see `concurrency`, `pace` and `places`.
"""

import math
from collections.abc import Callable
from copy import copy

import anyio
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    wait_random_exponential,
)

from concertmaster.errors import (
    ModelAccessError,
    ModelError,
    ModelReplyError,
    ModelUnavailableError,
)
from concertmaster.llm.learned_limits import LearnedLimits
from concertmaster.llm.messages import LLM, Draft, Reply, Request
from concertmaster.llm.rate_limit import Occupancy, Place, Places
from concertmaster.llm.usage import NO_USAGE, Usage
from concertmaster.llm.wrapper import Through

FIRST_WAIT = 1.0
"""Seconds that the wait before the second attempt is at most; it doubles from there."""
LONGEST_BACKOFF = 30.0
"""Seconds that a wait is at most when the provider has not asked for one."""
SAVE_SECONDS = 60.0
"""How often what has been learned of the limits is kept while calls are made."""


class Gate(Through):
    """Answers through another model, as fast as its provider lets calls through.

    A call that the provider has no room for also slows down the others of its model. The
    wait between attempts is random, so that calls which failed together do not come back
    together, and never shorter than what the provider asked for. Waiting for a place is no
    attempt and costs nothing.
    """

    def __init__(
        self,
        llm: LLM,
        *,
        max_attempts: int = 5,
        first_wait: float = FIRST_WAIT,
        longest_wait: float = 60.0,
        share: float = 1.0,
        limits: LearnedLimits | None = None,
    ) -> None:
        """Ask `llm` up to `max_attempts` times, waiting at most `longest_wait` seconds.

        This process has a `share` of the provider; others that it does not know have the rest.
        The concurrency of each model starts from what `limits` has of it, and is kept there.

        A provider that asks for a longer wait is taken at its word: the call fails at once.
        So does one whose next attempt would come after the deadline it is made under.
        """
        super().__init__(llm)
        self._enough = stop_after_attempt(max_attempts)
        self._longest_wait = longest_wait
        self._backoff = wait_random_exponential(multiplier=first_wait, max=LONGEST_BACKOFF)
        self._first_wait = first_wait
        self._share = share
        self._limits = limits or LearnedLimits()
        self._saved_at = -math.inf
        self._places: dict[str, Places] = {}

    @property
    def occupancy(self) -> dict[str, Occupancy]:
        """Return how full the places for calls are, by model."""
        return {model: places.occupancy for model, places in self._places.items()}

    def save_limits(self) -> None:
        """Keep what has been learned of the provider's limits for the next process."""
        learned = {model: places.learned for model, places in self._places.items()}
        self._limits.save({model: limit for model, limit in learned.items() if limit is not None})

    def _save_in_time(self) -> None:
        # A process may be killed, and then saves nothing at its end.
        if anyio.current_time() - self._saved_at >= SAVE_SECONDS:
            self._saved_at = anyio.current_time()
            self.save_limits()

    def _places_for(self, model: str) -> Places:
        if (places := self._places.get(model)) is None:
            places = self._places[model] = Places(
                jitter=self._first_wait, share=self._share, learned=self._limits.of(model)
            )
        return places

    async def complete(self, request: Request, draft: Draft, /) -> Reply:
        """Return the reply of the first attempt that brings one.

        The usage of the reply, of an error and of `draft` covers all attempts.

        Raises:
            ModelRequestError: repeating the call would be useless.
            ModelUnavailableError: all attempts failed, or there is no time for another.
            ModelReplyError: what came back is not a reply, time and again.
        """
        places = self._places_for(self.model_name(request.model))
        attempts = _Attempts(places, draft, longest_wait=self._longest_wait)
        retrying = AsyncRetrying(
            sleep=anyio.sleep,
            stop=lambda state: self._enough(state) or attempts.out_of_reach(state),
            wait=self._wait,
            retry=retry_if_exception(self._may_help),
            reraise=True,
        )
        try:
            return await retrying(attempts.make, self._llm, request)
        except ModelError as exc:
            raise self._told(exc, attempts) from exc
        finally:
            self._save_in_time()

    def _may_help(self, exc: BaseException) -> bool:
        if isinstance(exc, ModelUnavailableError):
            return (exc.retry_after or 0.0) <= self._longest_wait
        return isinstance(exc, ModelReplyError)

    def _wait(self, state: RetryCallState) -> float:
        exc = state.outcome.exception() if state.outcome is not None else None
        asked = exc.retry_after if isinstance(exc, ModelUnavailableError) else None
        return (asked or 0.0) + self._backoff(state)

    def _told(self, exc: ModelError, attempts: "_Attempts") -> ModelError:
        """Return `exc` with what became of all the attempts."""
        message = str(exc)
        if attempts.made > 1:
            message += f" Tried {attempts.made} times."
        if attempts.out_of_time:
            message += " There was no time to wait and try again."
        if attempts.out_of_money:
            message += " There was no money left in the budget to try again."
        if isinstance(exc, ModelUnavailableError) and not self._may_help(exc):
            message += (
                f" The provider asks to wait {exc.retry_after:.0f} s, longer than the "
                f"{self._longest_wait:.0f} s that a call may wait. Try again later."
            )
        told = copy(exc)
        told.args = (message,)
        told.usage = attempts.usage
        told.text = attempts.longest_text
        return told


class _Attempts:
    """The attempts at one call: what they have cost, and the draft that shows the latest."""

    def __init__(self, places: Places, draft: Draft, *, longest_wait: float) -> None:
        self.made = 0
        self.usage = NO_USAGE
        self.longest_text = ""
        """The longest part of a reply that an attempt brought: it has been paid for."""
        self.out_of_time = False
        """Whether the caller's deadline leaves no time for another."""
        self.out_of_money = False
        """Whether the caller cannot pay for another."""
        self._places = places
        self._draft = draft
        self._longest_wait = longest_wait

    async def make(self, llm: LLM, request: Request) -> Reply:
        """Return the reply of one more attempt."""
        async with self._places.place(request.run_id) as place:
            self.made += 1
            spent = self.usage
            draft = Draft(self._mirror(spent, place))
            self._draft.measure = lambda: _one_call(spent, draft.measure())
            if self.made > 1:
                self._draft.update(text="")
            try:
                reply = await llm.complete(request, draft)
            except ModelError as exc:
                self._account_for(exc, spent, draft)
                self._tell(place, exc)
                raise
            finally:
                self._draft.measure = lambda: self._draft.usage
            place.served()
        self.usage = _one_call(spent, reply.usage)
        self._draft.update(text=reply.text, usage=self.usage)
        return reply.model_copy(update={"usage": self.usage})

    def out_of_reach(self, state: RetryCallState) -> bool:
        """Tell whether the next attempt would come too late, or be one too many to pay for."""
        next_attempt = anyio.current_time() + state.upcoming_sleep
        self.out_of_time = next_attempt >= anyio.current_effective_deadline()
        self.out_of_money = not self.out_of_time and not self._draft.may_repeat(self.usage)
        return self.out_of_time or self.out_of_money

    def _account_for(self, exc: ModelError, spent: Usage, draft: Draft) -> None:
        self.usage = _one_call(spent, exc.usage or draft.usage)
        self.longest_text = max(self.longest_text, exc.text or draft.text, key=len)
        self._draft.update(usage=self.usage)

    def _tell(self, place: Place, exc: ModelError) -> None:
        if isinstance(exc, ModelAccessError):
            place.denied(exc)
        if isinstance(exc, ModelUnavailableError) and exc.busy:
            wait = exc.retry_after
            # Those who wait are not held up for longer than they would be willing to wait.
            place.refused(wait=wait if wait is None or wait <= self._longest_wait else None)

    def _mirror(self, spent: Usage, place: Place) -> Callable[[Draft], None]:
        def show(draft: Draft) -> None:
            # A model updates the draft for the first time when it sends the request.
            place.sent()
            place.heed(draft.allowance)
            self._draft.update(text=draft.text, usage=_one_call(spent, draft.usage))

        return show


def _one_call(spent: Usage, usage: Usage) -> Usage:
    """Return the sum as that of one call, however many attempts it took."""
    if spent is NO_USAGE:
        return usage
    return (spent + usage).model_copy(update={"calls": 1})
