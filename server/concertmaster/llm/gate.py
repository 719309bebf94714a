"""Where every model call passes through: what may help when repeated, is."""

from collections.abc import Callable

import anyio
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    wait_random_exponential,
)

from concertmaster.errors import ModelError, ModelReplyError, ModelUnavailableError
from concertmaster.llm.protocol import LLM, NO_USAGE, Draft, Reply, Request, Usage

FIRST_WAIT = 1.0
"""Seconds that the wait before the second attempt is at most; it doubles from there."""
LONGEST_BACKOFF = 30.0
"""Seconds that a wait is at most when the provider has not asked for one."""


class Gate:
    """Answers through another model, and asks it again where that may help.

    The wait between attempts is random, so that calls which failed together do not come
    back together, and never shorter than what the provider asked for.
    """

    def __init__(self, llm: LLM, *, max_attempts: int = 5, longest_wait: float = 60.0) -> None:
        """Ask `llm` up to `max_attempts` times, waiting at most `longest_wait` seconds.

        A provider that asks for a longer wait is taken at its word: the call fails at once.
        """
        self._llm = llm
        self._max_attempts = max_attempts
        self._longest_wait = longest_wait
        self._backoff = wait_random_exponential(multiplier=FIRST_WAIT, max=LONGEST_BACKOFF)

    @property
    def notice(self) -> str:
        """Return what every reader of an answer must know of the model."""
        return self._llm.notice

    def model_name(self, model: str, /) -> str:
        """Return the id of the model that `model` stands for."""
        return self._llm.model_name(model)

    async def complete(self, request: Request, draft: Draft, /) -> Reply:
        """Return the reply of the first attempt that brings one.

        The usage of the reply, of an error and of `draft` covers all attempts.

        Raises:
            ModelRequestError: repeating the call would be useless.
            ModelUnavailableError: all attempts failed, or the provider asks for too long a wait.
            ModelReplyError: what came back is not a reply, time and again.
        """
        attempts = _Attempts(draft)
        retrying = AsyncRetrying(
            sleep=anyio.sleep,
            stop=stop_after_attempt(self._max_attempts),
            wait=self._wait,
            retry=retry_if_exception(self._may_help),
            reraise=True,
        )
        try:
            return await retrying.wraps(attempts.make)(self._llm, request)
        except ModelError as exc:
            raise self._told(exc, attempts) from exc

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
        if not isinstance(exc, ModelUnavailableError):
            return type(exc)(message, usage=attempts.usage, text=attempts.longest_text)
        if not self._may_help(exc):
            message += (
                f" The provider asks to wait {exc.retry_after:.0f} s, longer than the "
                f"{self._longest_wait:.0f} s that a call may wait. Try again later."
            )
        return ModelUnavailableError(
            message,
            usage=attempts.usage,
            text=attempts.longest_text,
            retry_after=exc.retry_after,
        )


class _Attempts:
    """The attempts at one call: what they have cost, and the draft that shows the latest."""

    def __init__(self, draft: Draft) -> None:
        self.made = 0
        self.usage = NO_USAGE
        self.longest_text = ""
        """The longest part of a reply that an attempt brought: it has been paid for."""
        self._draft = draft

    async def make(self, llm: LLM, request: Request) -> Reply:
        """Return the reply of one more attempt."""
        self.made += 1
        spent = self.usage
        draft = Draft(self._mirror(spent))
        if self.made > 1:
            self._draft.update(text="")
        try:
            reply = await llm.complete(request, draft)
        except ModelError as exc:
            self.usage = _one_call(spent, exc.usage or draft.usage)
            self.longest_text = max(self.longest_text, exc.text or draft.text, key=len)
            self._draft.update(usage=self.usage)
            raise
        self.usage = _one_call(spent, reply.usage)
        self._draft.update(text=reply.text, usage=self.usage)
        return reply.model_copy(update={"usage": self.usage})

    def _mirror(self, spent: Usage) -> Callable[[Draft], None]:
        def show(draft: Draft) -> None:
            self._draft.update(text=draft.text, usage=_one_call(spent, draft.usage))

        return show


def _one_call(spent: Usage, usage: Usage) -> Usage:
    """Return the sum as that of one call, however many attempts it took."""
    if spent is NO_USAGE:
        return usage
    return (spent + usage).model_copy(update={"calls": 1})
