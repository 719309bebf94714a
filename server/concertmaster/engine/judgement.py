"""Asking a model for a judgement: of a result, between answers, or of what to do next."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from concertmaster.catalog.prompts import RenderedPrompt
from concertmaster.engine.conversation import Conversation
from concertmaster.engine.plan.plan import shape_problems
from concertmaster.engine.run import Run, Setup, fenced_inputs
from concertmaster.llm.messages import Document, JsonSchema, JudgementBrief, Request, UserMessage

JudgementT = TypeVar("JudgementT", bound=BaseModel)


class NoJudgementError(Exception):
    """The model gave no judgement; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a model is to judge, and in which form."""

    caller: str
    act: str
    """What is asked for, as a verb: `criticise a result`, `decide what to do next`."""
    step: str
    prompt: RenderedPrompt
    schema: JsonSchema
    model: str = ""
    """The one for synthesis where this is empty."""
    documents: Iterable[Document] = ()
    """What it reads besides the prompt."""
    subtask_id: str | None = None


async def judge(
    shape: type[JudgementT], question: Question, *, run: Run, setup: Setup, seconds: float
) -> JudgementT:
    """Return the judgement that a model gives on a question.

    Raises:
        NoJudgementError: it gives none, or none of the schema, within `seconds`.
    """
    request = Request(
        caller=question.caller,
        model=question.model or setup.models.synthesizer,
        system=question.prompt.system,
        shared=fenced_inputs(question.documents),
        messages=(UserMessage(text=question.prompt.user),),
        brief=JudgementBrief(task=run.request.task, act=question.act),
        max_tokens=run.request.limits.max_tokens,
        output_schema=question.schema,
    )
    conversation = Conversation(
        run, setup, request, step=question.step, subtask_id=question.subtask_id
    )
    verdict = await conversation.verdict(seconds=seconds)
    if verdict.status != "succeeded":
        raise NoJudgementError(verdict.problem)
    try:
        return shape.model_validate(verdict.value)
    except ValidationError as exc:
        raise NoJudgementError(" ".join(shape_problems(exc))) from None
