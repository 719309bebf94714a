"""Asking a model for a judgement: of a result, between answers, or of what to do next."""

from collections.abc import Iterable
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from concertmaster.catalog.prompts import RenderedPrompt
from concertmaster.engine.conversation import Conversation
from concertmaster.engine.plan import shape_problems
from concertmaster.engine.run import Run, Setup, fenced_inputs
from concertmaster.llm.protocol import (
    Document,
    JsonSchema,
    JudgementBrief,
    Request,
    UserMessage,
)

JudgementT = TypeVar("JudgementT", bound=BaseModel)


class NoJudgementError(Exception):
    """The model gave no judgement; the message says why."""


async def judge(
    shape: type[JudgementT],
    schema: JsonSchema,
    *,
    run: Run,
    setup: Setup,
    caller: str,
    act: str,
    step: str,
    prompt: RenderedPrompt,
    seconds: float,
    model: str = "",
    documents: Iterable[Document] = (),
    subtask_id: str | None = None,
) -> JudgementT:
    """Return the judgement that a model gives on `prompt`, having read the `documents`.

    Raises:
        NoJudgementError: it gives none, or none of the `schema`, within `seconds`.
    """
    request = Request(
        caller=caller,
        model=model or setup.models.synthesizer,
        system=prompt.system,
        shared=fenced_inputs(documents),
        messages=(UserMessage(text=prompt.user),),
        brief=JudgementBrief(task=run.request.task, act=act),
        max_tokens=run.request.limits.max_tokens,
        output_schema=schema,
    )
    conversation = Conversation(run, setup, request, step=step, subtask_id=subtask_id)
    verdict = await conversation.verdict(seconds=seconds)
    if verdict.status != "succeeded":
        raise NoJudgementError(verdict.problem)
    try:
        return shape.model_validate(verdict.value)
    except ValidationError as exc:
        raise NoJudgementError(" ".join(shape_problems(exc))) from None
