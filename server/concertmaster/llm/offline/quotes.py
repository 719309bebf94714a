"""How extracts from documents are quoted."""

from concertmaster.llm.offline.passages import Sentence

QUOTE_CHARS = 320
"""The longest quotation; what is left out is marked."""

SHOWN = 60
"""Lines of one list; how many more there are is said."""


def quoted(sentence: Sentence, around: int = 0, *, chars: int = QUOTE_CHARS) -> str:
    """Return a sentence in quotation marks, with its place; of a long one, the part at `around`."""
    return f"{quotation(sentence, around, chars=chars)} ({sentence.place})"


def quotation(sentence: Sentence, around: int = 0, *, chars: int = QUOTE_CHARS) -> str:
    """Return a sentence in quotation marks; of a long one, the part at `around`."""
    text = sentence.text
    if len(text) <= chars:
        return f"“{text}”"
    begin = max(0, min(around - chars // 2, len(text) - chars))
    begin = text.rfind(" ", 0, begin) + 1
    end = text.find(" ", begin + chars)
    end = len(text) if end < 0 else end
    return f"“{'… ' if begin else ''}{text[begin:end]}{' …' if end < len(text) else ''}”"


def listed(lines: list[str]) -> str:
    """Return lines as a Markdown list, cut where it gets too long."""
    shown = [line if line.lstrip().startswith("- ") else f"- {line}" for line in lines[:SHOWN]]
    if len(lines) > SHOWN:
        shown.append(f"- … and {len(lines) - SHOWN} more")
    return "\n".join(shown)


def section(title: str, name: str, *parts: str) -> str:
    """Return a part of a reply: a heading with the document's name, and its contents."""
    contents = [part for part in parts if part] or ["Nothing of this kind was found."]
    return "\n\n".join([f"### {title}: {name}", *contents])


def group(title: str, lines: list[str]) -> str:
    """Return a titled list, or nothing where it has no lines."""
    return f"**{title}**\n\n{listed(lines)}" if lines else ""
