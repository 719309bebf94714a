"""Asking the person at a client, whatever version of the protocol it speaks."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from mcp import Client
from mcp.client.context import ClientRequestContext
from mcp.server.mcpserver import Context, MCPServer
from mcp.types import (
    INTERNAL_ERROR,
    ClientCapabilities,
    ElicitationCapability,
    ElicitRequestFormParams,
    ElicitRequestParams,
    ElicitResult,
    ErrorData,
    FormElicitationCapability,
    UrlElicitationCapability,
)
from pydantic import BaseModel, Field

from clients import ERAS, text_of
from concertmaster.errors import RequestError
from concertmaster.mcp_server.elicitation import Question, ask, asked_about, can_ask
from concertmaster.mcp_server.tool_schemas import SentenceTool

pytestmark = pytest.mark.anyio

both_eras = pytest.mark.parametrize("mode", ERAS)

Asked = list[ElicitRequestFormParams]


class Confirmation(BaseModel):
    limit: float | None = Field(default=None, gt=0)


def question(text: str = "Shall it?") -> Question[Confirmation]:
    return Question(key="confirm", text=text, form=Confirmation)


async def do_it(ctx: Context[Any, Any], text: str = "Shall it?") -> str:
    if not can_ask(ctx.session):
        return "nobody to ask"
    first = asked_about(ctx) is None
    answer = await ask(ctx, question(text), about="the thing")
    told = answer if isinstance(answer, str) else f"with a limit of {answer.limit}"
    return f"{told}; first call: {first}"


@asynccontextmanager
async def client_who(
    mode: str, reply: Callable[[], ElicitResult | ErrorData], asked: Asked | None = None
) -> AsyncGenerator[Client]:
    async def answer(
        context: ClientRequestContext, params: ElicitRequestParams
    ) -> ElicitResult | ErrorData:
        del context
        assert isinstance(params, ElicitRequestFormParams)
        if asked is not None:
            asked.append(params)
        return reply()

    async with Client(server(), mode=mode, elicitation_callback=answer) as client:
        yield client


def server() -> MCPServer[Any]:
    return MCPServer("test", tools=[SentenceTool.from_function(do_it)], log_level="WARNING")


def says(action: Literal["accept", "decline", "cancel"], **content: Any) -> ElicitResult:
    return ElicitResult(action=action, content=content or None)


@both_eras
@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (says("accept", limit=3), "with a limit of 3.0"),
        (says("accept"), "with a limit of None"),
        (says("decline"), "declined"),
        (says("cancel"), "dismissed"),
    ],
    ids=["filled in", "empty", "declined", "dismissed"],
)
async def test_a_person_is_asked_and_answers(mode: str, reply: ElicitResult, told: str) -> None:
    asked: Asked = []
    async with client_who(mode, lambda: reply, asked) as client:
        text = text_of(await client.call_tool("do_it", {}))
    assert text == f"{told}; first call: {mode == 'legacy'}"
    (params,) = asked
    assert params.message == "Shall it?"
    assert set(params.requested_schema["properties"]) == {"limit"}


@both_eras
async def test_a_form_that_is_filled_in_wrongly_is_told(mode: str) -> None:
    async with client_who(mode, lambda: says("accept", limit=-1)) as client:
        result = await client.call_tool("do_it", {})
    assert result.is_error
    expected = "The answer cannot be used: limit: Input should be greater than 0."
    assert text_of(result) == expected


@both_eras
async def test_a_client_that_shows_no_forms_is_not_asked(mode: str) -> None:
    async with Client(server(), mode=mode) as client:
        assert text_of(await client.call_tool("do_it", {})) == "nobody to ask"


async def test_a_client_that_fails_to_ask_has_dismissed_the_question() -> None:
    failure = ErrorData(code=INTERNAL_ERROR, message="no screen")
    async with client_who("legacy", lambda: failure) as client:
        assert text_of(await client.call_tool("do_it", {})).startswith("dismissed")


async def test_an_answer_to_another_question_is_none() -> None:
    assert question().answer_in({"other": says("accept")}) is None


async def test_what_is_no_answer_to_a_form_is_refused() -> None:
    with pytest.raises(RequestError, match="none to a form"):
        question().answer_in({"confirm": {"roots": []}})


@pytest.mark.parametrize(
    ("capability", "asked"),
    [
        (None, False),
        (ElicitationCapability(), True),
        (ElicitationCapability(form=FormElicitationCapability()), True),
        (ElicitationCapability(url=UrlElicitationCapability()), False),
    ],
)
@pytest.mark.parametrize(
    ("version", "reachable"), [("2026-07-28", False), ("2025-11-25", True), ("2025-11-25", False)]
)
async def test_who_can_be_asked_shows_forms_and_can_be_reached(
    capability: ElicitationCapability | None, asked: bool, version: str, reachable: bool
) -> None:
    session = Session(version, ClientCapabilities(elicitation=capability), reachable)
    assert can_ask(session) is (asked and (reachable or version == "2026-07-28"))


@dataclass
class Session:
    protocol_version: str
    client_capabilities: ClientCapabilities
    can_send_request: bool
