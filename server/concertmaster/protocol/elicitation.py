"""Asking the person at a client, in the way that its version of the protocol has for it.

Up to 2025-11-25 a server sends its client a request while a call is under way. From 2026-07-28 on
the call is answered with the question, and made again with the answer.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

from mcp import MCPError
from mcp.server.elicitation import render_elicitation_schema
from mcp.server.mcpserver import Context
from mcp.types import (
    ClientCapabilities,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    InputRequiredResult,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel, ValidationError

from concertmaster.errors import RequestError

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
