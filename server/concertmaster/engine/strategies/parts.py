"""Sectioning: the same worker does the same to each part, and knows nothing of the others."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from anyio import to_thread
from pydantic import JsonValue
from semantic_text_splitter import MarkdownSplitter, TextSplitter

from concertmaster.engine.concurrency import at_once
from concertmaster.engine.replies import Verdict
from concertmaster.engine.strategy import Context, Map
from concertmaster.engine.work import Piece, Work
from concertmaster.engine.worker import do
from concertmaster.llm.protocol import Document

MOST_PARTS = 100
"""How many parts one subtask may have."""

TOKEN_CHARS = 4
"""How many characters a token has, about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    name: str
    documents: tuple[Document, ...]
    context: Context


async def do_in_parts(work: Work, strategy: Map) -> Verdict:
    """Return the results of all parts, combined in order."""
    parts = await to_thread.run_sync(lambda: list(_parts(work, strategy)))
    if not parts:
        return Verdict(status="failed", problem="There is no text in its inputs to go over.")
    if len(parts) > MOST_PARTS:
        return Verdict(
            status="failed",
            problem=f"It has {len(parts)} parts; one subtask may have {MOST_PARTS}. Make the "
            "sections longer, or give it less.",
        )

    async def one(numbered: tuple[int, _Part]) -> Verdict:
        number, part = numbered
        piece = Piece(step=f"part/{number}", documents=part.documents, context=part.context)
        return await do(work, piece)

    verdicts = await at_once(one, enumerate(parts, start=1))
    return _combined(parts, verdicts)


def _parts(work: Work, strategy: Map) -> Iterator[_Part]:
    match strategy.over:
        case "contexts":
            for context in strategy.contexts:
                name = ", ".join(f"{key}: {value}" for key, value in context.items())
                yield _Part(name=name, documents=work.inputs, context=context)
        case "inputs":
            for document in work.inputs:
                yield _Part(name=document.name, documents=(document,), context={})
        case _:
            for document in work.inputs:
                yield from _sections(document, strategy.section_tokens * TOKEN_CHARS)


def _sections(document: Document, chars: int) -> Iterator[_Part]:
    """Yield the parts of a document, cut where its headings, paragraphs or sentences end."""
    splitter = MarkdownSplitter if document.name.lower().endswith(".md") else TextSplitter
    texts = splitter(chars).chunks(document.text)
    for number, text in enumerate(texts, start=1):
        name = f"{document.name}, section {number} of {len(texts)}"
        yield _Part(name=name, documents=(Document(name=name, text=text),), context={})


def _combined(parts: Sequence[_Part], verdicts: Sequence[Verdict]) -> Verdict:
    named = [(part.name, verdict) for part, verdict in zip(parts, verdicts, strict=True)]
    if not any(verdict.text for verdict in verdicts):
        return Verdict(status="failed", problem=_problem(named))
    text = "\n\n".join(f"## {name}\n\n{verdict.text or '(nothing)'}" for name, verdict in named)
    values: list[JsonValue] = [
        {"part": name, "value": verdict.value}
        for name, verdict in named
        if verdict.value is not None
    ]
    combined = Verdict(status="succeeded", text=text, value=values or None)
    return combined.with_problem(problem) if (problem := _problem(named)) else combined


def _problem(named: Sequence[tuple[str, Verdict]]) -> str:
    """Return a sentence for each part that is not all it should be."""
    return " ".join(
        f"{name} {'is incomplete' if verdict.text else 'failed'}: {verdict.problem}"
        for name, verdict in named
        if verdict.status != "succeeded"
    )
