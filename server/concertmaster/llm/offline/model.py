"""The offline model itself: which brief is answered by which part."""

import anyio.lowlevel
from anyio import to_thread

from concertmaster.errors import ModelRequestError
from concertmaster.llm.messages import (
    Draft,
    JudgementBrief,
    PlanBrief,
    Reply,
    Request,
    SynthesisBrief,
    WorkBrief,
)
from concertmaster.llm.offline.answers import Answer
from concertmaster.llm.offline.code_review import review_code
from concertmaster.llm.offline.data import describe_tables
from concertmaster.llm.offline.documents import read_documents
from concertmaster.llm.offline.planning import make_plan
from concertmaster.llm.offline.schema import fill_schema
from concertmaster.llm.offline.skills import (
    CodeSkill,
    DataSkill,
    DocumentSkill,
    NameSkill,
    skill_of,
)
from concertmaster.llm.offline.synthesis import merge_results
from concertmaster.llm.offline.uses import find_uses
from concertmaster.llm.usage import Usage

NOTICE = (
    "No language model was used: this is the work of fixed rules (ruff for Python code, text "
    "patterns for documents). Set ANTHROPIC_API_KEY or CONCERTMASTER_API_KEY to have a language "
    "model do it."
)

USAGE = Usage(model="offline", calls=1, usd=0.0)
"""No request was sent for the call."""


class OfflineLLM:
    """Answers by rules. The same request always gets the same reply, and costs nothing."""

    @property
    def notice(self) -> str:
        """Return the sentence that says what this is and how to get more."""
        return NOTICE

    def model_name(self, _model: str, /) -> str:
        """Return `offline`, whatever model was asked for."""
        return "offline"

    def expected(self, _model: str, _usage: Usage, /) -> Usage:
        """Return no tokens and no cost: only language models read by the token."""
        return USAGE

    async def complete(self, request: Request, draft: Draft, /) -> Reply:
        """Return the reply to the brief of `request`; the rendered text is not read.

        Raises:
            ModelRequestError: rules cannot do it: plan work that they do not know, judge, or
                fill an output schema.
        """
        await anyio.lowlevel.checkpoint()
        answer = await to_thread.run_sync(_answer, request, abandon_on_cancel=True)
        draft.update(text=answer.text, usage=USAGE)
        return Reply(
            text=answer.text,
            stop_reason=answer.stop_reason,
            usage=USAGE,
            tool_calls=answer.tool_calls,
            detail=answer.detail,
        )


def _answer(request: Request) -> Answer:
    if isinstance(request.brief, PlanBrief):
        return Answer(text=make_plan(request.brief))
    if isinstance(request.brief, JudgementBrief):
        raise ModelRequestError(
            f"The offline model works by fixed rules, which cannot {request.brief.act}. For that, "
            "configure a language model (ANTHROPIC_API_KEY or CONCERTMASTER_API_KEY).",
            usage=USAGE,
        )
    answer = _unshaped(request, request.brief)
    if request.output_schema is None or answer.stop_reason != "end":
        return answer
    text = fill_schema(answer.text, request.output_schema)
    if text is None:
        raise ModelRequestError(
            "The offline model cannot fill this output schema; it can only give an object "
            "with `findings`. Leave the schema out, or configure a language model.",
            usage=USAGE,
        )
    return Answer(text=text)


def _unshaped(request: Request, brief: WorkBrief | SynthesisBrief) -> Answer:
    if isinstance(brief, SynthesisBrief):
        return Answer(text=merge_results(brief))
    skill = skill_of(brief.worker)
    if isinstance(skill, CodeSkill):
        return review_code(skill, brief, request)
    if isinstance(skill, DocumentSkill):
        return read_documents(skill, brief)
    if isinstance(skill, DataSkill):
        return describe_tables(brief, request)
    if isinstance(skill, NameSkill):
        return find_uses(brief, request)
    return Answer.refused(
        f"The offline model cannot do the work of {brief.worker.name}: it only reviews "
        "Python code and extracts what documents say. Use a worker for one of these, or "
        "configure a language model (ANTHROPIC_API_KEY or CONCERTMASTER_API_KEY)."
    )
