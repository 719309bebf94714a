"""Asking the person at a client, in the way that its version of the protocol has for it.

Up to 2025-11-25 a server sends its client a request while a call is under way. From 2026-07-28 on
the call is answered with the question, and made again with the answer.
"""

import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, Protocol, TypeVar

import anyio
from anyio.abc import TaskGroup
from mcp import MCPError
from mcp.server.elicitation import render_elicitation_schema
from mcp.server.mcpserver import Context
from mcp.types import (
    CallToolResult,
    ClientCapabilities,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    InputRequiredResult,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from concertmaster.engine.concurrency import together
from concertmaster.engine.events import ToolAsked
from concertmaster.errors import LostRunError, RequestError, UnknownQuestionError
from concertmaster.mcp_server.client_profiles import profile_of
from concertmaster.mcp_server.context import Ctx, state_of
from concertmaster.mcp_server.results import run_result
from concertmaster.replies.markdown import one_line
from concertmaster.replies.next_steps import question_text
from concertmaster.runs.approvals import digest_to_approve
from concertmaster.runs.state import RunState

if TYPE_CHECKING:
    from concertmaster.runs.principals import Runs


log = logging.getLogger(__name__)

ANSWER_SECONDS = 24 * 3600.0
"""How long somebody may take to answer, where the call is made again with the answer."""

FormT = TypeVar("FormT", bound=BaseModel)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question(Generic[FormT]):
    """What a person is asked, and the form for the answer."""

    key: str
    """What the answer is known by; an answer to a question with another one is none to this."""
    text: str
    form: type[FormT]
    """Its fields are texts, numbers, choices and truth values, since clients show no others."""

    @property
    def request(self) -> ElicitRequest:
        """Return the question as the protocol has it."""
        schema = render_elicitation_schema(self.form)
        return ElicitRequest(
            params=ElicitRequestFormParams(message=self.text, requested_schema=schema)
        )

    def answer(self, said: ElicitResult) -> "Answer[FormT]":
        """Return what a client's reply to the question means.

        Raises:
            RequestError: the form is not filled in as it has to be.
        """
        if said.action != "accept":
            return "declined" if said.action == "decline" else "dismissed"
        try:
            return self.form.model_validate(said.content or {})
        except ValidationError as exc:
            problem = exc.errors(include_url=False, include_input=False, include_context=False)[0]
            where = "".join(f"{part}: " for part in problem["loc"])
            raise RequestError(f"The answer cannot be used: {where}{problem['msg']}.") from None

    def answer_in(self, responses: Mapping[str, Any]) -> "Answer[FormT] | None":
        """Return what client's replies mean for the question, if one of them is to it.

        Raises:
            RequestError: the form is not filled in as it has to be.
        """
        if (said := responses.get(self.key)) is None:
            return None
        try:
            return self.answer(ElicitResult.model_validate(said, from_attributes=True))
        except ValidationError:
            raise RequestError("The answer cannot be used: it is none to a form.") from None


Refusal = Literal["declined", "dismissed"]
"""Somebody said no; or said nothing and closed the form."""

Answer = FormT | Refusal
"""The form that somebody has filled in and sent, or that there is none."""


class AnswerNeededError(Exception):
    """A call is to be answered with a question; a tool that raises it is called again."""

    def __init__(self, result: InputRequiredResult) -> None:
        super().__init__("The call has to be made again, with an answer.")
        self.result = result


class Session(Protocol):
    """What of a session tells whether its client can be asked."""

    @property
    def protocol_version(self) -> str:
        """Return the version of the protocol that is spoken."""
        ...

    @property
    def client_capabilities(self) -> ClientCapabilities | None:
        """Return what the client says that it can do."""
        ...

    @property
    def can_send_request(self) -> bool:
        """Tell whether a request of ours would reach the client now."""
        ...


def can_ask(session: Session) -> bool:
    """Tell whether the client of a call can be asked to have a form filled in."""
    by_result = session.protocol_version in MODERN_PROTOCOL_VERSIONS
    return _shows_forms(session.client_capabilities) and (by_result or session.can_send_request)


def _shows_forms(capabilities: ClientCapabilities | None) -> bool:
    elicitation = capabilities.elicitation if capabilities is not None else None
    # A client that says nothing of modes shows forms, which were there first.
    return elicitation is not None and (elicitation.form is not None or elicitation.url is None)


async def ask(ctx: Context[Any, Any], question: Question[FormT], *, about: str) -> Answer[FormT]:
    """Return what the person at a client that can be asked answers.

    Raises:
        AnswerNeededError: the call is to be made again. Then `asked_about` returns `about`, and
            this returns the answer, unless the question has changed.
        RequestError: the form is not filled in as it has to be.
    """
    if (answer := question.answer_in(ctx.input_responses or {})) is not None:
        return answer
    request = question.request
    if ctx.session.protocol_version in MODERN_PROTOCOL_VERSIONS:
        raise AnswerNeededError(
            InputRequiredResult(input_requests={question.key: request}, request_state=about)
        )
    try:
        said = await ctx.session.elicit_form(
            request.params.message,
            render_elicitation_schema(question.form),
            related_request_id=ctx.request_id,
        )
    except MCPError as exc:
        log.warning("client asked in vain: %s", exc.error.message)
        return "dismissed"
    return question.answer(said)


def asked_about(ctx: Context[Any, Any]) -> str | None:
    """Return what the question was about that this call brings the answer to, if it does."""
    return ctx.request_state


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


SHOWN_SUBTASKS = 20
"""How many subtasks a question shows, a line each."""


class Approval(BaseModel):
    """What somebody may say beside yes."""

    model_config = ConfigDict(title="Run this plan", allow_inf_nan=False)

    # Some clients send a field that was left blank as an empty text.
    budget_usd: Annotated[
        float | None, BeforeValidator(lambda said: None if said == "" else said)
    ] = Field(
        default=None,
        gt=0,
        title="Another limit, in USD",
        description="What the run may spend in all, if not what is said above.",
    )


def approval_of(state: RunState) -> Question[Approval]:
    """Return the question whether the plan of a run is to be carried out.

    Raises:
        RequestError: the plan does not wait for approval.
    """
    asked = f"{state.run_id} {digest_to_approve(state)}"
    key = sha256(asked.encode()).hexdigest()[:16]
    return Question(key=f"approve-{key}", text=_question(state), form=Approval)


def _question(state: RunState) -> str:
    subtasks = [item.subtask for item in state.subtasks.values()]
    lines = [
        f"- {item.id} {item.worker}: {one_line(item.objective, 120)}"
        for item in subtasks[:SHOWN_SUBTASKS]
    ]
    if len(subtasks) > SHOWN_SUBTASKS:
        lines.append(f"- and {len(subtasks) - SHOWN_SUBTASKS} more")
    likely = f"It is likely to take {state.estimate.words}. " if state.estimate else ""
    return "\n".join(
        (
            f"Shall this plan be carried out? Task: {one_line(state.request.task, 200)}",
            *lines,
            f"{likely}The limit is {state.request.limits.budget_usd:g} USD{_done(state)}.",
        )
    )


def _done(state: RunState) -> str:
    """Return what has been done of a plan that was begun with another limit, as a clause."""
    if not (ended := state.ended_subtasks):
        return ""
    spent = state.usage.usd or 0.0
    return f"; {ended} of the subtasks ended before, and {spent:.2f} USD of it are spent"


async def decide(runs: "Runs", state: RunState, answer: Answer[Approval]) -> RunState:
    """Do with a run what somebody has said to its plan, and return where it stands then.

    `state` is the one that they were asked about.

    Raises:
        RequestError: it cannot go on, or not with the limit that was named; or what they were
            asked about is not what waits any more.
    """
    match answer:
        case "declined":
            reason = "its plan was declined"
            return await runs.cancel(state.run_id, reason=reason, declined=True)
        case "dismissed":
            return state
        case Approval():
            return await runs.resume(
                state.run_id,
                by="whoever approved its plan",
                budget_usd=answer.budget_usd,
                approved=digest_to_approve(state),
            )


async def reply_on(ctx: Ctx, state: RunState, *, offset: int = 0) -> CallToolResult:
    """Return where a run stands, with the longest page of its answer from `offset`.

    Raises:
        RequestError: the answer ends before `offset`.
    """
    token = await approval_token(await state_of(ctx).service(), state, ctx.session)
    client = profile_of(ctx.session)
    return run_result(state, client=client, offset=offset, approval_token=token)


async def approval_token(runs: "Runs", state: RunState, session: Session) -> str:
    """Return what a client that cannot ask anybody may approve the plan of a run with.

    Nothing, where there is nothing to approve, or the client has somebody to ask.
    """
    if state.status != "needs_approval" or can_ask(session):
        return ""
    try:
        return await runs.approvals.offer(state.run_id)
    except (RequestError, LostRunError):
        # It has been decided meanwhile.
        return ""
