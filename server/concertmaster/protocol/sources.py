"""What runs and their results cite, as a client is told of it."""

from collections.abc import Iterable, Sequence

from concertmaster.llm.server_tools import Source
from concertmaster.protocol.lines import one_line
from concertmaster.runs.state import RunState

ADDRESS_CHARS = 500


def sources_of(state: RunState) -> tuple[Source, ...]:
    """Return what the results of a run cite, each address once."""
    results = (item.result for item in state.subtasks.values())
    by_address: dict[str, Source] = {}
    for result in results:
        for source in result.sources if result is not None else ():
            by_address.setdefault(source.url, source)
    return tuple(by_address.values())


def shortened(sources: Sequence[Source], most: int, chars: int) -> tuple[Source, ...]:
    """Return the first of some sources, with texts of at most so many characters."""
    return tuple(
        Source(
            url=one_line(source.url, ADDRESS_CHARS),
            title=one_line(source.title, chars),
            cited=one_line(source.cited, chars),
        )
        for source in sources[:most]
    )


def listed(sources: Iterable[Source]) -> str:
    """Return sources as a Markdown list with a title; nothing if there are none."""
    lines = "\n".join(f"- {source.line}" for source in sources)
    return f"Sources:\n\n{lines}" if lines else ""


def cited_answer(state: RunState) -> str:
    """Return the answer of a run, with what it rests on where it is no JSON."""
    if state.value is not None:
        return state.answer
    return "\n\n".join(filter(None, [state.answer, listed(sources_of(state))]))
