"""Texts of others, marked as data."""

import hashlib
import re
from xml.sax.saxutils import quoteattr


def fence(kind: str, name: str, text: str) -> str:
    """Return `text` as an XML-like element of data, called `kind` and a boundary.

    The boundary is taken from a hash of the content: the same content is always fenced
    the same, so that prompts can be cached, and a text that is to close its own element
    would have to contain its own hash.
    """
    digest = hashlib.sha256("\0".join((kind, name, text)).encode()).hexdigest()
    tag = f"{kind}-{digest[:16]}"
    return f"<{tag} name={quoteattr(name)}>\n{text}\n</{tag}>"


_FENCED = re.compile(
    r"<(?P<tag>[a-z-]+-[0-9a-f]{16}) [^\n]*>\n(?P<text>.*)\n</(?P=tag)>", re.DOTALL
)


def unfenced(text: str) -> str:
    """Return a text without the fence that it begins with, if it begins with one."""
    found = _FENCED.match(text)
    return text if found is None else found["text"] + text[found.end() :]
