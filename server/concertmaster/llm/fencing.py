"""Texts of others, marked as data."""

import hashlib
import json
import re


def quoted(name: str) -> str:
    """Return a name as a JSON string in one line, which no name can end or break.

    Nothing that is not printed or turns the direction of text, and no angle bracket, stands in
    it as itself.
    """
    text = json.dumps(name, ensure_ascii=False)
    return "".join(
        char if char.isprintable() and char not in "<>" else _escaped(char) for char in text
    )


def _escaped(char: str) -> str:
    text = json.dumps(char)[1:-1]
    return text if len(text) > 1 else f"\\u{ord(char):04x}"


def spelled(name: str) -> str:
    """Return a name as it is where it stands in a line of its own, or quoted if it would not."""
    plain = name.isprintable() and name == name.strip() and not name.startswith('"')
    return name if plain and name else quoted(name)


def fence(kind: str, name: str, text: str) -> str:
    """Return `text` as an XML-like element of data, called `kind` and a boundary.

    The boundary is taken from a hash of the content: the same content is always fenced
    the same, so that prompts can be cached, and a text that is to close its own element
    would have to contain its own hash.
    """
    digest = hashlib.sha256("\0".join((kind, name, text)).encode()).hexdigest()
    tag = f"{kind}-{digest[:16]}"
    return f"<{tag} name={quoted(name)}>\n{text}\n</{tag}>"


_FENCED = re.compile(
    r"<(?P<tag>[a-z-]+-[0-9a-f]{16}) [^\n]*>\n(?P<text>.*)\n</(?P=tag)>", re.DOTALL
)


def unfenced(text: str) -> str:
    """Return a text without the fence that it begins with, if it begins with one."""
    found = _FENCED.match(text)
    return text if found is None else found["text"] + text[found.end() :]
