"""Sectioning: the same worker does the same to each part, and knows nothing of the others."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from anyio import to_thread
from pydantic import JsonValue
from semantic_text_splitter import MarkdownSplitter, TextSplitter

from concertmaster.engine.concurrency import at_once
from concertmaster.engine.conversation import Verdict
from concertmaster.engine.events import PartResult
from concertmaster.engine.plan.plan import MOST_PARTS, Context, Map
from concertmaster.engine.strategies.work import Piece, Work, do
from concertmaster.llm.fencing import quoted, spelled
from concertmaster.llm.messages import Document, distinct

TOKEN_CHARS = 4
"""How many characters a token has, about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One of the pieces that the same is done to."""

    name: str
    documents: tuple[Document, ...]
    context: Context

    def piece(self, step: str) -> Piece:
        """Return the work on this part as the piece of a subtask with this step."""
        return Piece(step=step, documents=self.documents, context=self.context)


async def do_in_parts(work: Work, strategy: Map) -> Verdict:
    """Return the results of all parts, combined in order."""
    parts = await parts_of(work, strategy)
    if not parts:
        return Verdict(status="failed", problem="There is no text in its inputs to go over.")
    if len(parts) > MOST_PARTS:
        return Verdict(
            status="failed",
            problem=f"It has {len(parts)} parts; one subtask may have {MOST_PARTS}. Make the "
            "sections longer, or give it less.",
        )

    async def one(numbered: tuple[int, Part]) -> PartResult:
        number, part = numbered
        verdict = await do(work, part.piece(f"part/{number}"))
        return PartResult(
            name=part.name,
            text=verdict.text,
            value=verdict.value,
            problem=verdict.problem,
            failed=verdict.status == "failed",
            sources=verdict.sources,
        )

    return combined(await at_once(one, enumerate(parts, start=1)))


async def parts_of(work: Work, strategy: Map) -> list[Part]:
    """Return the parts, in order; the same ones each time."""
    return await to_thread.run_sync(lambda: list(_parts(work, strategy)))


def _parts(work: Work, strategy: Map) -> Iterator[Part]:
    match strategy.over:
        case "contexts":
            for context in strategy.contexts:
                name = ", ".join(f"{key}: {value}" for key, value in context.items())
                yield Part(name=name, documents=work.inputs, context=context)
        case "inputs":
            for document in work.inputs:
                yield Part(name=document.name, documents=(document,), context={})
        case _:
            for document in work.inputs:
                yield from _sections(document, strategy.section_tokens * TOKEN_CHARS)


def _sections(document: Document, chars: int) -> Iterator[Part]:
    """Yield the parts of a document, cut where its headings, paragraphs or sentences end."""
    splitter = MarkdownSplitter if document.name.lower().endswith(".md") else TextSplitter
    texts = splitter(chars).chunks(document.text)
    for number, text in enumerate(texts, start=1):
        name = f"{document.name}, section {number} of {len(texts)}"
        yield Part(name=name, documents=(Document(name=name, text=text),), context={})


def combined(parts: Sequence[PartResult]) -> Verdict:
    """Return what the results of all parts, in order, come to."""
    problem = _problem(parts)
    if not any(part.text for part in parts):
        return Verdict(status="failed", problem=problem)
    none_met = all(part.failed for part in parts)
    text = "\n\n".join(
        f"## {spelled(part.name)}\n\n{part.text or _missing(part)}" for part in parts
    )
    values: list[JsonValue] = [
        {"part": part.name, "value": part.value} for part in parts if part.value is not None
    ]
    whole = Verdict(
        status="succeeded",
        text=text,
        value=values or None,
        parts=tuple(parts),
        sources=distinct(*(part.sources for part in parts)),
        outcome="not_met" if none_met else "met",
    )
    return whole.with_problem(problem) if problem else whole


def _missing(part: PartResult) -> str:
    """Return what stands in the place of a part without a result: why there is none."""
    return f"(This part failed: {part.problem})"


def _problem(parts: Sequence[PartResult]) -> str:
    """Return a sentence for each part that is not all it should be."""
    return " ".join(
        f"{quoted(part.name)} {'failed' if part.failed or not part.text else 'is incomplete'}: "
        f"{part.problem}"
        for part in parts
        if part.problem
    )
