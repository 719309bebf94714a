"""Where names of a project are defined and used: searched for in the roots."""

import re
from collections.abc import Mapping, Sequence

from concertmaster.llm.messages import Request, ToolCall, ToolOutcome, WorkBrief
from concertmaster.llm.offline.answers import Answer
from concertmaster.llm.offline.lookups import READ, Hit, Lookup, hits, search_call
from concertmaster.llm.offline.outcomes import outcomes_of

ASKS = re.compile(
    r"\b(?:uses?|used|usages?|calls?|called|callers?|references?|referenced|defined|definitions?|"
    r"imported|importers?|mentions?|mentioned|occurrences?|implemented)\b",
    re.IGNORECASE,
)
"""How it is asked where something is."""

MOST_NAMES = 5
MOST_USES = 50
"""How many uses of a name are listed; how many more there are is said."""
DEFINITION_LINES = 12
MOST_DEFINITIONS = 3

_NAME = re.compile(
    r"`([A-Za-z_][\w.]*)(?:\(\))?`"
    r"|\b([A-Za-z_][\w.]*)(?=\(\))"
    r"|\b([a-z]\w*_\w+|[A-Z][a-z0-9]+[A-Z]\w*|[A-Z]+_[A-Z_]+)\b"
)
_DEFINES = (
    r"(?:[\w@]+\s+)*(?:def|class|function|func|fn|struct|interface|type|enum|trait|const|let|var)"
    r"\s+{name}\b|{name}\s*(?::[^=]*)?=[^=]"
)


def names_asked_for(text: str) -> list[str]:
    """Return the names of which a text asks where they are."""
    if not ASKS.search(text):
        return []
    found = [next(filter(None, match.groups())) for match in _NAME.finditer(text)]
    return list(dict.fromkeys(found))[:MOST_NAMES]


def find_uses(brief: WorkBrief, request: Request) -> Answer:
    """Return the tool calls that find what a subtask asks for or, once made, what they found."""
    names = names_asked_for(brief.objective) or names_asked_for(brief.task)
    if not names:
        return Answer.refused(
            f"The offline model cannot do the work of {brief.worker.name}, but for finding where "
            "a name is defined and used (“Where is `load_orders` used?”). For the rest, "
            "configure a language model (ANTHROPIC_API_KEY or CONCERTMASTER_API_KEY)."
        )
    done = outcomes_of(request.messages)
    searches = {
        name: search_call(number, Lookup(pattern=rf"\b{re.escape(name)}\b", files="**"))
        for number, name in enumerate(names, start=1)
    }
    found = {name: hits(done.get(call.id)) for name, call in searches.items()}
    reads = _reads(found)
    missing = [call for call in [*searches.values(), *reads.values()] if call.id not in done]
    if missing:
        return Answer(stop_reason="tool_use", tool_calls=tuple(missing))
    failed = [outcome.text for outcome in done.values() if outcome.failed]
    if failed and not any(found.values()):
        return Answer.refused(f"It could not be searched. {failed[0]}")
    shown = {hit: _block(done[call.id]) for hit, call in reads.items()}
    return Answer(text="\n\n".join(_report(name, found[name], shown) for name in names))


def _reads(found: Mapping[str, Sequence[Hit]]) -> dict[Hit, ToolCall]:
    """Return the calls that read the definitions."""
    definitions = [
        hit for name, lines in found.items() for hit in _split(name, lines)[0][:MOST_DEFINITIONS]
    ]
    return {
        hit: ToolCall(
            id=f"read-{number}",
            name=READ,
            arguments={"path": hit.file, "start_line": hit.line, "lines": DEFINITION_LINES},
        )
        for number, hit in enumerate(dict.fromkeys(definitions), start=1)
    }


def _split(name: str, lines: Sequence[Hit]) -> tuple[list[Hit], list[Hit]]:
    """Return the definitions of a name, and its uses."""
    defines = re.compile(_DEFINES.format(name=re.escape(name)))
    definitions = [hit for hit in lines if defines.match(hit.text)]
    return definitions, [hit for hit in lines if hit not in definitions]


def _block(outcome: ToolOutcome) -> str:
    """Return the lines that belong to the first: those that are further in."""
    if outcome.failed or not outcome.text:
        return ""
    first, *others = outcome.text.splitlines()
    margin = len(first) - len(first.lstrip())
    lines = [first]
    for line in others:
        inside = not line.strip() or len(line) - len(line.lstrip()) > margin
        if not inside and line.strip()[0] not in ")]}":
            break
        lines.append(line)
    return "\n".join(line[margin:] for line in lines).rstrip()


def _report(name: str, lines: Sequence[Hit], shown: Mapping[Hit, str]) -> str:
    definitions, uses = _split(name, lines)
    if not lines:
        return f"### `{name}`\n\nNo file that may be read mentions it."
    files = len({hit.file for hit in uses})
    parts = [f"### `{name}`: {_count(len(uses), 'use')} in {_count(files, 'file')}"]
    for hit in definitions:
        block = shown.get(hit, "")
        fence = "```" if "```" not in block else "~~~~"
        parts.append(
            f"Defined in {hit.file}:{hit.line}"
            + (f":\n\n{fence}\n{block}\n{fence}" if block else ".")
        )
    items = [f"- {hit.file}:{hit.line} — `{hit.text.replace('`', chr(39))}`" for hit in uses]
    if len(items) > MOST_USES:
        items[MOST_USES:] = [f"- {len(items) - MOST_USES} more"]
    return "\n\n".join([*parts, *filter(None, ["\n".join(items)])])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
