"""Calls of tools that somebody has to agree to."""

import json
from collections import defaultdict
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

import anyio

from concertmaster.engine.events import Estimate, ToolAnswered, ToolAsked
from concertmaster.engine.plan.plan import Plan
from concertmaster.engine.request import RunRequest
from concertmaster.llm.messages import ToolCall
from concertmaster.tools.registry import not_called

if TYPE_CHECKING:
    # Whoever only asks for approvals must not wait for what steps import.
    from concertmaster.engine.steps import Steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A tool call that a worker wants to make."""

    step: str
    subtask_id: str
    worker: str
    call: ToolCall
    shown: str
    """Its arguments, as a person is shown them."""

    @property
    def question_id(self) -> str:
        """Return the id of the question whether it may be made, and of no other."""
        content = json.dumps([self.step, self.call.name, self.call.arguments], sort_keys=True)
        return f"q-{sha256(content.encode()).hexdigest()[:8]}"


class _Pending:
    """A question that nobody has answered yet."""

    def __init__(self) -> None:
        self.settled = anyio.Event()
        self.answer: ToolAnswered | None = None

    def settle(self, answer: ToolAnswered) -> None:
        """Take an answer, if it is the first."""
        if self.answer is None:
            self.answer = answer
            self.settled.set()


class Consents:
    """What people say to the tool calls of one run.

    A yes is for one call. A no is for a tool and the rest of a subtask, so that nothing that
    a worker reads can wear people down; and where nobody answers, nobody is asked again.
    """

    def __init__(self) -> None:
        self._pending: dict[str, _Pending] = {}
        self._turns = defaultdict[str, anyio.Lock](anyio.Lock)
        """By subtask, since what is said to one question may answer the next."""
        self._noes: dict[tuple[str, str], ToolAnswered] = {}
        """By subtask and tool; without one, where nobody has answered."""

    def answer(self, answer: ToolAnswered) -> None:
        """Take in what somebody says; if it is no answer to an open question, nothing."""
        if (pending := self._pending.get(answer.question_id)) is not None:
            pending.settle(answer)

    async def refusal(
        self,
        wish: Wish,
        steps: "Steps",
        *,
        seconds: float,
        waiting: AbstractAsyncContextManager[None],
    ) -> str:
        """Return why a call is not to be made, for the model; nothing if somebody agrees.

        If there is no answer yet, one is waited for so many seconds, with `waiting` entered.
        """
        if (answer := self._said(wish, steps)) is None:
            async with waiting:
                answer = await self._waited_for(wish, steps, seconds)
        if answer.allowed:
            return ""
        who = f"{answer.by} said no" if answer.by else "nobody has answered"
        return not_called(wish.call.name, f"is called only if somebody agrees, and {who}")

    def _said(self, wish: Wish, steps: "Steps") -> ToolAnswered | None:
        """Return the answer that there is already: to this question, or a no from before."""
        subtask_id, tool = wish.subtask_id, wish.call.name
        earlier = steps.recorded.answers_about(subtask_id, tool)
        noes = (answer for answer in earlier if not answer.allowed)
        return (
            steps.recorded.answers.get(wish.question_id)
            or next(noes, None)
            or self._noes.get((subtask_id, tool))
            or self._noes.get((subtask_id, ""))
        )

    async def _waited_for(self, wish: Wish, steps: "Steps", seconds: float) -> ToolAnswered:
        async with self._turns[wish.subtask_id]:
            answer = self._said(wish, steps) or await self._asked(wish, steps, seconds)
            if not answer.allowed:
                self._noes[wish.subtask_id, wish.call.name if answer.by else ""] = answer
            return answer

    async def _asked(self, wish: Wish, steps: "Steps", seconds: float) -> ToolAnswered:
        pending = self._pending[wish.question_id] = _Pending()
        asked = ToolAsked(
            name=f"{wish.step}/question",
            at=steps.now(),
            step=wish.step,
            question_id=wish.question_id,
            subtask_id=wish.subtask_id,
            worker=wish.worker,
            tool=wish.call.name,
            arguments=wish.shown,
            until=steps.now() + seconds,
        )
        try:
            await steps.record(asked)
            with anyio.move_on_after(seconds):
                await pending.settled.wait()
            if pending.answer is not None:
                return pending.answer
            unanswered = ToolAnswered(
                name=f"{wish.step}/unanswered",
                at=steps.now(),
                question_id=wish.question_id,
                allowed=False,
            )
            pending.settle(unanswered)
            await steps.record(unanswered)
            return unanswered
        finally:
            del self._pending[wish.question_id]


def waits_for_approval(
    request: RunRequest, plan: Plan, likely: Estimate | None, *, approved_usd: float
) -> bool:
    """Tell whether a plan must not be carried out yet that was approved for so much, if at all."""
    if request.kind == "plan" or not plan.subtasks or request.approve == "never":
        return False
    if request.approve == "over_budget" and _within_budget(request, likely):
        return False
    return request.limits.budget_usd > approved_usd


def _within_budget(request: RunRequest, likely: Estimate | None) -> bool:
    """Tell whether it is unlikely that the budget does not suffice; an unknown price may be any."""
    usd = likely.usd if likely is not None else None
    return usd is not None and usd.high <= request.limits.budget_usd
