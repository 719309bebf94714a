"""Questions of a run, put to the person at a client whose call follows the run."""

import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import TaskGroup
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel, Field

from concertmaster.engine.concurrency import together
from concertmaster.engine.record.events import ToolAsked
from concertmaster.errors import RequestError, UnknownQuestionError
from concertmaster.protocol.elicitation import Answer, Question, ask, can_ask
from concertmaster.protocol.questions import question_text
from concertmaster.protocol.state import Ctx
from concertmaster.runs.state import RunState

if TYPE_CHECKING:
    from concertmaster.runs.principals import Runs

log = logging.getLogger(__name__)

WHO = "the client's user"

LEAST_SECONDS = 1
"""A call that waits for less only looks at a run, or becomes a task that can be asked about it."""


class Consent(BaseModel):
    """What a person says to a call of a tool."""

    allow: bool = Field(description="Yes, call it this once.")


def form_of(asked: ToolAsked) -> Question[Consent]:
    """Return a question of a run as a form for the person at a client."""
    return Question(key=asked.question_id, text=question_text(asked), form=Consent)


async def take_answers(runs: "Runs", state: RunState, responses: Mapping[str, Any]) -> None:
    """Let a run hear those of a client's replies that are answers to its open questions.

    Raises:
        RequestError: a form is not filled in as it has to be.
    """
    for asked in state.questions.values():
        answer = form_of(asked).answer_in(responses)
        if answer is not None:
            await _settle(runs, state.run_id, asked, answer)


async def _settle(runs: "Runs", run_id: str, asked: ToolAsked, answer: Answer[Consent]) -> None:
    if answer == "dismissed":
        # Whoever closes a form has not said no; somebody at a terminal may say yes.
        return
    allowed = isinstance(answer, Consent) and answer.allow
    # It may have been answered elsewhere, or waited for long enough.
    with suppress(UnknownQuestionError):
        await runs.answer(run_id, asked.question_id, allowed=allowed, by=WHO)


class Person:
    """Somebody at a client who can be asked, or cannot."""

    def __init__(self, ctx: Ctx, runs: "Runs", tasks: TaskGroup, *, reachable: bool) -> None:
        self._ctx = ctx
        self._runs = runs
        self._start_soon = tasks.start_soon
        self._reachable = reachable
        self._asked: dict[str, anyio.CancelScope] = {}
        """What has been put to the person, by question."""
        self._waiting: set[str] = set()

    def is_asked(self, state: RunState) -> bool:
        """Tell whether an answer of the person is waited for."""
        return bool(self._waiting & state.questions.keys())

    async def put(self, state: RunState) -> None:
        """Put the open questions to the person that have not been, and take back the others.

        Raises:
            AnswerNeededError: the call is to be made again, with the answer.
        """
        for question_id, scope in self._asked.items():
            if question_id not in state.questions:
                scope.cancel()
        for asked in state.questions.values():
            if self._reachable and asked.question_id not in self._asked:
                self._asked[asked.question_id] = anyio.CancelScope()
                self._waiting.add(asked.question_id)
                if self._ctx.session.protocol_version in MODERN_PROTOCOL_VERSIONS:
                    await self._ask(state.run_id, asked)
                else:
                    self._start_soon(self._ask, state.run_id, asked)

    async def _ask(self, run_id: str, asked: ToolAsked) -> None:
        try:
            with self._asked[asked.question_id]:
                answer = await ask(self._ctx, form_of(asked), about=run_id)
                await _settle(self._runs, run_id, asked, answer)
        except RequestError as exc:
            log.warning("question not answered: %s", exc)
        finally:
            self._waiting.discard(asked.question_id)


@asynccontextmanager
async def put_questions(ctx: Ctx, runs: "Runs", *, seconds: float) -> AsyncGenerator[Person]:
    """Have the person at a client asked as long as the block lasts, if it may last so long."""
    reachable = can_ask(ctx.session) and seconds >= LEAST_SECONDS
    async with together() as tasks:
        yield Person(ctx, runs, tasks, reachable=reachable)
        tasks.cancel_scope.cancel()
